"""A plot for each experiment."""
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from experiments import EXPERIMENTS, POSITIONS, RealExperiment
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from puzzle import KINDS
from tables import baselines, by, paired, score

from relay_seg.rasters.files import replacing

RELAY_TOKENS = 'num_relay_tokens'
MARKS = dict(zip(KINDS, 'osD^'))  # of models on puzzles


def plot(name: str, runs: list[dict], path: Path) -> None:
    """Draw the runs of an experiment into a PNG file."""
    if name == 'pareto':
        figure = plot_pareto(runs)
    elif isinstance(EXPERIMENTS[name], RealExperiment):
        figure = plot_real(name, runs)
    else:
        figure = plot_puzzles(name, runs)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    with replacing(path) as target:  # few colours: a third of the bytes
        picture.quantize(64).save(target, 'PNG', optimize=True)


def plot_real(name: str, runs: list[dict]) -> Figure:
    """Differences to the baseline: seeds as dots, and their mean."""
    experiment = EXPERIMENTS[name]
    groups = by(runs, 'variant')
    shown = [v for v in groups if experiment.baseline(v) != v]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown)), layout='constrained')
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
             xlabel='points of mIoU: each seed, and the mean',
             title=f'Against {baselines(name, groups)}')
    axes.legend(fontsize='small')
    return figure


def plot_pareto(runs: list[dict]) -> Figure:
    """mIoU against work of training and of a test: a curve for each kind."""
    kinds: dict[str, list[list[dict]]] = {}
    for variant, own in by(runs, 'variant').items():
        kinds.setdefault(variant.rsplit(', ', 1)[0], []).append(own)
    families = list(dict.fromkeys(kind.split()[0] for kind in kinds))
    figure = Figure(figsize=(11, 4.5 * len(families)), layout='constrained')
    for row, family in zip(figure.subplots(
            len(families), 2, squeeze=False, sharey='row'), families):
        for axes, key, words in zip(
                row, ('train_flops', 'pixel_flops'),
                ('TFLOP of the training', 'MFLOP of a test for a pixel')):
            for kind, lengths in kinds.items():
                if kind.split()[0] != family:
                    continue
                unit = 1e12 if key == 'train_flops' else 1e6
                axes.errorbar(
                    [own[0][key] / unit for own in lengths],
                    [mean(map(score, own)) for own in lengths],
                    [stdev(map(score, own)) if len(own) > 1 else 0.
                     for own in lengths],
                    fmt='o-', ms=4, capsize=2, label=kind)
            axes.set(xlabel=words, ylabel='mIoU', title=family)
            axes.grid(alpha=0.3)
        row[0].set_xscale('log', base=2)
        row[1].legend(fontsize='small')
    return figure


def plot_puzzles(name: str, runs: list[dict]) -> Figure:
    """Accuracy on each puzzle, a mark for each model; and bits against R."""
    names = list(by(runs, 'name'))
    bits = bits_of(name, runs)
    figure = Figure(figsize=(13 if bits else 9, 1.2 + 0.28 * len(names)),
                    layout='constrained')
    halves, *rest = figure.subfigures(
        1, 2 if bits else 1, width_ratios=(9, 4)[:2 if bits else 1],
        squeeze=False)[0]
    families = by(runs, 'family')
    for axes, (family, own) in zip(
            halves.subplots(1, len(families), sharey=True),
            families.items()):
        for kind, found in by(own, 'kind').items():
            groups = by(found, 'name')
            y = [len(names) - 1 - names.index(n) for n in groups]
            x = [[100 * r['accuracy'] for r in rs] for rs in groups.values()]
            axes.errorbar(
                [mean(v) for v in x], y, fmt=MARKS[kind], ms=5, label=kind,
                color=f'C{list(MARKS).index(kind)}',
                xerr=[stdev(v) if len(v) > 1 else 0. for v in x])
        axes.set(title=family, xlim=(20, 102), xlabel='accuracy, %',
                 yticks=range(len(names)), yticklabels=names[::-1])
        axes.axvline(50, color='grey', lw=1)
        axes.grid(axis='y', alpha=0.3)
    axes.legend(fontsize='small')
    if bits:
        draw_bits(rest[0].subplots(), bits)
    return figure


def bits_of(name: str, runs: list[dict]) -> dict[int, dict[int, list[float]]]:
    """Bits that reached the local view: by cues, then by R."""
    trials = {(t.family, t.name): t for t in EXPERIMENTS[name].trials
              if t.puzzle.cells > 1 and t.positions == POSITIONS
              and t.family == 'ViT' and set(t.options) == {RELAY_TOKENS}}
    found = {}
    for run in runs:
        trial = trials.get((run['family'], run['name']))
        if trial:
            found.setdefault(trial.puzzle.cells**2, {}).setdefault(
                trial.options[RELAY_TOKENS], []).append(run['bits'])
    return found


def draw_bits(axes: Axes, bits: dict[int, dict[int, list[float]]]) -> None:
    for i, (cues, by_number) in enumerate(bits.items()):
        axes.axhline(cues, color=f'C{i}', lw=1, ls=':')
        for number, values in by_number.items():
            axes.plot([number] * len(values), values, 'o', ms=4, alpha=0.5,
                      color=f'C{i}')
        numbers = sorted(by_number)
        axes.plot(numbers, [mean(by_number[n]) for n in numbers],
                  color=f'C{i}', label=f'{cues} cues')
    axes.set_xscale('log', base=2)
    axes.set_xticks(numbers, numbers)
    axes.set(title='ViT', xlabel='relay tokens',
             ylabel='bits that pass; dotted: bits there are')
    axes.legend(fontsize='small', loc='center right')
