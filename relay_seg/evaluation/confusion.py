"""Metrics from exact counts of pixels."""
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor


def confusion_matrix(pred: Tensor, label: Tensor, num_classes: int,
                     ignore_index: int = 255) -> Tensor:
    """Count pixels by true and by predicted class.

    Args:
        pred: Predicted class ids, any shape.
        label: True class ids of the same shape.
        num_classes: C.
        ignore_index: Id in ``label`` that does not count.

    Returns:
        (C, C) int64, rows by truth, columns by prediction.
    """
    valid = label != ignore_index
    index = label[valid].long() * num_classes + pred[valid].long()
    counts = torch.bincount(index, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, F1, precision and recall of each class, as shares.

    Args:
        matrix: Counts, (C, C), rows by truth.

    Returns:
        (C,) each. A class that is neither true nor predicted anywhere is
        NaN; one that is only the one or the other scores 0.
    """
    hit = np.diag(matrix).astype(np.float64)
    true, predicted = matrix.sum(1), matrix.sum(0)
    seen = np.where(true + predicted > 0, 1., np.nan)
    return dict(
        IoU=seen * hit / np.maximum(true + predicted - hit, 1),
        F1=seen * 2 * hit / np.maximum(true + predicted, 1),
        Precision=seen * hit / np.maximum(predicted, 1),
        Recall=seen * hit / np.maximum(true, 1))


@METRICS.register_module()
class ConfusionMetric(BaseMetric):
    """mIoU, mF1 and aAcc in percent, from 64-bit counts over all scenes.

    Means are over the classes that are true or predicted somewhere. A class
    that is never predicted has an F1 of 0, where the host's ``IoUMetric``
    leaves it out of the mean.

    Args:
        ignore_index: Label id that does not count.
        collect_device: Device on which processes collect, as in the host.
        prefix: Put before the names of the metrics.
    """

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one matrix for each scene, so that each counts once."""
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data'].squeeze()
            label = sample['gt_sem_seg']['data'].squeeze().to(pred.device)
            matrix = confusion_matrix(pred, label, num_classes,
                                      self.ignore_index)
            self.results.append(matrix.cpu().numpy())

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        matrix = np.sum(results, axis=0)
        by_class = scores(matrix)
        table = PrettyTable(['Class', *by_class])
        for i, name in enumerate(self.dataset_meta['classes']):
            table.add_row([
                name, *(f'{100 * values[i]:.2f}'
                        for values in by_class.values())])
        MMLogger.get_current_instance().info(f'per class:\n{table}')
        return dict(
            mIoU=100 * float(np.nanmean(by_class['IoU'])),
            mF1=100 * float(np.nanmean(by_class['F1'])),
            aAcc=100 * float(np.diag(matrix).sum() / max(matrix.sum(), 1)))
