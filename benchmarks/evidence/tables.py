"""Statistics and tables of runs."""
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from statistics import mean, stdev
from typing import TypeVar

from experiments import EXPERIMENTS
from runs import SLIDES
from scipy.stats import t as student

Rate = TypeVar('Rate', float, str)
FIRST_SLIDE = f'overlap {SLIDES[0][0]:g}, {SLIDES[0][1]}'


def score(run: dict, slide: str = FIRST_SLIDE, metric: str = 'mIoU') -> float:
    return run['tests'][slide]['metrics'][metric]


def best_rate(scores: Mapping[Rate, Sequence[float]]) -> Rate:
    """The learning rate with the best mean validation score."""
    return max(scores, key=lambda lr: mean(scores[lr]))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    text = f'{mean(values):.{digits}f}'
    return text if len(values) < 2 else f'{text} ± {stdev(values):.{digits}f}'


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and half its 95 % interval (Student's t)."""
    n = len(differences)
    if n < 2:
        return mean(differences), float('nan')
    half = student.ppf(0.975, n - 1) * stdev(differences) / n**0.5
    return mean(differences), half


def paired(runs: Sequence[dict], others: Sequence[dict]) -> list[float]:
    """Differences of runs with the same seed, averaged over tasks.

    Tasks share seeds, and so weights at the start: a seed counts once.
    """
    base = {(r['task'], r['seed']): score(r) for r in others}
    return [mean(score(r) - base[r['task'], seed] for r in same)
            for seed, same in by(runs, 'seed').items()]


def by(runs: Iterable[dict], key: str) -> dict[str, list[dict]]:
    groups = {}
    for run in runs:
        groups.setdefault(run[key], []).append(run)
    return groups


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(map(str, x))} |' for x in lines) + '\n'


def real_table(name: str, runs: list[dict]) -> str:
    """One line for each variant, a column for each task."""
    experiment = EXPERIMENTS[name]
    groups = by(runs, 'variant')
    tasks = list(by(runs, 'task'))
    rows = []
    tested = all('pixel_flops' in run for run in runs)
    for variant, own in groups.items():
        base = experiment.baseline(variant)
        cells = []
        for found in by(own, 'task').values():
            cells.append(spread([score(r) for r in found]))
            cells.append('' if base == variant
                         else difference(found, groups[base]))
        if len(tasks) > 1:
            cells.append(
                '' if base == variant else difference(own, groups[base]))
        if experiment.as_much_work:
            base = experiment.as_much_work.get(variant)
            cells.append(difference(own, groups[base]) if base in groups
                         else '')
        rows.append([
            variant, *cells,
            f'{min(r["train_seconds"] for r in own):.0f}',
            f'{own[0]["train_flops"] / 1e12:.1f}',
            *([f'{own[0]["pixel_flops"] / 1e6:.2f}'] if tested else []),
            f'{own[0]["parameters"] / 1e6:.2f}'])
    text = table(
        ['model', *(head for task in tasks for head in (
            f'{task}: mIoU', f'against {baselines(name, groups)}')),
         *(['all tasks'] if len(tasks) > 1 else []),
         *(['against plain, as much work'] if experiment.as_much_work else []),
         'fastest training, s', 'TFLOP',
         *(['MFLOP of a test for a pixel'] if tested else []),
         'M parameters'], rows)
    return text + slides_table(groups) + classes_table(name, groups)


def difference(runs: Sequence[dict], others: Sequence[dict]) -> str:
    """Mean of what runs gain on others, with its interval."""
    middle, half = interval(paired(runs, others))
    return f'{middle:+.1f}' + ('' if isnan(half) else f' ± {half:.1f}')


def baselines(name: str, variants: Iterable[str]) -> str:
    """What variants are set beside, without the family where there are two.
    """
    names = {EXPERIMENTS[name].baseline(v) for v in variants}
    if len(names) > 1:
        names = {base.split(maxsplit=1)[1] for base in names}
    return ' or '.join(sorted(names))


def slides_table(groups: dict[str, list[dict]]) -> str:
    """Other tests of the same weights, where there are some."""
    rows = []
    for variant, own in groups.items():
        for task, found in by(own, 'task').items():
            if len(found[0]['tests']) > 1:
                rows.append([variant, task, *(
                    f'{spread([score(r, slide) for r in found])} '
                    f'({mean(r["tests"][slide]["seconds"] for r in found):.0f}'
                    ' s)' for slide in found[0]['tests'])])
    if not rows:
        return ''
    head = ['model', 'task', *(f'overlap {overlap:g}, {blend}'
                               for overlap, blend in SLIDES)]
    return '\nThe same weights, tested otherwise:\n\n' + table(head, rows)


def classes_table(name: str, groups: dict[str, list[dict]]) -> str:
    """IoU of each class, in the experiment that asks the question."""
    if name != 'main':
        return ''
    text = ''
    for task in by(sum(groups.values(), []), 'task'):
        rows, classes = [], []
        for variant, own in groups.items():
            found = [r['tests'][FIRST_SLIDE]['classes'] for r in own
                     if r['task'] == task]
            classes = [c['class'] for c in found[0]]
            rows.append([variant, *(
                f'{mean(f[i]["IoU"] for f in found):.1f}'
                for i in range(len(classes)))])
        text += f'\nIoU on {task}:\n\n' + table(['model', *classes], rows)
    return text


def puzzle_table(runs: list[dict]) -> str:
    """Accuracy, bits and work of each model on each puzzle."""
    kinds = list(by(runs, 'kind'))
    counted = all('flops' in run for run in runs)
    rows = []
    for name, own in by(runs, 'name').items():
        for family, found in by(own, 'family').items():
            groups = by(found, 'kind')
            cells = [spread([100 * r['accuracy'] for r in groups[k]])
                     if k in groups else '' for k in kinds]
            bits = [r['bits'] for r in groups.get('relay', ())
                    if 'bits' in r]
            rows.append([name, family, *cells,
                         f'{mean(bits):.1f}' if bits else ''])
            if counted:
                rows[-1].append(f'{found[0]["flops"] / 1e6:.1f}')
    return table(['puzzle', 'model', *(f'{k}, %' for k in kinds),
                  'bits with relay', *['MFLOP a window'] * counted], rows)
