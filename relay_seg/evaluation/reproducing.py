"""Trainings and tests of the published table, run one after another."""
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from relay_seg.checkpoints import read_checkpoint, sha256
from relay_seg.rasters.files import locked, write_text

from .children import Children, Interrupted, ending_children
from .planning import (
    BEST,
    Run,
    RunSettings,
    as_text,
    commands_text,
    data_problem,
    environment,
    options_of,
    plan,
    prepare_commands,
    testing_command,
    training_command,
)
from .published import PUBLISHED
from .results import read_results, strict_json
from .table import Table

OPTIONS, TRAINED, RESULTS = 'options.json', 'trained.json', 'results.json'
LOCK = '.lock'
#: Seconds between two lines that tell how far a training is.
PAUSE = 10.
PROGRESS = re.compile(
    r'(?:Epoch|Iter)\((train|val|test)\)\s+(?:\[(\d+)\])?'
    r'\[\s*(\d+)/(\d+)\](.*)')
FIELDS = re.compile(r'(\w+): +((?:\d+ days?, )?\S+)')
SHOWN = 'eta', 'loss', 'aAcc', 'mIoU_all', 'mIoU'
SMOKE = """\
SMOKE RUN: generated scenes, random weights, two steps of training. It shows
that everything runs; no number below is a result.
"""


class Failed(Exception):
    """A run that cannot be finished; the others go on."""


def reproduce(settings: RunSettings, names: Sequence[str],
              models: Sequence[str], seeds: int,
              say: Callable[[str], None], dry_run: bool = False) -> int:
    """Train, test, and set the results beside the published numbers.

    Args:
        settings: What is the same for all runs.
        names: Data sets.
        models: Names in configs/released/.
        seeds: Runs of each.
        say: Gets lines for the user.
        dry_run: Only say which commands would be run.

    Returns:
        Exit code: 0 if all is there, 1 if a run failed, 128 and the signal
        if one ended this.

    Raises:
        ValueError: The data are not there, or runs were started otherwise;
            nothing was run.
    """
    runs = plan(settings, names, models, seeds)
    problems = [] if settings.smoke else [
        text for published in {r.published.name: r.published
                               for r in runs}.values()
        if (text := data_problem(published, settings))]
    if dry_run:
        for text in problems:
            say('# ' + text.replace('\n', '\n# '))
        say(commands_text(runs, settings).rstrip())
        return 0
    if not settings.smoke and not problems:
        problems = [text for run in runs
                    if (text := options_problem(run, settings))]
    if problems:
        raise ValueError('\n'.join(problems))
    try:
        with ending_children() as children:
            failed = _run_all(runs, settings, children, say)
    except Interrupted as end:
        say(f'Ended by {end}; the same command goes on from here.')
        return 128 + end.number
    try:
        _say_table(settings, names, say)
    except ValueError as error:
        failed['table'] = str(error)
    for name, text in failed.items():
        say(f'FAILED {name}: {text.splitlines()[0]}')
    return 1 if failed else 0


def _run_all(runs: Sequence[Run], settings: RunSettings, children: Children,
             say: Callable[[str], None]) -> dict[str, str]:
    """Run what is not done yet; what failed, and why, by name."""
    failed: dict[str, str] = {}
    prepared: dict[str, str | None] = {}
    for number, run in enumerate(runs, 1):
        teller = Teller(f'{number}/{len(runs)} {run.name}', say)
        name = run.published.name
        try:
            if settings.smoke and name not in prepared:
                prepared[name] = 'its scenes could not be made'
                _prepare(run, settings, children, teller)
                prepared[name] = None
            if why := prepared.get(name):
                raise Failed(why)
            with locked(run.folder / LOCK, inherited=True) as lock:
                if settings.smoke:
                    _forget(run.folder)
                carry_out(run, settings, children, teller, lock)
        except (Failed, ValueError, OSError) as error:
            failed[run.name] = str(error) or repr(error)
            teller(f'failed: {error}')
    return failed


def _prepare(run: Run, settings: RunSettings, children: Children,
             teller: 'Teller') -> None:
    """Generate raw scenes and convert them, from scratch."""
    folder = settings.runs / run.published.name
    with locked(folder / LOCK, inherited=True):
        for name in ('raw', 'data'):
            shutil.rmtree(folder / name, ignore_errors=True)
        for command in prepare_commands(run.published, settings):
            _run(command, folder / 'prepare.log', settings, children, teller)


