"""Other ways to bring context, on the same data path and host backbones."""
from copy import deepcopy

import torch.nn.functional as F
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.utils import add_prefix
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.structures import view_labels
from relay_seg.views import Views, area_mean, center

TOKEN = 16  # pixels of a token of the last stage


class WindowLogits(SlideEncoderDecoder):
    """Segmentors that say how logits of a window come about, and no more."""

    def network(self, view: Tensor) -> Tensor:
        """Backbone, neck and head on one view: logits of its size."""
        logits = self.decode_head(self.extract_feat(view))
        return self.enlarged(logits, view.shape[-2:])

    def enlarged(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(logits, size, mode='bilinear',
                      align_corners=self.align_corners)

    def window_logits(self, views: Views,
                      size: tuple[int, int] | None = None) -> Tensor:
        logits = self.logits_of(views)
        return self.enlarged(logits, size or logits.shape[-2:])

    def loss(self, inputs: Views, data_samples: list) -> dict:
        return self.losses_of(self.logits_of(inputs), data_samples)

    def losses_of(self, logits: Tensor, data_samples: list) -> dict:
        return add_prefix(
            self.decode_head.loss_by_feat(logits, data_samples), 'decode')

    def encode_decode(self, inputs: Views, batch_img_metas: list) -> Tensor:
        return self.logits_of(inputs)


@MODELS.register_module()
class GlobalOnly(WindowLogits):
    """Sees the global view and enlarges the middle of its logits.

    All of its logits are trained, as those of a relay model are.

    Args:
        loss_global: A ``GlobalViewLoss``.
        kwargs: Those of the host's ``EncoderDecoder``.
    """

    def __init__(self, loss_global: dict = dict(type='GlobalViewLoss'),
                 **kwargs) -> None:
        super().__init__(**kwargs)
        self.loss_global = MODELS.build(loss_global)

    def logits_of(self, views: Views) -> Tensor:
        return self.middle(self.network(self.finish(views)[1]))

    def middle(self, logits: Tensor) -> Tensor:
        return self.enlarged(center(logits, self.contexts[0].factor),
                             logits.shape[-2:])

    def loss(self, inputs: Views, data_samples: list) -> dict:
        logits = self.network(self.finish(inputs)[1])
        return {
            **self.losses_of(self.middle(logits), data_samples),
            'loss_global': self.loss_global(
                logits, view_labels(data_samples, 1),
                self.contexts[0])}


@MODELS.register_module()
class DecisionFusion(WindowLogits):
    """Two networks, one for each view, whose logits are added.

    A baseline of the authors (Relay Tokens, TMLR 2026).
    """

    def __init__(self, context_factors, **kwargs) -> None:
        super().__init__(context_factors=context_factors, **kwargs)
        self.of_global_view = GlobalOnly(
            context_factors=context_factors, **deepcopy(kwargs))

    def logits_of(self, views: Views) -> Tensor:
        local, wide = self.finish(views)
        return self.network(local) + self.of_global_view.middle(
            self.of_global_view.network(wide))

    def loss(self, inputs: Views, data_samples: list) -> dict:
        local, wide = self.finish(inputs)
        other = self.of_global_view
        logits = other.network(wide)
        return {
            **self.losses_of(self.network(local) + other.middle(logits),
                             data_samples),
            'loss_global': other.loss_global(
                logits, view_labels(data_samples, 1),
                self.contexts[0])}


@MODELS.register_module()
class Reduced(WindowLogits):
    """Sees the image reduced by a factor, usually whole.

    Sides are padded to whole tokens, and logits cropped.

    Args:
        factor: Reduction of the image.
        kwargs: Those of ``PlainEncoderDecoder``.
    """

    def __init__(self, factor: int, **kwargs) -> None:
        super().__init__(context_factors=(), **kwargs)
        self.factor = factor

    def logits_of(self, views: Views) -> Tensor:
        view, = self.finish(views)
        height, width = view.shape[-2:]
        step = self.factor * TOKEN
        padded = F.pad(view, (0, -width % step, 0, -height % step),
                       mode='replicate')
        logits = self.enlarged(self.network(area_mean(padded, self.factor)),
                               padded.shape[-2:])
        return logits[..., :height, :width]
