from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from relay_seg.losses import check_class_weights
from relay_seg.precision import at_least_fp32
from relay_seg.structures import view_labels
from relay_seg.views import Pyramid, Views, as_size, view_sizes

from .head_losses import HeadLosses, head_losses
from .slide import SlideEncoderDecoder


def alike(pyramids: Sequence[Pyramid]) -> list[list[Pyramid]]:
    """Runs of neighbours of one size. (A compiler does not know groupby.)"""
    groups: list[list[Pyramid]] = []
    for maps in pyramids:
        if groups and groups[-1][0][0].shape == maps[0].shape:
            groups[-1].append(maps)
        else:
            groups.append([maps])
    return groups


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms that normalise as ever and learn no statistics."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


@MODELS.register_module()
class RelayEncoderDecoder(HeadLosses, SlideEncoderDecoder):
    """Segmentor that looks at each window and at its surroundings.

    The backbone turns views into one pyramid each; neck and head are shared.
    The loss is the head's own on the local view, plus the losses of each
    global view (Relay Tokens, TMLR 2026).

    Args:
        context_factors: Context factor k of each global view, increasing;
            the backbone needs ``num_views`` of one more.
        context_reductions: Side of a pixel of each of them, in local pixels;
            as large as the factors by default, so that all views have as
            many pixels. Twice as large they cost a quarter.
        loss_global: A ``GlobalViewLoss``, or None.
        loss_agree: An ``AgreementLoss``, or None.
        kwargs: Those of the host's ``EncoderDecoder``.
    """

    def __init__(self,
                 context_factors: Sequence[int] = (4, ),
                 context_reductions: Sequence[int] | None = None,
                 loss_global: dict | None = dict(type='GlobalViewLoss'),
                 loss_agree: dict | None = dict(type='AgreementLoss'),
                 **kwargs) -> None:
        super().__init__(context_factors=context_factors,
                         context_reductions=context_reductions, **kwargs)
        num_views = 1 + len(self.contexts)
        found = getattr(self.backbone, 'num_views', None)
        if found != num_views:
            raise ValueError(
                f'context_factors={tuple(context_factors)} make {num_views} '
                f'views but {type(self.backbone).__name__} has num_views='
                f'{found}; use a relay backbone and set it to {num_views}.')
        self.loss_global = MODELS.build(loss_global) if loss_global else None
        self.loss_agree = MODELS.build(loss_agree) if loss_agree else None
        for loss in filter(None, (self.loss_global, self.loss_agree)):
            check_class_weights(loss, self.num_classes)

    def extract_feat(self, inputs: Views) -> Pyramid:
        """Feature maps of the local view."""
        local, = self.backbone(self.finish(inputs), local_only=True)
        return self.neck(local) if self.with_neck else local

    def loss(self, inputs: Views, data_samples: list[SegDataSample]) -> dict:
        """Losses of a batch of windows.

        Args:
            inputs: Views, local first, each (B, C, H, W).
            data_samples: With the labels of all views, see
                :mod:`relay_seg.structures`.
        """
        self._check_sizes(inputs)
        local_only = self.loss_global is None and self.loss_agree is None
        features, logits = self._all_logits(
            self.backbone(self.finish(inputs), local_only=local_only))
        logits = [
            resize(at_least_fp32(x), view.shape[-2:], mode='bilinear',
                   align_corners=self.align_corners)
            for x, view in zip(logits, inputs)]
        losses = add_prefix(
            head_losses(self.decode_head, logits[0], data_samples), 'decode')
        if self.with_auxiliary_head:
            losses.update(
                self._auxiliary_head_forward_train(
                    list(features), data_samples))
        if not local_only:
            losses.update(self._global_losses(logits, data_samples))
        return losses

    def _check_sizes(self, views: Views) -> None:
        local, *_ = sizes = [as_size(view.shape[-2:]) for view in views]
        if sizes != view_sizes(local, self.contexts):
            raise ValueError(
                f'views of {sizes} pixels are not those of the model, '
                f'{view_sizes(local, self.contexts)}; give the data set the '
                'context_factors and context_reductions of the model.')

    def _all_logits(self, pyramids: Sequence[Pyramid]
                    ) -> tuple[Pyramid, list[Tensor]]:
        """Features of the local view, and logits of all.

        Views of one size pass neck and head as one batch, so that batch
        norms see the same mixture for all of them. Views of another size
        than the local one are a batch of their own, of which the running
        statistics, which a test takes for local views, learn nothing.

        Args:
            pyramids: Of each view, from the backbone.
        """
        features: Pyramid = ()
        logits: list[Tensor] = []
        for group in alike(pyramids):
            stacked = tuple(map(torch.cat, zip(*group)))
            with kept_statistics(self) if logits else nullcontext():
                stacked = self.neck(stacked) if self.with_neck else stacked
                results = self.decode_head(stacked).chunk(len(group))
            if not logits:
                features = tuple(
                    level.chunk(len(group))[0] for level in stacked)
            logits += results
        return features, logits

    def _global_losses(self, logits: Sequence[Tensor],
                       data_samples: list[SegDataSample]) -> dict:
        local_logits, *global_logits = logits
        label = view_labels(data_samples, 0)
        losses = {}
        for i, (context, x) in enumerate(
                zip(self.contexts, global_logits), start=1):
            suffix = f'_{i}' if len(global_logits) > 1 else ''
            if self.loss_global is not None:
                full = self.loss_global.extent == 'full'
                target = view_labels(data_samples, i) if full else label
                losses['loss_global' + suffix] = self.loss_global(
                    x, target, context)
            if self.loss_agree is not None:
                losses['loss_agree' + suffix] = self.loss_agree(
                    local_logits, x, label, context)
        return losses
