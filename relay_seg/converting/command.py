"""What converters do: convert, resume, check, summarise."""
import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from relay_seg.rasters import (
    EXACT_OVERVIEWS,
    open_raster,
    remove_unfinished,
    write_text,
)
from relay_seg.rasters.files import locked
from relay_seg.rasters.identity import files_of, inode

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
        overview: The plan in words.
        strict: Whether nothing is converted where there are problems.
    """

    tasks: Sequence[Task]
    problems: Sequence[str] = ()
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    overview: Sequence[str] = ()
    strict: bool = False


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
        args: ``raw``, ``out``, ``jobs`` and ``check``; perhaps ``dry_run``:
            stop after the plan, and ``clean``: remove scenes that are not in
            it.
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
        for line in (*plan.overview, *plan.remarks):
            console.print(line, markup=False)
        if plan.strict and plan.problems:
            raise ValueError('\n'.join([
                'nothing is converted.', *plan.problems]))
        strangers = _strangers(plan, args.out, getattr(args, 'clean', False))
        _refuse_taken(plan.tasks, args.out)
        if getattr(args, 'dry_run', False):
            console.print('Nothing is written (--dry-run).')
            return OK
        with locked(args.out / LOCK):
            for path in strangers:
                path.unlink()
                console.print(f'{path} removed.', markup=False)
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
    remove_unfinished(out)
    old = read_manifest(out)
    known = old.scenes if old else {}
    manifest = Manifest(converter.name, converter.classes, options)
    manifest.failures.update(
        {f'{raw} ({i})': text for i, text in enumerate(plan.problems, 1)})
    pending = []
    for task in plan.tasks:
        record = known.get(task.image)
        if record and is_current(record, task, options, raw, out):
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


def is_current(record: Mapping, task: Task, options: Mapping[str, object],
               raw: Path, out: Path) -> bool:
    """Whether a scene has been converted, from what is there now."""
    return (record['options'] == options
            and record.get('part', {}) == task.part
            and record['sources'] == source_records(task, raw)
            and is_whole(dict(record), out))


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
        problems += [f'{task.sources[0]}, or what belongs to it, has changed '
                     f'since {task.image} was made of it'
                     for task in plan.tasks
                     if (record := manifest.scenes.get(task.image))
                     and record['sources'] != source_records(task, raw)]
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


def _strangers(plan: Conversion, out: Path, clean: bool) -> list[Path]:
    """Scenes in the result that the plan does not have.

    A data set lists what is in its folders, so nothing else may be.

    Args:
        plan: The plan.
        out: Folder of the result.
        clean: Whether they are to be removed, if a converter wrote them.

    Raises:
        ValueError: There are some, and they are not to be removed, or others
            wrote them.
    """
    wanted = {path for task in plan.tasks for path in (task.image, task.label)}
    found = [out / path for path in _rasters(out) if path not in wanted]
    foreign = [path for path in found if not _is_converted(path)]
    if found and not clean or foreign:
        first, remedy = (foreign[0], 'move them away') if clean else (
            found[0], 'remove them (custom.py does with --clean)')
        raise ValueError(
            f'{out} holds {len(foreign if clean else found)} file(s) that do '
            f'not come from this raw folder, e.g. {first}, and training would '
            f'read them; {remedy}, or choose another folder.')
    return found


def _refuse_taken(tasks: Sequence[Task], out: Path) -> None:
    """Nothing is written over what is read, or over what others wrote.

    Raises:
        ValueError: It would be; says over what.
    """
    wanted = [out / path for task in tasks for path in (task.image, task.label)
              if os.path.lexists(out / path)]
    if not wanted:
        return
    sources = {source for task in tasks for source in task.sources}
    read = {inode(file) for source in sources for file in files_of(source)}
    known = read_manifest(out)
    ours = {record[key]['path'] for record in known.scenes.values()
            for key in ('image', 'label')} if known else set()
    for path in wanted:
        if inode(path) in read:
            raise ValueError(
                f'{path} is one of the files that are read, and a scene would '
                'be written over it; choose another folder for the result.')
        if path.relative_to(out).as_posix() not in ours and (
                not _is_converted(path)):
            raise ValueError(
                f'{path} is not the result of a converter, and a scene would '
                'be written over it; move it away, or choose another folder.')


def _is_converted(path: Path) -> bool:
    """Whether a converter wrote a file; what cannot be read is another's."""
    try:
        with open_raster(path) as raster:
            return EXACT_OVERVIEWS in raster.tags()
    except (ValueError, OSError):
        return False


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
                      f'{"; " if shares else ""}{shares}', markup=False)
    for record in records:
        for note in record['notes']:
            console.print(f'{record["image"]["path"]}: {note}', markup=False)
    for text in manifest.failures.values():
        console.print('[red]failed[/] ', end='')
        console.print(text, markup=False)
    if manifest.failures:
        console.print(f'{len(manifest.failures)} failure(s); mend them and '
                      'run the same command again, finished scenes are kept.')
