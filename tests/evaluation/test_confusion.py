import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from relay_seg.evaluation import (
    ConfusionMetric,
    confusion,
    confusion_matrix,
    scores,
)
from relay_seg.evaluation.report import make_report, means, scenes_csv

ROOT = Path(__file__).parents[2]
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


@given(seed=st.integers(0, 2**20), classes=st.integers(2, 5),
       pixels=st.integers(1, 300), ignored=st.floats(0, 1))
def test_agrees_with_the_host_where_that_is_exact(seed, classes, pixels,
                                                  ignored):
    """Its float32 counts are exact for few pixels. It leaves classes out of
    its means that are never predicted (F1, precision) or never true
    (recall); ours count as 0."""
    generator = torch.Generator().manual_seed(seed)
    pred, label = torch.randint(classes, (2, pixels), generator=generator)
    label[torch.rand(pixels, generator=generator) < ignored] = 255
    matrix = confusion_matrix(pred, label, classes).numpy()
    host = IoUMetric.total_area_to_metrics(
        *IoUMetric.intersect_and_union(pred, label, classes, 255),
        ['mIoU', 'mFscore'])
    ours = scores(matrix)
    assert ours['IoU'] == pytest.approx(host['IoU'], rel=1e-6, nan_ok=True)
    names = dict(F1='Fscore', Precision='Precision', Recall='Recall')
    for name, host_name in names.items():
        seen = ~np.isnan(host[host_name])
        assert ours[name][seen] == pytest.approx(
            host[host_name][seen], rel=1e-6)
        assert not np.nan_to_num(ours[name][~seen]).any()
    assert means(matrix)['aAcc'] == pytest.approx(
        100 * host['aAcc'], rel=1e-6, nan_ok=True)


def test_metric_gives_what_the_host_metric_gives():
    generator = torch.Generator().manual_seed(0)
    samples = [sample(generator) for _ in range(3)]
    ours = evaluate(ConfusionMetric(), samples)
    host = evaluate(IoUMetric(iou_metrics=['mIoU', 'mFscore']), samples)
    for name, host_name in (('mIoU', 'mIoU'), ('mF1', 'mFscore'),
                            ('mPrecision', 'mPrecision'),
                            ('mRecall', 'mRecall'), ('aAcc', 'aAcc')):
        # The host rounds to two digits.
        assert ours[name] == pytest.approx(host[host_name], abs=0.006)


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


def test_counts_add_up_over_chunks_that_stay_small(monkeypatch):
    pred, label = sample(torch.Generator().manual_seed(1), (50, 41))
    expected = confusion_matrix(pred, label, CLASSES)
    counted = []
    bincount = torch.bincount

    def spy(x, **kwargs):
        counted.append(len(x))
        return bincount(x, **kwargs)

    monkeypatch.setattr(confusion, 'CHUNK', 7)
    monkeypatch.setattr(torch, 'bincount', spy)
    assert torch.equal(confusion_matrix(pred, label, CLASSES), expected)
    assert max(counted) <= 7 and sum(counted) == pred.numel()


def test_ids_that_would_count_as_another_class_are_refused():
    label = torch.zeros(3, dtype=torch.uint8)
    for pred in ([0, 0, 2], [0, 0, -1]):
        with pytest.raises(ValueError, match='prediction.*2 class'):
            confusion_matrix(torch.tensor(pred), label, 2)
    with pytest.raises(ValueError, match='label.* 0 to 7'):
        confusion_matrix(torch.zeros(2), torch.tensor([0, 7]), 2)
    with pytest.raises(ValueError, match='differ in shape'):
        confusion_matrix(torch.zeros(2), label, 2)


def test_metric_names_the_scene_that_is_wrong():
    metric = ConfusionMetric()
    metric.dataset_meta = dict(classes=['a', 'b'])
    bad = dict(img_path='there/x.tif',
               pred_sem_seg=dict(data=torch.full((1, 2, 2), 5)),
               gt_sem_seg=dict(data=torch.zeros(1, 2, 2, dtype=torch.long)))
    with pytest.raises(ValueError, match='there/x.tif: prediction holds'):
        metric.process({}, [bad])


def count(matrix, path=None, ignored=0):
    return dict(path=path, matrix=np.array(matrix), ignored=ignored)


