"""Other ways to bring context, on the same data path and host backbones."""
from copy import deepcopy

from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views, area_mean, center


class WindowLogits(SlideEncoderDecoder):
    """Segmentors that say how logits of a window come about, and no more."""

    def network(self, view: Tensor) -> Tensor:
        """Backbone, neck and head on one view: logits of its size."""
        logits = self.decode_head(self.extract_feat(view))
        return self.enlarged(logits, view.shape[-2:])

    def enlarged(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(logits, size, mode='bilinear',
                      align_corners=self.align_corners)

    def loss(self, inputs: Views, data_samples: list) -> dict:
        logits = self.window_logits(inputs)
        losses = self.decode_head.loss_by_feat(logits, data_samples)
        return {f'decode.{name}': value for name, value in losses.items()}

    def encode_decode(self, inputs: Views, batch_img_metas: list) -> Tensor:
        return self.window_logits(inputs)


@MODELS.register_module()
class GlobalOnly(WindowLogits):
    """Sees the global view and enlarges the middle of its logits."""

    def window_logits(self, views: Views) -> Tensor:
        _, wide = self.finish(views)
        return self.enlarged(
            center(self.network(wide), self.context_factors[0]),
            wide.shape[-2:])


@MODELS.register_module()
class DecisionFusion(WindowLogits):
    """Two networks, one for each view, whose logits are added.

    A baseline of the authors (Relay Tokens, TMLR 2026).
    """

    def __init__(self, context_factors, **kwargs) -> None:
        super().__init__(context_factors=context_factors, **kwargs)
        self.of_global_view = GlobalOnly(
            context_factors=context_factors, **deepcopy(kwargs))

    def window_logits(self, views: Views) -> Tensor:
        local, _ = self.finish(views)
        return self.network(local) + self.of_global_view.window_logits(views)


@MODELS.register_module()
class Reduced(WindowLogits):
    """Sees the image reduced by a factor, usually whole.

    Args:
        factor: Reduction of the image.
        kwargs: Those of ``PlainEncoderDecoder``.
    """

    def __init__(self, factor: int, **kwargs) -> None:
        super().__init__(context_factors=(), **kwargs)
        self.factor = factor

    def window_logits(self, views: Views) -> Tensor:
        view, = self.finish(views)
        return self.enlarged(
            self.network(area_mean(view, self.factor)), view.shape[-2:])
