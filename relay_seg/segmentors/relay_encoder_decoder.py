from collections.abc import Sequence

import torch
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor

from relay_seg.losses import check_class_weights
from relay_seg.precision import at_least_fp32
from relay_seg.structures import view_labels
from relay_seg.views import Pyramid, Views

from .head_losses import HeadLosses, head_losses
from .slide import SlideEncoderDecoder


@MODELS.register_module()
class RelayEncoderDecoder(HeadLosses, SlideEncoderDecoder):
    """Segmentor that looks at each window and at its surroundings.

    The backbone turns views into one pyramid each; neck and head are shared.
    The loss is the head's own on the local view, plus the losses of each
    global view (Relay Tokens, TMLR 2026).

    Args:
        context_factors: Context factor k of each global view, increasing;
            the backbone needs ``num_views`` of one more.
        loss_global: A ``GlobalViewLoss``, or None.
        loss_agree: An ``AgreementLoss``, or None.
        kwargs: Those of the host's ``EncoderDecoder``.
    """

    def __init__(self,
                 context_factors: Sequence[int] = (4, ),
                 loss_global: dict | None = dict(type='GlobalViewLoss'),
                 loss_agree: dict | None = dict(type='AgreementLoss'),
                 **kwargs) -> None:
        super().__init__(context_factors=context_factors, **kwargs)
        num_views = 1 + len(self.context_factors)
        found = getattr(self.backbone, 'num_views', None)
        if found != num_views:
            raise ValueError(
                f'context_factors={self.context_factors} make {num_views} '
                f'views but {type(self.backbone).__name__} has num_views='
                f'{found}; use a relay backbone and set it to {num_views}.')
        self.loss_global = MODELS.build(loss_global) if loss_global else None
        self.loss_agree = MODELS.build(loss_agree) if loss_agree else None
        for loss in filter(None, (self.loss_global, self.loss_agree)):
            check_class_weights(loss, self.num_classes)

    def extract_feat(self, inputs: Views) -> Pyramid:
        """Feature maps of the local view."""
        local = self.backbone(self.finish(inputs))[0]
        return self.neck(local) if self.with_neck else local

    def extract_all(self, views: Views) -> Pyramid:
        """Feature maps of all views, stacked on the batch axis.

        Batch norms of neck and head thus see the same mixture in training
        for all views.
        """
        levels = zip(*self.backbone(self.finish(views)))
        stacked = tuple(torch.cat(level) for level in levels)
        return self.neck(stacked) if self.with_neck else stacked

    def loss(self, inputs: Views, data_samples: list[SegDataSample]) -> dict:
        """Losses of a batch of windows.

        Args:
            inputs: Views, local first, each (B, C, H, W).
            data_samples: With the labels of all views, see
                :mod:`relay_seg.structures`.
        """
        features = self.extract_all(inputs)
        logits = at_least_fp32(self.decode_head(features)).chunk(len(inputs))
        logits = tuple(
            resize(x, inputs[0].shape[-2:], mode='bilinear',
                   align_corners=self.align_corners) for x in logits)
        losses = add_prefix(
            head_losses(self.decode_head, logits[0], data_samples), 'decode')
        if self.with_auxiliary_head:
            local = [level.chunk(len(inputs))[0] for level in features]
            losses.update(
                self._auxiliary_head_forward_train(local, data_samples))
        losses.update(self._global_losses(logits, data_samples))
        return losses

    def _global_losses(self, logits: Sequence[Tensor],
                       data_samples: list[SegDataSample]) -> dict:
        local_logits, *global_logits = logits
        label = view_labels(data_samples, 0)
        losses = {}
        for i, (factor, x) in enumerate(
                zip(self.context_factors, global_logits), start=1):
            suffix = f'_{i}' if len(global_logits) > 1 else ''
            if self.loss_global is not None:
                full = self.loss_global.extent == 'full'
                target = view_labels(data_samples, i) if full else label
                losses['loss_global' + suffix] = self.loss_global(
                    x, target, factor)
            if self.loss_agree is not None:
                losses['loss_agree' + suffix] = self.loss_agree(
                    local_logits, x, label, factor)
        return losses