def test_means_with_and_without_absent_classes():
    """Three classes: 8 of 10 right, 2 of class 1 taken for 0, none of 2."""
    out = means(np.array([[8, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert out['mIoU'] == pytest.approx(100 * (0.8 + 0) / 2)
    assert out['mIoU_all'] == pytest.approx(100 * (0.8 + 0 + 0) / 3)
    assert out['mF1'] == pytest.approx(100 * (16 / 18) / 2)
    assert out['mPrecision'] == pytest.approx(100 * 0.8 / 2)
    assert out['mRecall'] == pytest.approx(100 * 1 / 2)
    assert out['mRecall_all'] == pytest.approx(100 * 1 / 3)
    assert out['aAcc'] == pytest.approx(80)


def test_report_has_each_class_and_each_scene_once():
    report = make_report([
        count([[3, 1], [0, 0]], 'data/x/a.tif', ignored=2),
        count([[0, 0], [2, 2]], 'data/y/a.tif'),
        count([[1, 0], [0, 0]], 'data/x/a.tif', ignored=1),  # its other half
    ], ['land', 'water'])
    assert [s['scene'] for s in report['scenes']] == ['x/a.tif', 'y/a.tif']
    assert [s['pixels'] for s in report['scenes']] == [5, 4]
    assert [s['ignored'] for s in report['scenes']] == [3, 0]
    assert report['scenes'][0]['aAcc'] == pytest.approx(80)
    assert report['confusion'] == [[4, 1], [2, 2]]
    assert report['ignored'] == 3
    land, water = report['classes']
    assert (land['true_pixels'], land['predicted_pixels']) == (5, 6)
    assert land['IoU'] == pytest.approx(100 * 4 / 7)
    assert water['Recall'] == pytest.approx(50)


def test_scene_without_labels_is_empty_in_the_csv():
    report = make_report([count([[0, 0], [0, 0]], 'a.tif', ignored=9),
                          count([[1, 0], [0, 0]], 'b.tif')], ['x', 'y'])
    header, a, b = scenes_csv(report).splitlines()
    assert header.startswith('scene,pixels,ignored,mIoU,mF1')
    assert a == 'a.tif,0,9,,,,,'
    assert b == 'b.tif,1,0,100.0,100.0,100.0,100.0,100.0'


PROCESS = """
import json, sys
import torch
from mmengine.dataset import DefaultSampler
from relay_seg.evaluation import ConfusionMetric

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    'gloo', f'file://{folder}/init', rank=rank, world_size=2)
scenes = range(3)
out = []
for device in ('cpu', 'gpu'):
    metric = ConfusionMetric(collect_device=device)
    metric.dataset_meta = dict(classes=['a', 'b'])
    for i in DefaultSampler(scenes, shuffle=False):
        pred = torch.zeros(1, 4, 10 + i, dtype=torch.long)
        label = torch.zeros(1, 4, 10 + i, dtype=torch.long)
        label[:, :i] = 1
        metric.process({}, [dict(img_path=f's{i}.tif',
                                 pred_sem_seg=dict(data=pred),
                                 gt_sem_seg=dict(data=label))])
    assert len(metric.results) == 2  # one of three is there twice
    out.append([metric.evaluate(len(scenes)), metric.report])
with open(f'{folder}/{rank}.json', 'w') as file:
    json.dump(out, file)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_count_three_scenes_once(tmp_path):
    """The sampler repeats the first scene, so that both have two; through
    files and through messages."""
    environment = os.environ | dict(
        OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    processes = [subprocess.Popen(
        [sys.executable, '-c', PROCESS, str(rank), str(tmp_path)],
        env=environment, cwd=tmp_path, text=True, stderr=subprocess.PIPE)
        for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    first, second = (json.loads((tmp_path / f'{rank}.json').read_text())
                     for rank in (0, 1))
    for (metrics, report), (others, nothing) in zip(first, second):
        assert others == metrics and nothing is None
        assert [s['scene'] for s in report['scenes']] == [
            's0.tif', 's1.tif', 's2.tif']
        # Rows of class 1 in scenes of 4 x (10 + i): 0, 1 and 2 of 4.
        assert report['confusion'] == [
            [40 + 33 + 24, 0], [0 + 11 + 24, 0]]
        assert metrics['aAcc'] == pytest.approx(100 * 97 / 132)
