import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor

from relay_seg.precision import at_least_fp32

from .class_weights import (
    check_class_weights,
    read_class_weight,
    weights_like,
)

#: Of the host: the divisor where no pixel is valid.
EPS = torch.finfo(torch.float32).eps


@MODELS.register_module()
class CheckedCrossEntropyLoss(CrossEntropyLoss):
    """The host's cross-entropy, which also takes weights of classes.

    The host's own fails where ``class_weight`` meets ``avg_non_ignore``, and
    with the latter waits for the device, to count pixels. Here the mean is
    PyTorch's: over valid pixels, each with the weight of its class, and zero
    if no pixel is valid. One logit of two classes (``out_channels=1``, with
    ``use_sigmoid``) has one weight, that of the second class. Weights of
    pixels, such as those of OHEM, scale the costs but not the divisor, as in
    the host.

    Args:
        class_weight: Weight of each class in the order of the data set, or
            a file that the host reads them from.
        kwargs: Those of the host's ``CrossEntropyLoss``.
    """

    def __init__(self, class_weight: list[float] | str | None = None,
                 **kwargs) -> None:
        super().__init__(
            class_weight=read_class_weight(class_weight), **kwargs)

    def forward(self, cls_score: Tensor, label: Tensor,
                weight: Tensor | None = None,
                avg_factor: float | None = None,
                reduction_override: str | None = None,
                ignore_index: int = -100, **kwargs) -> Tensor:
        """Loss of a batch.

        Args:
            cls_score: Logits, (B, C, H, W).
            label: Class ids, (B, H, W).
            weight: Weight of each pixel, (B, H, W), or None.
            avg_factor: As in the host.
            reduction_override: As in the host.
            ignore_index: Id in ``label`` that does not count.
            kwargs: As in the host.
        """
        check_class_weights(self, cls_score.shape[1])
        mean = (reduction_override or self.reduction) == 'mean'
        one_logit = cls_score.shape[1] == 1
        if one_logit and not self.use_sigmoid:
            raise ValueError(
                'out_channels=1 makes one logit of two classes, which '
                'use_sigmoid=False cannot learn from; set use_sigmoid=True '
                'in loss_decode, or leave out out_channels.')
        if (self.use_mask or not self.avg_non_ignore or not mean
                or avg_factor is not None
                or (self.use_sigmoid and not one_logit)):
            return super().forward(
                cls_score, label, weight, avg_factor, reduction_override,
                ignore_index, **kwargs)
        logits = at_least_fp32(cls_score)
        weights = weights_like(self, logits)
        valid = label != ignore_index
        if one_logit:
            costs = F.binary_cross_entropy_with_logits(
                logits[:, 0], (label == 1).to(logits), reduction='none',
                pos_weight=weights).where(valid, 0)
        else:
            costs = F.cross_entropy(logits, label, weights, reduction='none',
                                    ignore_index=ignore_index)
        if weight is not None:
            costs = costs * weight
        if weights is None or one_logit:
            total = valid.sum().to(logits) + EPS
        else:
            total = weights[label.where(valid, 0)].where(valid, 0).sum()
            total = total.where(total > 0, 1)
        return self.loss_weight * (costs.sum() / total)
