"""What converters do: convert, resume, check, summarise."""
import argparse
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from relay_seg.rasters import remove_unfinished, write_text
from relay_seg.rasters.files import locked

from .manifest import (
    SPLITS,
    Manifest,
    damage,
    is_whole,
    read_manifest,
)
from .running import (
    LOCK,
    SCRATCH,
    Task,
    convert_task,
    progress,
    results,
    source_records,
)

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Conversion:
    """What a raw folder asks for.

    Args:
        tasks: Scenes to convert.
        problems: What is wrong with the raw folder beside them.
        lists: Names of scenes by name of a text file in the output folder.
        remarks: What the user should know, without being wrong.
    """

    tasks: Sequence[Task]
    problems: Sequence[str] = ()
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Converter:
    """A data set and how it comes.

    Args:
        name: Name of the data set.
        classes: Names of the classes.
        palette: Their colours.
        plan: Looks at a raw folder; gets the folder and the options. Raises
            ValueError or FileNotFoundError for a folder that it does not
            understand.
        published: Scenes of each split in the published data set.
        finish: What to do when all scenes are converted; gets the output
            folder and the manifest, gives lines to print.
    """

    name: str
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    plan: Callable[..., Conversion]
    published: Mapping[str, int] = field(default_factory=dict)
    finish: Callable[[Path, Manifest], Sequence[str]] | None = None


def execute(describe: Callable[[], Converter], args: argparse.Namespace,
            options: Mapping[str, object]) -> int:
    """Do what the command line says.

    Args:
        describe: Gives the converter; may raise what ``plan`` may.
        args: ``raw``, ``out``, ``jobs`` and ``check``.
        options: What changes the result, of types that JSON keeps.

    Returns:
        Exit code: 0 if everything is converted or right, 1 if something is
        wrong, 2 if the raw folder is not understood, 130 if interrupted.
    """
    console = Console(soft_wrap=True, highlight=False)
    name = args.out.name
    try:
        converter = describe()
        name = converter.name
        if args.check:
            return _check(converter, args.raw, args.out, options, console)
        plan = _look(converter, args.raw, options)
        with locked(args.out / LOCK):
            return _convert(converter, plan, args.raw, args.out, args.jobs,
                            options, console)
    except (ValueError, OSError) as error:
        console.print(f'[red]{name}[/]: ', end='')
        console.print(str(error), markup=False)
        return REFUSED
    except KeyboardInterrupt:
        console.print('Interrupted; the same command goes on from here.')
        return INTERRUPTED


def _convert(converter: Converter, plan: Conversion, raw: Path, out: Path,
             jobs: int, options: Mapping[str, object],
             console: Console) -> int:
    _refuse_strangers(plan, out)
    remove_unfinished(out)
    for remark in plan.remarks:
        console.print(remark, markup=False)
    old = read_manifest(out)
    known = old.scenes if old else {}
    manifest = Manifest(converter.name, converter.classes, options)
    manifest.failures.update(
        {f'{raw} ({i})': text for i, text in enumerate(plan.problems, 1)})
    pending = []
    for task in plan.tasks:
        record = known.get(task.image)
        if (record and record['options'] == options
                and record['sources'] == source_records(task, raw)
                and is_whole(record, out)):
            manifest.scenes[task.image] = record
        else:
            pending.append(task)
            for path in (task.image, task.label):
                (out / path).unlink(missing_ok=True)
    manifest.write(out)
    if len(pending) < len(plan.tasks):
        console.print(f'{len(plan.tasks) - len(pending)} of '
                      f'{len(plan.tasks)} scenes are there already.')
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)  # the dying workers of a killed run are in it
    work = partial(convert_task, raw=raw, out=out, options=options,
                   palette=converter.palette)
    try:
        for task, result in results(work, pending, jobs, console):
            if isinstance(result, dict):
                manifest.add(result, out)
            else:
                manifest.failures[task.image] = result
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        manifest.write(out)
    for name, scenes in plan.lists.items():
        write_text(out / name, ''.join(f'{scene}\n' for scene in scenes))
    _summarise(converter, manifest, console)
    if converter.finish and not manifest.failures:
        for line in converter.finish(out, manifest):
            console.print(line, markup=False)
    return FAILED if manifest.failures else OK


