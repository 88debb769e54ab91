"""What counts of pixels say: of each class, of each scene, of all."""
import csv
import os
from collections.abc import Sequence
from io import StringIO
from typing import TypedDict

import numpy as np

#: Metrics of each class; the mean of X is called mX.
NAMES = 'IoU', 'F1', 'Precision', 'Recall'


class SceneCount(TypedDict):
    """Pixels of one scene.

    ``path`` of the image (None if the pipeline did not keep it), ``matrix``
    (C, C) by truth and prediction, ``ignored`` pixels.
    """
    path: str | None
    matrix: np.ndarray
    ignored: int


class MetricReport(TypedDict):
    """All numbers of an evaluation; shares in percent, NaN if undefined.

    ``metrics`` over all scenes, one dict for each of ``classes`` and
    ``scenes``, ``confusion`` (rows by truth) and ``ignored`` pixels.
    """
    metrics: dict[str, float]
    classes: list[dict]
    scenes: list[dict]
    confusion: list[list[int]]
    ignored: int


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


def means(matrix: np.ndarray) -> dict[str, float]:
    """Means over classes, and the share of pixels that are right.

    Args:
        matrix: Counts, (C, C), rows by truth.

    Returns:
        In percent: ``mIoU``, ``mF1``, ``mPrecision``, ``mRecall`` over the
        classes that are true or predicted somewhere; ``aAcc``; ``mIoU_all``
        and so on over all classes, absent ones as 0. NaN without a pixel.
    """
    total = matrix.sum()
    if not total:
        names = [f'm{name}' for name in NAMES]
        every = [*names, 'aAcc', *(f'{name}_all' for name in names)]
        return dict.fromkeys(every, float('nan'))
    by_class = scores(matrix)
    out = {f'm{k}': 100 * float(np.nanmean(by_class[k])) for k in NAMES}
    out['aAcc'] = 100 * float(np.diag(matrix).sum() / total)
    for k in NAMES:
        out[f'm{k}_all'] = 100 * float(np.nan_to_num(by_class[k]).mean())
    return out


def make_report(counts: Sequence[SceneCount],
                classes: Sequence[str]) -> MetricReport:
    """Sum the counts of scenes and say what they mean.

    Args:
        counts: One for each sample. Samples with the same path are parts of
            one scene; samples without a path are scenes of their own.
        classes: Names of the classes.
    """
    if not counts:
        raise ValueError('no scene was evaluated; check the test split.')
    matrix = np.sum([c['matrix'] for c in counts], axis=0)
    by_class = scores(matrix)
    true, predicted = matrix.sum(1), matrix.sum(0)
    lines = [
        {'class': name, 'true_pixels': int(true[i]),
         'predicted_pixels': int(predicted[i]),
         **{k: 100 * float(by_class[k][i]) for k in NAMES}}
        for i, name in enumerate(classes)]
    return MetricReport(
        metrics=means(matrix), classes=lines, scenes=_scene_lines(counts),
        confusion=matrix.tolist(),
        ignored=sum(c['ignored'] for c in counts))


def _scene_lines(counts: Sequence[SceneCount]) -> list[dict]:
    scenes: dict[str, list[SceneCount]] = {}
    for i, count in enumerate(counts):
        path = count['path']
        key = f'scene {i}' if path is None else os.path.abspath(path)
        scenes.setdefault(key, []).append(count)
    names = list(scenes)
    if all(os.path.isabs(name) for name in names):
        common = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [os.path.relpath(name, common) for name in names]
    lines = []
    for name, parts in zip(names, scenes.values()):
        matrix = np.sum([part['matrix'] for part in parts], axis=0)
        lines.append(dict(
            scene=name, pixels=int(matrix.sum()),
            ignored=sum(part['ignored'] for part in parts),
            **{k: v for k, v in means(matrix).items()
               if not k.endswith('_all')}))
    return lines


def scenes_csv(report: MetricReport) -> str:
    """The table of scenes as comma-separated values, empty where undefined.
    """
    out = StringIO()
    writer = csv.DictWriter(
        out, list(report['scenes'][0]), lineterminator='\n')
    writer.writeheader()
    for line in report['scenes']:
        writer.writerow({k: '' if v != v else v for k, v in line.items()})
    return out.getvalue()
