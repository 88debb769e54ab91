"""A plot for each experiment."""
from pathlib import Path
from statistics import mean

import numpy as np
from experiments import EXPERIMENTS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import baselines, by, paired


def plot_real(name: str, runs: list[dict], path: Path) -> None:
    """Differences to the baseline: seeds as dots, and their mean."""
    experiment = EXPERIMENTS[name]
    groups = by(runs, 'variant')
    shown = [v for v in groups if experiment.baseline(v) != v]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    tasks = list(by(runs, 'task'))
    for y, variant in enumerate(reversed(shown)):
        others = groups[experiment.baseline(variant)]
        for i, task in enumerate(tasks):
            own = [r for r in groups[variant] if r['task'] == task]
            axes.plot(paired(own, others), [y] * len(own), 'o', ms=4,
                      alpha=0.5, color=f'C{i}', label=task if y == 0 else None)
        axes.plot(mean(paired(groups[variant], others)), y, 'D',
                  color='black')
    axes.axvline(0, color='grey', lw=1)
    axes.set(yticks=range(len(shown)), yticklabels=shown[::-1],
             xlabel=f'mIoU less that of {baselines(name, groups)}: each seed, '
                    'and the mean')
    axes.legend(fontsize='small')
    figure.savefig(path, dpi=100)


def plot_puzzles(runs: list[dict], path: Path) -> None:
    """Accuracy on each puzzle, a mark for each model."""
    names = list(by(runs, 'name'))
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(names)),
                    layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (family, own) in zip(
            figure.subplots(1, 2, sharey=True), by(runs, 'family').items()):
        for i, (kind, found) in enumerate(by(own, 'kind').items()):
            groups = by(found, 'name')
            y = [len(names) - 1 - names.index(n) for n in groups]
            x = np.array([[100 * r['accuracy'] for r in rs]
                          for rs in groups.values()])
            axes.errorbar(x.mean(1), y, xerr=x.std(1, ddof=min(
                1, x.shape[1] - 1)), fmt='osD^'[i], ms=5, label=kind)
        axes.set(title=family, xlim=(20, 102), xlabel='accuracy, %',
                 yticks=range(len(names)), yticklabels=names[::-1])
        axes.axvline(50, color='grey', lw=1)
        axes.grid(axis='y', alpha=0.3)
    axes.legend(fontsize='small')
    figure.savefig(path, dpi=100)
