"""Tables, plots and the page docs/evidence.md.

    python benchmarks/evidence/report.py work_dirs/evidence/cpu

takes the results of all experiments over into docs/ and writes the page;
without a folder it writes the page from the results that are in docs/.
"""
import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from experiments import EXPERIMENTS, RealExperiment
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import SLIDES, Budget
from scipy.stats import t as student
from tasks import TASKS

from relay_seg.engine import write_atomically

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / 'docs'
FIRST_SLIDE = f'overlap {SLIDES[0][0]:g}, {SLIDES[0][1]}'


def score(run: dict, slide: str = FIRST_SLIDE, metric: str = 'mIoU') -> float:
    return run['tests'][slide]['metrics'][metric]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.
    return f'{mean(values):.{digits}f} ± {deviation:.{digits}f}'


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and half its 95 % interval (Student's t)."""
    n = len(differences)
    if n < 2:
        return mean(differences), float('nan')
    half = student.ppf(0.975, n - 1) * stdev(differences) / n**0.5
    return mean(differences), half


def paired(runs: Sequence[dict], others: Sequence[dict]) -> list[float]:
    """Differences of runs of the same task and seed."""
    base = {(r['task'], r['seed']): score(r) for r in others}
    return [score(r) - base[r['task'], r['seed']] for r in runs]


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
    for variant, own in groups.items():
        base = experiment.baseline(variant)
        cells = []
        for found in by(own, 'task').values():
            cells.append(spread([score(r) for r in found]))
            cells.append('' if base == variant else '{:+.1f} ± {:.1f}'.format(
                *interval(paired(found, groups[base]))))
        rows.append([
            variant, *cells,
            f'{mean(r["train_seconds"] for r in own):.0f}',
            f'{own[0]["train_flops"] / 1e12:.1f}',
            f'{own[0]["parameters"] / 1e6:.2f}'])
    bases = sorted({experiment.baseline(v) for v in groups})
    text = table(
        ['model', *(head for task in tasks for head in (
            f'{task}: mIoU', f'against {" or ".join(bases)}')),
         'training s', 'TFLOP', 'M parameters'], rows)
    return text + slides_table(groups) + classes_table(name, groups)


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
    """Accuracy and bits of each model on each puzzle."""
    kinds = list(by(runs, 'kind'))
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
    return table(['puzzle', 'model', *(f'{k}, %' for k in kinds),
                  'bits with relay'], rows)


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
    bases = ' or '.join(sorted({experiment.baseline(v) for v in groups}))
    axes.set(yticks=range(len(shown)), yticklabels=shown[::-1],
             xlabel=f'mIoU less that of {bases}: each seed, and the mean')
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


def make_table(name: str, runs: list[dict]) -> str:
    if isinstance(EXPERIMENTS[name], RealExperiment):
        return real_table(name, runs)
    return puzzle_table(runs)


def write_experiment(folder: Path, name: str, results: dict) -> None:
    """Results, table and plot of one experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = results['runs']
    write_atomically(folder / 'results.json',
                     json.dumps(rounded(results), indent=1) + '\n')
    write_atomically(folder / 'table.md', make_table(name, runs))
    if isinstance(EXPERIMENTS[name], RealExperiment):
        plot_real(name, runs, folder / 'plot.png')
    else:
        plot_puzzles(runs, folder / 'plot.png')


def rounded(value):
    """Numbers to three digits behind the point, for files that are kept."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return round(value, 4) if isinstance(value, float) else value


def section(name: str, results: dict) -> str:
    """Question, conditions, table, plot and findings of one experiment."""
    experiment, facts = EXPERIMENTS[name], results['facts']
    runs = results['runs']
    hours = sum(seconds(run) for run in runs) / 3600
    parts = [f'## {experiment.title}', experiment.words,
             f'`python benchmarks/evidence/run.py {name}`: {len(runs)} runs '
             f'with seeds 0 to {facts["seeds"] - 1}, {hours:.1f} hours of '
             f'runs, {facts["workers"]} at a time, on {facts["machine"]}. '
             + settings(facts),
             make_table(name, runs).rstrip(),
             f'![{experiment.title}](images/evidence/{name}.png)']
    findings = HERE / 'findings' / f'{name}.md'
    if findings.exists():
        parts.append(findings.read_text().strip())
    return '\n\n'.join(parts)


def settings(facts: dict) -> str:
    if 'steps' in facts:
        return f'{facts["steps"]} steps with 32 scenes, learning rate 0.002.'
    return 'Learning rates: ' + ', '.join(
        f'{rate:g} for {name}' for name, rate in facts['rates'].items()) + '.'


def seconds(run: dict) -> float:
    if 'tests' not in run:
        return run['seconds']
    return run['train_seconds'] + sum(
        test['seconds'] for test in run['tests'].values())


def look_section(found: dict) -> str:
    """Pictures from inside, and shares of attention."""
    rows = []
    for name, shares in found['shares'].items():
        for when in ('before', 'after'):
            rows.append([name, when, *(
                f'{share:.2g}' for share in shares[when])])
        rows.append([name, 'equal shares', *(
            f'{share:.2g}' for share in shares['equal'])])
    depth = max(len(row) for row in rows) - 2
    rows = [row + [''] * (depth + 2 - len(row)) for row in rows]
    parts = [
        '## Inside', (HERE / 'findings/look_words.md').read_text().strip(),
        table(['model', 'training', *(
            f'block {i + 1}' for i in range(depth))], rows).rstrip()]
    for family, errors in found['errors'].items():
        parts += [
            f'![What relay tokens of {family} attend to]'
            f'(images/evidence/attention_{family}.png)',
            f'![Errors that relay tokens of {family} mend and cause]'
            f'(images/evidence/errors_{family}.jpg)',
            f'{family}: ' + ', '.join(
                f'{share:.1f} % of the pixels {what}'
                for what, share in errors.items()) + '.']
    findings = HERE / 'findings/look.md'
    if findings.exists():
        parts.append(findings.read_text().strip())
    return '\n\n'.join(parts)


def conditions(budget: Budget) -> str:
    """Data, splits and schedule of the runs on real scenes."""
    lines = [f'* `{name}`: {task.words}' for name, task in TASKS.items()]
    return '\n'.join([
        f'Images are reduced {budget.reduce} times, windows have '
        f'{budget.window} x {budget.window} pixels, global views the same '
        f'with k = 4; {budget.iters} iterations with {budget.batch} windows, '
        f'each class alike, {budget.precision}, from random weights.', '',
        *lines])


def page() -> str:
    """docs/evidence.md, from the results that are in docs/evidence."""
    parts = [(HERE / 'findings/summary.md').read_text().strip()]
    main = DOCS / 'evidence/main.json'
    if main.exists():
        facts = json.loads(main.read_text())['facts']
        parts.append(conditions(Budget(**facts['budget'])))
    for name in EXPERIMENTS:
        file = DOCS / 'evidence' / f'{name}.json'
        if file.exists():
            parts.append(section(name, json.loads(file.read_text())))
    file = DOCS / 'evidence/look.json'
    if file.exists():
        parts.append(look_section(json.loads(file.read_text())))
    return '\n\n'.join(parts) + '\n'


def take_over(folder: Path) -> None:
    """Results and pictures of a work dir, into docs/."""
    pictures = DOCS / 'images/evidence'
    for target in (DOCS / 'evidence', pictures):
        target.mkdir(parents=True, exist_ok=True)
    for results in folder.glob('*/results.json'):
        name = results.parent.name
        shutil.copyfile(results, DOCS / 'evidence' / f'{name}.json')
        for picture in results.parent.glob('*.[pj][np]g'):
            plot = picture.name.replace('plot', name)
            shutil.copyfile(picture, pictures / plot)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', nargs='?', type=Path,
                        help='what run.py wrote')
    args = parser.parse_args()
    if args.folder:
        if not list(args.folder.glob('*/results.json')):
            parser.error(f'{args.folder} holds no */results.json; give the '
                         'folder of a budget, work_dirs/evidence/cpu.')
        take_over(args.folder)
    write_atomically(DOCS / 'evidence.md', page())


if __name__ == '__main__':
    main()