def _forget(folder: Path) -> None:
    """Empty the folder of a smoke run, which always runs as a whole."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def carry_out(run: Run, settings: RunSettings, children: Children,
              teller: 'Teller', lock: int) -> None:
    """Train and test, as far as that is not done.

    Args:
        run: The run; nobody else may work in its folder.
        settings: What is the same for all.
        children: Run the commands.
        teller: Is told how far it is.
        lock: File that the commands keep open.

    Raises:
        Failed: A command failed.
    """
    problem = options_problem(run, settings)
    if problem:
        raise Failed(problem)
    write_text(run.folder / OPTIONS,
                     strict_json(options_of(run, settings)))
    trained = run.folder / TRAINED
    if trained.is_file():
        teller('is trained already')
    else:
        _run(training_command(run, settings), run.folder / 'train.log',
             settings, children, teller, lock)
        write_text(trained, strict_json(
            dict(checkpoint=best_checkpoint(run.folder).name)))
    checkpoint = run.folder / json.loads(trained.read_text())['checkpoint']
    if not checkpoint.is_file():
        raise Failed(f'{checkpoint} is missing; put it back, or delete '
                     f'{trained} to go on with the training.')
    if is_tested(run.folder, checkpoint):
        teller('is tested already')
        return
    _run(testing_command(run, settings, checkpoint), run.folder / 'test.log',
         settings, children, teller, lock)
    if not is_tested(run.folder, checkpoint):
        raise Failed(f'{run.folder / RESULTS} is not of {checkpoint}; see '
                     f'{run.folder / "test.log"}.')


def _run(command: Sequence[str], log: Path, settings: RunSettings,
         children: Children, teller: 'Teller', *keep_open: int) -> None:
    teller(f'{as_text(command, settings)}\n  log: {log}')
    end = log.stat().st_size if log.is_file() else 0
    code = children.run(command, log, environment(settings),
                        teller.show, keep_open)
    if code:
        with log.open(errors='replace') as file:
            file.seek(end)
            last = ''.join(file.readlines()[-30:])
        raise Failed(f'exit code {code}, see {log}\n{last.rstrip()}')


def options_problem(run: Run, settings: RunSettings) -> str | None:
    """Why a run must not go on with these settings, nor stand beside others.

    Runs of one model that differ in the seed alone become one mean.
    """
    now = options_of(run, settings)
    if not (run.folder / OPTIONS).is_file() and any(
            run.folder.glob('*.pth')):
        return (f'{run.folder} holds checkpoints of a run that somebody else '
                'started; give another --out.')
    for path in sorted(run.folder.parent.glob(f'seed*/{OPTIONS}')):
        before = json.loads(path.read_text())
        differ = [
            f'{k}={before.get(k)}, now {now.get(k)}'
            for k in sorted({*before, *now})
            if k != 'seed' and before.get(k) != now.get(k)]
        if differ:
            return (f'{path.parent} was started with {"; ".join(differ)}. '
                    'Use what it was started with, or another --out.')
    return None


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished training chose.

    Raises:
        Failed: There is none.
    """
    found = sorted(folder.glob(BEST))
    if len(found) > 1:
        # A training that was killed leaves one that it had not replaced yet.
        last = folder / Path(
            (folder / 'last_checkpoint').read_text().strip()).name
        hub = read_checkpoint(last).get('message_hub', {})
        best = hub.get('runtime_info', {}).get('best_ckpt')
        found = [p for p in found if best and p.name == Path(best).name]
    if len(found) != 1:
        raise Failed(f'{folder} holds no {BEST} though its training is over; '
                     'its config must validate and choose by aAcc.')
    return found[0]


def is_tested(folder: Path, checkpoint: Path) -> bool:
    """Whether the results in a folder are those of a checkpoint."""
    try:
        results = read_results(folder / RESULTS)
    except (FileNotFoundError, ValueError):
        return False
    return results['checkpoint']['sha256'] == sha256(checkpoint)


class Teller:
    """Says how far a run is.

    Args:
        name: What lines begin with.
        say: Gets the lines.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._start, self._told = time.monotonic(), float('-inf')

    def __call__(self, text: str) -> None:
        passed = timedelta(seconds=int(time.monotonic() - self._start))
        self._say(f'[{self._name}] {passed}  {text}')

    def show(self, line: str) -> None:
        """Pass on what a line of a log tells of the progress, if it does."""
        text = short(line)
        if text is None:
            return
        now = time.monotonic()
        if text.startswith('train') and now - self._told < PAUSE:
            return
        self._told = now
        self(text)


def short(line: str) -> str | None:
    """The part of a line of the host's log that tells how far it is."""
    found = PROGRESS.search(line)
    if not found:
        return None
    task, epoch, done, total, rest = found.groups()
    fields = dict(FIELDS.findall(rest))
    shown = ''.join(f'  {k} {fields[k]}' for k in SHOWN if k in fields)
    at = f'epoch {epoch}, ' if epoch else ''
    return f'{task} {at}{done}/{total}{shown}'


def _say_table(settings: RunSettings, names: Sequence[str],
               say: Callable[[str], None]) -> None:
    """Write all results of the folder as a table, say what was asked for."""
    found = {str(path): read_results(path)
             for path in sorted(settings.runs.glob(f'*/*/seed*/{RESULTS}'))}
    table = Table(found)
    path = settings.runs / 'table.md'
    if settings.smoke:
        text = SMOKE + ''.join(f'\n{x}' for x in table.other_tables())
        write_text(path, text)
        say(text)
    else:
        write_text(path, table.markdown())
        say(table.published_rows(
            [key for key, p in PUBLISHED.items() if p.name in names]))
    say(f'Table: {path}')
