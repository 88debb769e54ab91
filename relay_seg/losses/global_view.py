"""Losses that train the global branch and tie it to the local one."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.class_ids import IGNORE
from relay_seg.views import Context, area_mean, center

from .class_weights import (
    check_class_weights,
    read_class_weight,
    weights_like,
)


def soft_labels(label: Tensor, num_classes: int, reduction: int, *,
                dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Share of each class under each pixel of a global view.

    Args:
        label: Class ids in native pixels, (B, r*H, r*W); 255 is ignored.
        num_classes: C.
        reduction: r.
        dtype: Type of the shares.

    Returns:
        Shares, (B, C, H, W), that sum to one where no pixel is ignored, and
        a mask (B, H, W) of these places.
    """
    shares = [area_mean((label == i).to(dtype), reduction)
              for i in range(num_classes)]
    valid = area_mean((label == IGNORE).to(dtype), reduction) == 0
    return torch.stack(shares, dim=1), valid


def class_logits(logits: Tensor) -> Tensor:
    """Logits of each class; of one logit, the second class, two.

    Their softmax is what the sigmoid says.
    """
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against class shares: (B, C, H, W) twice to (B, H, W)."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def masked_mean(values: Tensor, mask: Tensor, over_all: bool) -> Tensor:
    """Sum of the valid values over their number, or over that of all.

    Zero if nothing is valid.
    """
    count = mask.numel() if over_all else mask.sum().clamp(min=1)
    return values.where(mask, 0).sum() / count


def weighted_mean(logits: Tensor, target: Tensor, mask: Tensor,
                  weights: Tensor) -> Tensor:
    """Cross-entropy against class shares, each class with its weight.

    For shares of 0 and 1 PyTorch's own with weights; zero if nothing is
    valid.

    Args:
        logits: (B, C, H, W).
        target: Shares, (B, C, H, W). The divisor depends on them, too, and
            has a gradient: else classes with large weights would cost less
            where the shares avoid them.
        mask: Cells that count, (B, H, W).
        weights: Weight of each class, C.
    """
    weighted = target * weights[:, None, None]
    weighted = weighted.where(mask[:, None], 0)
    total = weighted.sum()
    costs = soft_cross_entropy(logits, weighted)
    return costs.sum() / total.where(total > 0, 1)


@MODELS.register_module()
class GlobalViewLoss(nn.Module):
    """Cross-entropy of global logits against the class shares below them.

    Args:
        loss_weight: Weight in the total (0.1 in Relay Tokens, TMLR 2026).
        extent: 'full' looks at the whole global view (the paper's figure),
            'center' only at the part that the local view shows (the
            authors' released code).
        avg_non_ignore: Mean over cells without ignored pixels; else their
            sum over the number of all cells (the authors' released code).
        class_weight: Weight of each class in the order of the data set, or
            a file that the host reads them from; the mean is over the
            weights, so it needs ``avg_non_ignore``. None weighs all alike.
    """

    def __init__(self, loss_weight: float = 0.1, extent: str = 'full',
                 avg_non_ignore: bool = True,
                 class_weight: Sequence[float] | str | None = None) -> None:
        super().__init__()
        if extent not in ('full', 'center'):
            raise ValueError(f"extent={extent!r}; use 'full' or 'center'.")
        if class_weight is not None and not avg_non_ignore:
            raise ValueError(
                'class_weight asks for a mean over the weights of valid '
                'cells, avg_non_ignore=False for one over the number of all '
                'cells; leave out one of them.')
        self.loss_weight = loss_weight
        self.extent = extent
        self.avg_non_ignore = avg_non_ignore
        self.class_weight = read_class_weight(class_weight)

    def forward(self, logits: Tensor, label: Tensor,
                context: Context) -> Tensor:
        """Loss of one global view.

        Args:
            logits: Of the global view, (B, C, H, W); C is 1 for one logit of
                two classes.
            label: Class ids in native pixels: of the whole global view,
                (B, k*H, k*W), for ``extent='full'``; of the local view,
                (B, H, W), for 'center'.
            context: Which view.
        """
        logits = class_logits(logits)
        check_class_weights(self, logits.shape[1])
        if self.extent == 'center':
            logits = center(logits, context.factor)
        target, valid = soft_labels(
            label, logits.shape[1], context.reduction, dtype=logits.dtype)
        weights = weights_like(self, logits)
        if weights is not None:
            return self.loss_weight * weighted_mean(
                logits, target, valid, weights)
        loss = soft_cross_entropy(logits, target)
        return self.loss_weight * masked_mean(loss, valid,
                                              not self.avg_non_ignore)


@MODELS.register_module()
class AgreementLoss(nn.Module):
    """Cross-entropy of the centre of global logits against the local ones.

    The target is the local softmax, averaged over the local pixels under a
    global one. Gradients flow into both branches.

    Args:
        loss_weight: Weight in the total (0.1 in Relay Tokens, TMLR 2026).
        mask_ignored: Leave out cells with an ignored pixel; else all count
            (the authors' released code).
        class_weight: Weight of each class, as for :class:`GlobalViewLoss`;
            the mean is over the weights of the cells that count.
    """

    def __init__(self, loss_weight: float = 0.1, mask_ignored: bool = True,
                 class_weight: Sequence[float] | str | None = None) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.mask_ignored = mask_ignored
        self.class_weight = read_class_weight(class_weight)

    def forward(self, local_logits: Tensor, global_logits: Tensor,
                label: Tensor, context: Context) -> Tensor:
        """Loss of one global view.

        Args:
            local_logits: (B, C, H, W); C is 1 for one logit of two classes.
            global_logits: Of the global view, of its size.
            label: Class ids of the local view, (B, H, W).
            context: Which view.
        """
        local_logits = class_logits(local_logits)
        global_logits = class_logits(global_logits)
        check_class_weights(self, local_logits.shape[1])
        reduction = context.reduction
        target = area_mean(local_logits.softmax(dim=1), reduction)
        logits = center(global_logits, context.factor)
        valid = torch.ones_like(target[:, 0], dtype=torch.bool)
        if self.mask_ignored:
            valid = F.max_pool2d(
                (label == IGNORE).to(target.dtype)[:, None],
                reduction)[:, 0] == 0
        weights = weights_like(self, logits)
        if weights is not None:
            return self.loss_weight * weighted_mean(
                logits, target, valid, weights)
        loss = soft_cross_entropy(logits, target)
        return self.loss_weight * masked_mean(loss, valid, False)
