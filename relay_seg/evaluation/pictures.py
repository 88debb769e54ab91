"""A test and a training at a glance."""
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relay_seg.rasters.files import replacing

from .report import MetricReport

NUMBERED = 20  # classes whose shares are written into the cells, at most


def draw_confusion(report: MetricReport, path: Path) -> None:
    """Draw what is taken for what, in percent of the true pixels."""
    names = [line['class'] for line in report['classes']]
    matrix = np.array(report['confusion'], np.float64)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 3 + 0.5 * len(names)
    figure = Figure((side, side), layout='constrained')
    axes = figure.add_subplot()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel='predicted', ylabel='true, 100 % a row')
    for (row, column), share in np.ndenumerate(shares):
        if len(names) <= NUMBERED:
            axes.text(column, row, f'{share:.0f}', ha='center', va='center',
                      color='white' if share > 50 else 'black')
    _write(figure, path)


def draw_curves(scalars: Path, path: Path) -> None:
    """Draw losses, learning rate and metrics of a training.

    Args:
        scalars: ``scalars.csv`` of its work dir; without it nothing is done.
        path: Picture to write.
    """
    if not scalars.is_file():
        return
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with scalars.open(newline='') as file:
        for row in csv.DictReader(file):
            curves[row['name']].append((int(row['iter']), float(row['value'])))
    panels = {
        'loss': [name for name in curves if 'loss' in name],
        'learning rate': [name for name in curves if name == 'lr'],
        'percent': [name for name in curves if name.startswith(
            ('mIoU', 'mF1', 'aAcc', 'IoU/')) and not name.endswith('_all')]}
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        return
    figure = Figure((9, 3 * len(panels)), layout='constrained')
    for i, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, i)
        for name in names:
            axes.plot(*zip(*curves[name]), label=name, marker='.')
        axes.set(xlabel='iteration', ylabel=title)
        axes.legend(fontsize='small', ncols=2)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # needs no screen
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=100)