def _check(converter: Converter, raw: Path, out: Path,
           options: Mapping[str, object], console: Console) -> int:
    manifest = read_manifest(out)
    if manifest is None:
        raise FileNotFoundError(
            f'{out} has no manifest.json; it is not the result of a '
            'converter. Convert first, without --check.')
    if manifest.dataset != converter.name:
        raise ValueError(f'{out} holds {manifest.dataset}, not '
                         f'{converter.name}; use its converter.')
    problems = list(manifest.failures.values())
    records = list(manifest.scenes.values())
    for record in progress(records, len(records), 'Checking', console):
        problems += damage(record, out)
    files = {record[key]['path'] for record in records
             for key in ('image', 'label')}
    problems += [f'{path} is not in the manifest'
                 for path in _rasters(out) if path not in files]
    if raw.is_dir():
        plan = _look(converter, raw, options)
        problems += [f'{task.sources[0]} is not converted'
                     for task in plan.tasks
                     if task.image not in manifest.scenes
                     and task.image not in manifest.failures]
        if manifest.options != options:
            problems.append(f'{out} was made with {manifest.options}, not '
                            f'with {options}')
    else:
        console.print(f'{raw} is no folder; not checked that all of it is '
                      'converted.')
    for problem in problems:
        console.print(problem, markup=False)
    console.print(f'{len(records)} scenes checked, {len(problems)} '
                  'problem(s).')
    return FAILED if problems else OK


def _look(converter: Converter, raw: Path,
          options: Mapping[str, object]) -> Conversion:
    """Plan, and check that no two scenes have one name."""
    if not raw.is_dir():
        raise FileNotFoundError(
            f'{raw} is no folder; give the folder with the unpacked download.')
    plan = converter.plan(raw, **options)
    counts = Counter(task.image for task in plan.tasks)
    for task in plan.tasks:
        if counts[task.image] > 1:
            twins = [str(twin.sources[0]) for twin in plan.tasks
                     if twin.image == task.image]
            raise ValueError(f'{" and ".join(twins)} would both become '
                             f'{task.image}; remove one.')
    return plan


def _refuse_strangers(plan: Conversion, out: Path) -> None:
    """A data set lists what is in its folders, so nothing else may be."""
    wanted = {path for task in plan.tasks for path in (task.image, task.label)}
    strangers = [path for path in _rasters(out) if path not in wanted]
    if strangers:
        raise ValueError(
            f'{out} holds {len(strangers)} file(s) that do not come from this '
            f'raw folder, e.g. {strangers[0]}, and training would read them; '
            'delete them or choose another folder.')


def _rasters(out: Path) -> list[str]:
    return sorted(
        path.relative_to(out).as_posix() for folder in ('img_dir', 'ann_dir')
        for path in out.glob(f'{folder}/*/*.tif'))


def _summarise(converter: Converter, manifest: Manifest,
               console: Console) -> None:
    records = list(manifest.scenes.values())
    for split in SPLITS:
        mine = [r for r in records if r['split'] == split]
        published = converter.published.get(split)
        if not mine and not published:
            continue
        pixels = [sum(column) for column in zip(
            *(r['class_pixels'] for r in mine))]
        shares = ', '.join(
            f'{name} {count / max(sum(pixels), 1):.1%}'
            for name, count in zip(converter.classes, pixels))
        odd = ('' if published in (None, len(mine)) else
               f' (the published set has {published})')
        console.print(f'{split}: {len(mine)} scenes{odd}'
                      f'{"; " if shares else ""}{shares}')
    for record in records:
        for note in record['notes']:
            console.print(f'{record["image"]["path"]}: {note}', markup=False)
    for text in manifest.failures.values():
        console.print('[red]failed[/] ', end='')
        console.print(text, markup=False)
    if manifest.failures:
        console.print(f'{len(manifest.failures)} failure(s); mend them and '
                      'run the same command again, finished scenes are kept.')
