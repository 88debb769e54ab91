"""Metrics from exact counts of pixels."""
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from relay_seg.class_ids import IGNORE

from .report import MetricReport, SceneCount, make_report, means

CHUNK = 2**22  # pixels counted at a time: their 64-bit indices take 32 MB


def confusion_matrix(pred: Tensor, label: Tensor, num_classes: int,
                     ignore_index: int = IGNORE) -> Tensor:
    """Count pixels by true and by predicted class.

    Args:
        pred: Predicted class ids, any shape.
        label: True class ids of the same shape; may be on another device.
        num_classes: C.
        ignore_index: Id in ``label`` that does not count.

    Returns:
        (C, C) int64, rows by truth, columns by prediction.

    Raises:
        ValueError: The shapes differ, or a pixel that counts has an id
            outside of 0 to C - 1.
    """
    if pred.shape != label.shape:
        raise ValueError(f'prediction {tuple(pred.shape)} and label '
                         f'{tuple(label.shape)} differ in shape.')
    size = num_classes**2
    # The last two: ignored, and ids that are of no class.
    counts = torch.zeros(size + 2, dtype=torch.int64, device=pred.device)
    for p, t in zip(pred.reshape(-1).split(CHUNK),
                    label.reshape(-1).split(CHUNK)):
        t, p = t.to(p.device).long(), p.long()
        known = ((t >= 0) & (t < num_classes)
                 & (p >= 0) & (p < num_classes))
        place = torch.where(known, t * num_classes + p, size + 1)
        place.masked_fill_(t == ignore_index, size)
        if place.is_cuda:  # a GPU would be waited for to count bins
            counts.scatter_add_(0, place, torch.ones_like(place))
        else:
            counts += torch.bincount(place, minlength=size + 2)
    if counts[-1]:
        valid = label.to(pred.device) != ignore_index
        _complain(label.to(pred.device)[valid], num_classes, 'label')
        _complain(pred[valid], num_classes, 'prediction')
    return counts[:size].reshape(num_classes, num_classes)


def _complain(ids: Tensor, num_classes: int, what: str) -> None:
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'{what} holds ids from {low} to {high}, but the data set has '
            f'{num_classes} classes; check num_classes of the head, the '
            'labels and ignore_index.')


@METRICS.register_module()
class ConfusionMetric(BaseMetric):
    """IoU, F1, precision and recall, from 64-bit counts over all scenes.

    ``mIoU``, ``mF1``, ``mPrecision``, ``mRecall`` and ``aAcc`` in percent,
    where means are over the classes that are true or predicted somewhere,
    and ``mIoU_all``, ``mF1_all``, ... where an absent class counts as 0. A
    class that is never predicted has an F1 of 0, where the host's
    ``IoUMetric`` leaves it out of the mean. ``IoU/NAME`` is that of a class,
    NaN where it is neither true nor predicted; checkpoints can be chosen by
    it (``save_best='IoU/NAME'``).

    Processes send one matrix for each scene to the first, which leaves out
    the scenes that a sampler repeats to give all processes as many.

    Args:
        ignore_index: Label id that does not count.
        collect_device: Device on which processes collect, as in the host.
        prefix: Put before the names of the metrics.
    """

    #: What the last evaluation found; in the first process only.
    report: MetricReport | None = None

    def __init__(self, ignore_index: int = IGNORE, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index

    @property
    def names(self) -> list[str]:
        """Names of all that is measured, once the data set is known."""
        names = [*means(np.zeros((1, 1))), *(
            f'IoU/{name}' for name in self.dataset_meta['classes'])]
        return [f'{self.prefix}/{name}' if self.prefix else name
                for name in names]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one matrix for each scene, so that each counts once."""
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data'].squeeze()
            label = sample['gt_sem_seg']['data'].squeeze()
            try:
                matrix = confusion_matrix(pred, label, num_classes,
                                          self.ignore_index)
            except ValueError as error:
                raise ValueError(
                    f'{sample.get("img_path", "scene")}: {error}') from error
            self.results.append(SceneCount(
                path=sample.get('img_path'), matrix=matrix.cpu().numpy(),
                ignored=label.numel() - int(matrix.sum())))

    def compute_metrics(self, results: list[SceneCount]) -> dict[str, float]:
        """Metrics of all scenes together."""
        self.report = make_report(results, self.dataset_meta['classes'])
        table = PrettyTable(['Class', 'IoU', 'F1', 'Precision', 'Recall'])
        for line in self.report['classes']:
            table.add_row([line['class'], *(
                f'{line[key]:.2f}' for key in table.field_names[1:])])
        logger = MMLogger.get_current_instance()
        logger.info(f'per class:\n{table}')
        if np.isnan(self.report['metrics']['aAcc']):
            logger.warning('no pixel has a label that counts: nothing was '
                           'measured; check the labels and ignore_index.')
        return self.report['metrics'] | {
            f'IoU/{line["class"]}': line['IoU']
            for line in self.report['classes']}
