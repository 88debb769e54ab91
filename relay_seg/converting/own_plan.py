"""What a folder of one's own rasters asks for, by the command line.

The plan is made by looking at all files; it is printed, and then executed by
:mod:`relay_seg.converting.command`.
"""
import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from rich.console import Console

from relay_seg.class_ids import IGNORE
from relay_seg.rasters.vectors import (
    Vectors,
    bounds_of,
    check_overlap,
    faults,
    read_vectors,
    to_plane,
    touching,
)

from .bands import Sheet, check_alike, look_at
from .command import Conversion, is_current
from .legend import Legend
from .manifest import SPLITS, read_manifest
from .own_configs import RARE, window_size
from .own_lists import split_lists
from .own_look import look, twins
from .own_pairs import files_below, split_of
from .own_truth import Truth
from .parts import Drawing, Part, open_part, whole_box
from .running import Task, results
from .splitting import (
    by_areas,
    by_blocks,
    by_chance,
    by_pattern,
    check_splits,
    shared_ground,
)

#: What converting takes beyond looking, in seconds of one core: for each
#: number of an image, and for each scene. Of the two examples of
#: docs/own_data.md; another machine is another, hence "about".
WRITING, CLOSING = 6e-8, 0.03
SHOWN = 5


class Findings:
    """What is wrong with a raw folder, and what the user should know.

    Args:
        leave_out: Whether files that will not do are left out and told.

    Attributes:
        seconds: What converting will take one process, about.
    """

    def __init__(self, leave_out: bool) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.seconds = 0.
        self._leave_out = leave_out

    def spoiled(self, text: str) -> None:
        """A file that cannot be converted."""
        if self._leave_out:
            self.remarks.append(f'Left out: {text}')
        else:
            self.problems.append(text)


def plan(raw: Path, truth: Truth, args: argparse.Namespace,
         options: Mapping[str, object]) -> Conversion:
    """Look at all files, and say what will become of them.

    Args:
        raw: Raw folder.
        truth: Classes and where they are.
        args: The command line.
        options: What of it changes scenes.

    Raises:
        ValueError: Nothing can be made of the folder.
    """
    findings = Findings(args.leave_out)
    try:
        return _plan(raw, truth, args, options, findings)
    except ValueError as error:
        # What was wrong before may be why.
        raise ValueError('\n'.join([*findings.problems, str(error)])
                         ) from error


def _plan(raw: Path, truth: Truth, args: argparse.Namespace,
          options: Mapping[str, object], findings: Findings) -> Conversion:
    findings.problems += truth.problems
    findings.remarks += truth.remarks
    for text in truth.pairs.problems if truth.pairs else ():
        findings.spoiled(text)
    if truth.pairs and not truth.pairs.sure and not args.yes:
        (findings.remarks if args.dry_run else findings.problems).append(
            f'Labels were found {truth.pairs.how}. If that is right, repeat '
            'the command with --yes; else say what is alike with '
            "--image-names and --label-names, such as '*_image.png' and "
            "'*_mask.png'.")
    sheets = _sheets(raw, truth, args, findings)
    findings.remarks += check_alike(sheets)
    if truth.features:
        check_overlap(truth.features, [sheet.path for sheet in sheets])
        empty = np.flatnonzero(shapely.is_missing(truth.features.shapes)
                               | shapely.is_empty(truth.features.shapes))
        if empty.size and not args.repair:
            findings.problems.append(
                f'{args.polygons}: {"; ".join(faults(truth.features, empty))}'
                '. Use --repair to leave out what cannot be drawn.')
    way = args.split or _likely_way(sheets, raw, args)
    parts = _choose_parts(sheets, way, raw, truth, args, findings)
    if args.check:
        return Conversion(_tasks(parts, truth, args), findings.problems)
    tasks = _looked_at(_tasks(parts, truth, args), raw, args, options,
                       findings)
    check_splits([task.split for task in tasks], ())
    findings.remarks += twins(tasks, [task.seen for task in tasks])
    findings.remarks += _learnable(tasks, truth.legend)
    return Conversion(
        tasks, findings.problems, remarks=findings.remarks, strict=True,
        overview=_overview(sheets, way, tasks, truth, args, findings.seconds))


