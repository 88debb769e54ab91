"""Classes of one's own data, and where their pixels or polygons are."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from relay_seg.class_ids import IGNORE
from relay_seg.rasters.vectors import Vectors, read_vectors

from .legend import Legend, as_text, make_legend, unused
from .own_masks import (
    Census,
    Reading,
    census,
    clashing_palettes,
    reading_of,
    told_census,
    unknown_values,
)
from .own_pairs import Pairs, find_pairs
from .parts import open_part
from .running import Task, results, told_error

BACKGROUND = 'background'


@dataclass(frozen=True)
class Truth:
    """Where labels come from.

    Args:
        legend: Classes.
        features: Polygons, None for label rasters.
        pairs: Images with label rasters, None for polygons.
        reading: What pixels of these mean.
        problems: What is wrong.
        remarks: What the user should know.
    """

    legend: Legend
    features: Vectors | None
    pairs: Pairs | None
    reading: Reading | None
    problems: Sequence[str]
    remarks: Sequence[str]


def read_truth(args: argparse.Namespace) -> Truth:
    """Classes, and what they are in the raw data.

    Raises:
        ValueError: The options do not fit the data.
    """
    if args.polygons is None:
        return _of_rasters(args)
    if args.labels is not None:
        raise ValueError('give --polygons FILE or --labels FOLDER, not both.')
    features = read_vectors(args.polygons, args.layer)
    if features.crs is None:
        raise ValueError(
            f'{args.polygons} has no CRS; assign it, e.g. with `ogr2ogr '
            '-a_srs EPSG:32631 new.gpkg old.gpkg`.')
    column = args.class_column
    background = args.background
    remarks = []
    if column is None and len(args.classes) == 1:
        if background is None:
            background = BACKGROUND
            remarks.append('All polygons are of one class; pixels without '
                           f'one are the class {BACKGROUND}.')
        legend = make_legend(args.classes, (), background, args.ignore, '')
        return Truth(legend, features, None, None, (), remarks)
    if column not in features.columns:
        raise ValueError(
            f'{args.polygons} has the attributes {list(features.columns)}; '
            'name the one that holds the class with --class-column, or, if '
            'all polygons are of one class, that with --classes.')
    found = as_text(features.columns[column])
    legend = make_legend(args.classes, found, background, args.ignore,
                         f'{column!r} of {args.polygons}')
    idle = [value for value in unused(legend, found)
            if legend.values[value] != legend.background]
    if idle:
        remarks.append(f'No polygon is of {idle}.')
    if legend.background == IGNORE:
        remarks.append('Pixels without a polygon are ignored: nothing is '
                       'learned there. --background NAME makes them a class.')
    return Truth(legend, features, None, None, (), remarks)


def _of_rasters(args: argparse.Namespace) -> Truth:
    for option in ('background', 'pixel_size', 'class_column'):
        if getattr(args, option) is not None:
            raise ValueError(
                f'--{option.replace("_", "-")} is for --polygons FILE; '
                'prepare label rasters yourself.')
    pairs = find_pairs(args.raw, args.labels, args.out, args.image_names,
                       args.label_names)
    legend = make_legend(args.classes, (), None, args.ignore, '--classes'
                         ) if args.classes else None
    reading = reading_of(legend, args.nearest) if legend else None
    found, damaged = _censuses(
        [*pairs.labels.values()], reading.colours if reading else None,
        args.jobs)
    if legend is None or reading is None:
        if not found:
            raise ValueError('\n'.join(damaged))
        raise ValueError(f'{told_census(found)} Labels were found {pairs.how}'
                         '.')
    # With --leave-out, a look at each file tells, and leaves it out.
    unknown = [] if args.leave_out else unknown_values(found, reading)
    problems = [*unknown, *clashing_palettes(found)]
    values = {value for one in found.values() for value in one.pixels}
    remarks = []
    if values == {0, IGNORE} and reading.table.get(IGNORE) == IGNORE and (
            not reading.colours and str(IGNORE) not in legend.values):
        remarks.append(f'Labels hold 0 and {IGNORE} alone, and {IGNORE} is '
                       'ignored; if it is a class, name it, such as '
                       f'--classes background:0 thing:{IGNORE}.')
    return Truth(legend, None, pairs, reading, problems, remarks)


def _censuses(paths: Sequence[Path], colours: bool | None, jobs: int
              ) -> tuple[dict[Path, Census], list[str]]:
    """What labels hold, and what is wrong with some."""
    tasks = [Task(path.name, '', (path, ), open_part) for path in paths]
    found, damaged = {}, []
    for task, one in results(
            partial(_census, colours=colours), tasks, jobs,
            Console(soft_wrap=True, highlight=False), 'Reading labels'):
        if isinstance(one, str):
            damaged.append(one)
        else:
            found[task.sources[0]] = one['census']
    return dict(sorted(found.items())), damaged


def _census(task: Task, colours: bool | None) -> dict | str:
    try:
        return dict(census=census(task.sources[0], colours))
    except Exception as error:  # all that is wrong is told at once
        return told_error(error, task.sources)
