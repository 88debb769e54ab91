import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from relay_seg.evaluation import ConfusionMetric, confusion_matrix, scores

CLASSES = 4


def sample(generator, shape=(40, 30)):
    label = torch.randint(CLASSES, shape, generator=generator)
    pred = torch.where(torch.rand(shape, generator=generator) < 0.6, label,
                       torch.randint(CLASSES, shape, generator=generator))
    label[torch.rand(shape, generator=generator) < 0.1] = 255
    return pred, label


def evaluate(metric, samples):
    metric.dataset_meta = dict(classes=[f'c{i}' for i in range(CLASSES)])
    for pred, label in samples:
        packed = SegDataSample()
        packed.pred_sem_seg = PixelData(data=pred[None])
        packed.gt_sem_seg = PixelData(data=label[None])
        metric.process({}, [packed.to_dict()])
    return metric.evaluate(len(samples))


def test_confusion_matrix_equals_a_loop():
    pred, label = sample(torch.Generator().manual_seed(0))
    expected = np.zeros((CLASSES, CLASSES), int)
    for p, t in zip(pred.flatten().tolist(), label.flatten().tolist()):
        if t != 255:
            expected[t, p] += 1
    matrix = confusion_matrix(pred, label, CLASSES)
    assert matrix.dtype == torch.int64
    assert (matrix.numpy() == expected).all()


def test_agrees_with_the_host_where_that_is_exact():
    generator = torch.Generator().manual_seed(0)
    samples = [sample(generator) for _ in range(3)]
    ours = evaluate(ConfusionMetric(), samples)
    host = evaluate(IoUMetric(iou_metrics=['mIoU', 'mFscore']), samples)
    # The host rounds to two digits.
    assert ours['mIoU'] == pytest.approx(host['mIoU'], abs=0.006)
    assert ours['mF1'] == pytest.approx(host['mFscore'], abs=0.006)
    assert ours['aAcc'] == pytest.approx(host['aAcc'], abs=0.006)


def test_class_never_predicted_scores_zero_and_absent_class_is_left_out():
    matrix = np.array([[8, 0, 0], [2, 0, 0], [0, 0, 0]])
    by_class = scores(matrix)
    assert by_class['IoU'][:2] == pytest.approx([0.8, 0.])
    assert by_class['F1'][:2] == pytest.approx([16 / 18, 0.])
    assert np.isnan(by_class['IoU'][2]) and np.isnan(by_class['F1'][2])


def test_counts_above_two_to_the_24_are_exact():
    many = 2**24 + 3
    pred = torch.zeros(many, dtype=torch.uint8)
    label = torch.zeros(many, dtype=torch.uint8)
    label[0] = 1
    matrix = confusion_matrix(pred, label, 2)
    assert matrix.tolist() == [[many - 1, 0], [1, 0]]