def _sheets(raw: Path, truth: Truth, args: argparse.Namespace,
            findings: Findings) -> list[Sheet]:
    """Images that can be converted."""
    paths = [*truth.pairs.labels] if truth.pairs else files_below(
        raw, [args.out])
    found, wrong = [], []
    for path in paths:
        try:
            sheet = look_at(path, args.bands, args.pixel_size)
            if args.polygons and sheet.crs is None:
                raise ValueError(
                    f'{path} has no CRS, so where the polygons lie on it '
                    'cannot be known; assign it, e.g. with `gdal_edit.py '
                    '-a_srs EPSG:32631`.')
            found.append(sheet)
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    if not found:
        raise ValueError(f'{raw} holds no raster to convert.'
                         + ''.join(f' {text}' for text in wrong[:1]))
    for text in wrong:
        findings.spoiled(text)
    return found


def _likely_way(sheets: Sequence[Sheet], raw: Path,
                args: argparse.Namespace) -> str:
    """How to split where nothing is said."""
    if args.split_lists:
        return 'lists'
    if args.areas:
        return 'areas'
    named = {split_of(sheet.path, raw) for sheet in sheets}
    return 'folders' if 'train' in named and not (
        args.val or args.test) else 'files'


def _choose_parts(sheets: Sequence[Sheet], way: str, raw: Path, truth: Truth,
                  args: argparse.Namespace,
                  findings: Findings) -> list[Part]:
    """What becomes scenes.

    Raises:
        ValueError: A split is empty, or an option does not fit.
    """
    planes = {crs: to_plane(truth.features.shapes, truth.features.crs, crs)
              for crs in {sheet.crs for sheet in sheets}
              } if truth.features else {}

    def occupied(part: Part) -> bool:
        if truth.features is None or truth.legend.background != IGNORE:
            return True
        grid = part.grid
        return touching(planes[part.sheet.crs], bounds_of(
            grid.height, grid.width, grid.transform)).size > 0

    remarks: list[str] = []
    if way == 'blocks':
        parts, remarks = by_blocks(
            sheets, args.block, args.margin,
            min(window_size(args.model)), occupied, args.shares, args.seed)
    elif way == 'areas':
        parts = by_areas(
            sheets, read_vectors(args.areas, args.areas_layer),
            args.split_column, args.repair)
    elif way in ('folders', 'lists'):
        parts = _named_parts(sheets, way, raw, truth, args, findings)
    else:
        parts = by_pattern(sheets, args.val, args.test)
    bare = [part for part in parts if not occupied(part)]
    parts = [part for part in parts if occupied(part)]
    if bare:
        remarks.append(
            f'{len(bare)} raster(s) or area(s) meet no polygon and are left '
            f'out, e.g. {bare[0].name}.')
    if way == 'files' and not args.val and not args.test:
        parts = by_chance(parts, args.shares, args.seed)
    check_splits([part.split for part in parts], remarks)
    if truth.features:
        remarks += _outside(truth.features, parts, planes)
    findings.remarks += remarks + shared_ground(parts)
    return _with_own_names(parts, raw)


