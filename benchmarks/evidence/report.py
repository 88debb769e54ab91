"""Tables, plots and the page docs/evidence_tables.md.

    python benchmarks/evidence/report.py work_dirs/evidence/cpu

takes the results of all experiments over into docs/ and makes the page and
its plots anew; without a folder it makes them from the results that are in
docs/. What they mean is said by hand: docs/evidence.md, and findings/.
"""
import argparse
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from experiments import EXPERIMENTS, LOOK, SEARCH_SEEDS, RealExperiment
from plots import plot
from runs import Budget
from tables import best_rate, puzzle_table, real_table, table
from tasks import TASKS

from relay_seg.rasters.files import replacing, write_text

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / 'docs'
RESULTS = '.json.gz'  # of an experiment, in docs/evidence


def make_table(name: str, runs: list[dict]) -> str:
    if isinstance(EXPERIMENTS[name], RealExperiment):
        return real_table(name, runs)
    return puzzle_table(runs)


def write_experiment(folder: Path, name: str, results: dict) -> None:
    """Results, table and plot of one experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = results['runs']
    write_text(folder / 'results.json',
                     json.dumps(rounded(results), indent=1) + '\n')
    write_text(folder / 'table.md', make_table(name, runs))
    plot(name, runs, folder / 'plot.png')


def rounded(value):
    """Numbers to six digits, for files that are kept."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return float(f'{value:.6g}') if isinstance(value, float) else value


def section(name: str, results: dict) -> str:
    """Question, conditions, table, plot and findings of one experiment."""
    experiment, facts = EXPERIMENTS[name], results['facts']
    runs = results['runs']
    hours = sum(seconds(run) for run in runs) / 3600
    searched = ' (searches of learning rates not counted)' if isinstance(
        experiment, RealExperiment) else ''
    parts = [f'## {experiment.title}', experiment.words,
             f'`python benchmarks/evidence/run.py {name}`: {len(runs)} runs '
             f'with {seeds_of(facts["seeds"])}, {hours:.1f} hours of '
             f'runs{searched}, {facts["workers"]} at a time, on '
             f'{facts["machine"]}. '
             + settings(facts),
             make_table(name, runs).rstrip(),
             f'![{experiment.title}](images/evidence/{name}.png)']
    findings = HERE / 'findings' / f'{name}.md'
    if findings.exists():
        parts.append(findings.read_text().strip())
    return '\n\n'.join(parts)


def seeds_of(number: int) -> str:
    return f'seeds 0 to {number - 1}' if number > 1 else 'seed 0'


def settings(facts: dict) -> str:
    if 'steps' in facts:
        return f'{facts["steps"]} steps with 32 scenes, learning rate 0.002.'
    if not facts['rates']:
        return 'Learning rates are those that were searched for `main`.'
    return ('Learning rates, by mIoU on the validation scenes (mean of '
            f'{len(SEARCH_SEEDS)} seeds): ' + '; '.join(
                f'{name} {rate_words(scores)}'
                for name, scores in facts['rates'].items()) + '.')


def rate_words(scores: Mapping[str, Sequence[float]]) -> str:
    best = best_rate(scores)
    others = ', '.join(f'{lr}: {mean(found):.1f}'
                       for lr, found in scores.items() if lr != best)
    return f'**{best}**: {mean(scores[best]):.1f} ({others})'


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


def results_of(name: str, docs: Path) -> dict | None:
    """What docs/evidence keeps of an experiment; None before it was run."""
    file = docs / 'evidence' / (name + RESULTS)
    return json.loads(gzip.decompress(file.read_bytes())) if (
        file.exists()) else None


def page(docs: Path = DOCS) -> str:
    """docs/evidence_tables.md, from the results that are in docs/evidence."""
    parts = [(HERE / 'findings/reading.md').read_text().strip()]
    main = results_of('main', docs)
    if main:
        parts.append(conditions(Budget(**main['facts']['budget'])))
    missing = []
    for name in (*EXPERIMENTS, LOOK):
        results = results_of(name, docs)
        if results is None:
            missing.append(f'`{name}`')
            continue
        parts.append(look_section(results) if name == LOOK
                     else section(name, results))
    if missing:
        parts.append('## Not run yet\n\nExperiments of `run.py` whose results '
                     f'are not here: {", ".join(missing)}.')
    return '\n\n'.join(parts) + '\n'


def take_over(folder: Path, docs: Path = DOCS) -> None:
    """Results of a work dir, and the pictures that no results give."""
    for file in folder.glob('*/results.json'):
        name = file.parent.name
        text = json.dumps(json.loads(file.read_text()), separators=(',', ':'))
        with replacing(docs / 'evidence' / (name + RESULTS)) as target:
            # Without a time, so that the same results are the same file.
            target.write_bytes(gzip.compress(text.encode(), mtime=0))
    for picture in folder.glob(f'{LOOK}/*.[pj][np]g'):
        with replacing(docs / 'images/evidence' / picture.name) as target:
            shutil.copyfile(picture, target)


def write_page(docs: Path = DOCS) -> None:
    """The page and its plots."""
    for name in EXPERIMENTS:
        results = results_of(name, docs)
        if results is not None:
            plot(name, results['runs'],
                 docs / 'images/evidence' / f'{name}.png')
    write_text(docs / 'evidence_tables.md', page(docs))


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
    write_page()


if __name__ == '__main__':
    main()
