"""Losses of the host's heads, without waiting for the device."""
import torch
from mmengine.config import ConfigDict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from relay_seg.structures import view_labels

#: Of the host: keeps the share of right pixels finite where none counts.
EPS = torch.finfo(torch.float32).eps


def head_losses(head: BaseDecodeHead, logits: Tensor,
                data_samples: list[SegDataSample]) -> dict[str, Tensor]:
    """What ``loss_by_feat`` of a head gives.

    The host's own indexes with masks, to count right pixels for the log: the
    size of the result has to come from the device. A head that has another
    ``loss_by_feat`` keeps it.

    Args:
        head: With its losses.
        logits: Of the local views, (B, C, h, w).
        data_samples: With their labels.
    """
    if type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat:
        return head.loss_by_feat(logits, data_samples)
    label = view_labels(data_samples, 0)  # (B, H, W)
    logits = resize(logits, label.shape[-2:], mode='bilinear',
                    align_corners=head.align_corners)
    weight = None
    if head.sampler is not None:
        weight = head.sampler.sample(logits, label[:, None])
    several = isinstance(head.loss_decode, nn.ModuleList)
    losses: dict[str, Tensor] = {}
    for loss in head.loss_decode if several else [head.loss_decode]:
        value = loss(logits, label, weight=weight,
                     ignore_index=head.ignore_index)
        losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
    losses['acc_seg'] = accuracy(
        logits, label, head.ignore_index, head.threshold)
    return losses


@torch.no_grad()
def accuracy(logits: Tensor, label: Tensor, ignore_index: int,
             threshold: float = 0.5) -> Tensor:
    """Per cent of valid pixels of which the model says the right class.

    Args:
        logits: (B, C, H, W); the largest decides, or one the threshold.
        label: Class ids, (B, H, W).
        ignore_index: Id in ``label`` that does not count.
        threshold: Chance above which one logit says the second class.
    """
    valid = label != ignore_index
    if logits.shape[1] > 1:
        said = logits.argmax(dim=1)
    else:
        said = (logits[:, 0].sigmoid() > threshold).long()
    right = (said == label) & valid
    return 100 * (right.sum() + EPS) / (valid.sum() + EPS)


class HeadLosses:
    """A segmentor of the host with :func:`head_losses`, as base class."""
    decode_head: BaseDecodeHead
    auxiliary_head: BaseDecodeHead | nn.ModuleList
    train_cfg: ConfigDict | None

    def _decode_head_forward_train(
            self, inputs: list[Tensor],
            data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        losses = self._losses_of(self.decode_head, inputs, data_samples)
        return add_prefix(losses, 'decode')

    def _auxiliary_head_forward_train(
            self, inputs: list[Tensor],
            data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        head = self.auxiliary_head
        if not isinstance(head, nn.ModuleList):
            return add_prefix(
                self._losses_of(head, inputs, data_samples), 'aux')
        losses = {}
        for i, one in enumerate(head):
            losses.update(add_prefix(
                self._losses_of(one, inputs, data_samples), f'aux_{i}'))
        return losses

    def _losses_of(self, head: BaseDecodeHead, inputs: list[Tensor],
                   data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        if type(head).loss is not BaseDecodeHead.loss:
            return head.loss(inputs, data_samples, self.train_cfg)
        return head_losses(head, head(inputs), data_samples)