def _named_parts(sheets: Sequence[Sheet], way: str, raw: Path, truth: Truth,
                 args: argparse.Namespace, findings: Findings) -> list[Part]:
    """Whole rasters, split by their folders or by lists."""
    if way == 'folders':
        splits = {sheet.path: split for sheet in sheets
                  if (split := split_of(sheet.path, raw))}
    else:
        splits, problems = split_lists(
            args.split_lists, [sheet.path for sheet in sheets],
            truth.pairs.names if truth.pairs else {}, raw)
        for text in problems:
            findings.spoiled(text)
    idle = [sheet.path for sheet in sheets if sheet.path not in splits]
    if idle:
        told = ', '.join(path.relative_to(raw).as_posix()
                         for path in idle[:SHOWN])
        more = f' and {len(idle) - SHOWN} more' * (len(idle) > SHOWN)
        if way == 'folders':
            findings.spoiled(
                f'{len(idle)} image(s) lie in no folder train, val or test: '
                f'{told}{more}. Move them, or use --leave-out.')
        else:
            findings.remarks.append(
                f'{len(idle)} image(s) are in no list and not used: '
                f'{told}{more}.')
    return [Part(sheet.path.stem, splits[sheet.path], sheet, whole_box(sheet))
            for sheet in sheets if sheet.path in splits]


def _with_own_names(parts: Sequence[Part], raw: Path) -> list[Part]:
    """Scenes of one name in several folders are named by these, too."""
    counts = Counter((part.split, part.name) for part in parts)
    return [part if counts[part.split, part.name] == 1 else replace(
        part, name='_'.join((*part.sheet.path.relative_to(raw).parent.parts,
                             part.name))) for part in parts]


def _outside(features: Vectors, parts: Sequence[Part],
             planes: Mapping) -> list[str]:
    """How many polygons lie on no part."""
    used = np.zeros(len(features.shapes), bool)
    for part in parts:
        grid = part.grid
        used[touching(planes[part.sheet.crs], bounds_of(
            grid.height, grid.width, grid.transform))] = True
    lost = np.count_nonzero(~used)
    if not lost:
        return []
    return [f'{lost} of {len(used)} polygons of {features.path} lie outside '
            'of all scenes and are not used.']


def _tasks(parts: Sequence[Part], truth: Truth,
           args: argparse.Namespace) -> list[Task]:
    """Parts as scenes to convert."""
    areas = (args.areas, ) if args.areas else ()
    if truth.pairs:
        labels, meaning = truth.pairs.labels, truth.reading
        return [Task(part.name, part.split, (
            part.sheet.path, labels[part.sheet.path], *areas), open_part,
            dict(part=part, truth=meaning), _piece(part)) for part in parts]
    drawn = Drawing(
        args.polygons, args.layer, args.class_column,
        dict(truth.legend.values), truth.legend.background,
        args.priority == 'classes', args.repair)
    return [Task(part.name, part.split,
                 (part.sheet.path, args.polygons, *areas), open_part,
                 dict(part=part, truth=drawn), _piece(part))
            for part in parts]


def _piece(part: Part) -> dict:
    """Which piece of its raster a part is; nothing for all of it."""
    return {} if part.box == whole_box(part.sheet) else dict(
        box=list(part.box))


def _looked_at(tasks: Sequence[Task], raw: Path, args: argparse.Namespace,
               options: Mapping[str, object],
               findings: Findings) -> list[Task]:
    """Scenes with what is in them; converted ones are not read again."""
    old = read_manifest(args.out)
    seen, fresh = {}, []
    for task in tasks:
        record = old.scenes.get(task.image) if old else None
        if record and 'seen' in record and is_current(
                record, task, options, raw, args.out):
            seen[task.image] = record['seen']
        else:
            fresh.append(task)
    for task, one in results(
            look, fresh, args.jobs,
            Console(soft_wrap=True, highlight=False), 'Looking'):
        if isinstance(one, str):
            findings.spoiled(one)
        else:
            findings.seconds += one.pop('seconds') + CLOSING + WRITING * (
                one['numbers'])
            seen[task.image] = one
    return [replace(task, seen=seen[task.image]) for task in tasks
            if task.image in seen]


def _pixels(tasks: Sequence[Task], split: str | None,
            legend: Legend) -> np.ndarray:
    """Pixels of each class, and of none, in a split or in all."""
    total = np.zeros(len(legend.names) + 1, np.int64)
    for task in tasks:
        if split in (None, task.split):
            counts = np.array(task.seen['counts'], np.int64)
            total[:len(counts)] += counts
            total[-1] += task.seen['ignored']
    return total


def _learnable(tasks: Sequence[Task], legend: Legend) -> list[str]:
    """Remarks on what trains badly."""
    splits = {task.split for task in tasks}
    remarks = []
    for split in sorted(splits, key=SPLITS.index):
        pixels = _pixels(tasks, split, legend)[:-1]
        absent = [name for name, count in zip(legend.names, pixels)
                  if not count]
        if absent:
            remarks.append(f'{split} has no pixel of {", ".join(absent)}.')
        rare = [f'{name} ({count / pixels.sum():.2%})'
                for name, count in zip(legend.names, pixels)
                if 0 < count < RARE * pixels.sum()]
        if rare and split == 'train':
            remarks.append(
                f'Rare in train: {", ".join(rare)}. The config has '
                'class_balanced=True, so that they are drawn as often as '
                'others.')
    if splits and 'val' not in splits:
        remarks.append(
            'There is no val split: validation reads test, so the model '
            'would be chosen by what it is tested on. Give --val, or a share '
            'for val.')
    if splits and 'test' not in splits:
        remarks.append('There is no test split: test reads val, by which the '
                       'model was chosen.')
    return remarks


def _overview(sheets: Sequence[Sheet], way: str, tasks: Sequence[Task],
              truth: Truth, args: argparse.Namespace,
              seconds: float) -> list[str]:
    """The plan in words."""
    sizes = sorted((sheet.grid.shape for sheet in sheets), key=np.prod)
    kinds = Counter(sheet.path.suffix.lower() for sheet in sheets)
    listed = ', '.join(f'{count} {kind}' for kind, count in sorted(
        kinds.items()))
    spread = ' to '.join(dict.fromkeys(
        f'{height} x {width}' for height, width in (sizes[0], sizes[-1])))
    lines = [
        f'images   {len(sheets)} ({listed}), {spread} pixels (rows x '
        f'columns), {len(sheets[0].bands)} band(s) of {sheets[0].dtype}']
    if truth.pairs and truth.reading:
        lines.append(
            f'labels   {len(truth.pairs.labels)}, found {truth.pairs.how}; '
            f'read by {"colour" if truth.reading.colours else "id"}')
    else:
        lines.append(f'labels   polygons of {args.polygons}')
    counts = Counter(task.split for task in tasks)
    splits = [split for split in SPLITS if counts[split]]
    lines.append(f'split    {way}: ' + ', '.join(
        f'{counts[split]} {split}' for split in splits))
    table = np.array([_pixels(tasks, split, truth.legend)
                      for split in (None, *splits)])
    known = np.maximum(table[:, :-1].sum(1), 1)
    width = max(len(name) for name in (*truth.legend.names, 'ignored'))
    lines.append(f'{"class":{width + 4}} {"pixels":>14} {"all":>9}' + ''.join(
        f' {split:>9}' for split in splits))
    shares = np.column_stack([
        table[:, :-1] / known[:, None],
        table[:, -1] / np.maximum(table.sum(1), 1)])
    for ident, name in enumerate((*truth.legend.names, 'ignored')):
        number = ident if ident < len(truth.legend.names) else ''
        lines.append(f'{number:3} {name:{width}} {table[0, ident]:14}'
                     + ''.join(f' {share:9.2%}' for share in shares[:, ident]))
    jobs = max(min(args.jobs, len(tasks)), 1)
    lines.append(f'time     about {_told(seconds / jobs)} to convert, with '
                 f'{jobs} job(s)')
    return lines


def _told(seconds: float) -> str:
    if seconds < 90:
        return f'{max(seconds, 1):.0f} s'
    if seconds < 5400:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'
