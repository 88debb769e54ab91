"""What a folder of one's own rasters asks for, by the command line."""
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

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
from .command import Conversion
from .folders import files_by_stem, pair
from .legend import Legend, as_text, make_legend, unused
from .manifest import SPLITS
from .own_configs import window_size
from .parts import Drawing, Part, open_part, whole_box
from .running import Task
from .splitting import (
    by_areas,
    by_blocks,
    by_chance,
    by_pattern,
    check_splits,
    shared_ground,
)

RASTERS = '.tif', '.tiff', '.jp2', '.img', '.vrt', '.png'


@dataclass(frozen=True)
class Truth:
    """Where labels come from.

    Args:
        legend: Classes.
        features: Polygons, None for label rasters.
        labels: Label raster of each image by its name, empty for polygons.
        remarks: What the user should know.
    """

    legend: Legend
    features: Vectors | None
    labels: Mapping[str, Path]
    remarks: Sequence[str]


def read_truth(args: argparse.Namespace) -> Truth:
    """Classes, and what they are in the raw data.

    Raises:
        ValueError: The options do not fit the data.
    """
    if (args.polygons is None) == (args.labels is None):
        raise ValueError('give --polygons FILE, or --labels FOLDER.')
    if args.labels is not None:
        if not args.classes:
            raise ValueError('--labels needs the meaning of the ids; write '
                             'such as --classes field:1 water:2,3.')
        legend = make_legend(args.classes, (), None, args.ignore, '--classes')
        odd = [value for value in legend.values
               if not value.isdecimal() or int(value) > IGNORE]
        if odd:
            raise ValueError(f'{odd} are no ids of a label raster; write such '
                             'as --classes field:1 water:2,3, with ids from '
                             '0 to 254.')
        if args.background is not None or args.pixel_size is not None:
            raise ValueError('--background and --pixel-size are for '
                             '--polygons; prepare label rasters yourself.')
        return Truth(legend, None, files_by_stem(args.labels, RASTERS), ())
    features = read_vectors(args.polygons, args.layer)
    column = args.class_column
    if column not in features.columns:
        raise ValueError(
            f'{args.polygons} has the attributes {list(features.columns)}; '
            'name the one that holds the class with --class-column.')
    if features.crs is None:
        raise ValueError(
            f'{args.polygons} has no CRS; assign it, e.g. with `ogr2ogr '
            '-a_srs EPSG:32631 new.gpkg old.gpkg`.')
    found = as_text(features.columns[column])
    legend = make_legend(args.classes, found, args.background, args.ignore,
                         f'{column!r} of {args.polygons}')
    remarks = []
    idle = [value for value in unused(legend, found)
            if legend.values[value] != legend.background]
    if idle:
        remarks.append(f'No polygon is of {idle}.')
    if legend.background == IGNORE:
        remarks.append('Pixels without a polygon are ignored: nothing is '
                       'learned there. --background NAME makes them a class.')
    return Truth(legend, features, {}, remarks)


def find_sheets(
        raw: Path, args: argparse.Namespace
) -> tuple[list[tuple[str, Sheet]], list[str]]:
    """Rasters with the split that their folder says, and what is wrong."""
    folders = {split: raw / split for split in SPLITS
               if (raw / split).is_dir()} if args.split == 'folders' else {
                   '': raw}
    found, problems = [], []
    for split, folder in folders.items():
        for path in files_by_stem(folder, RASTERS).values():
            try:
                sheet = look_at(path, args.bands, args.pixel_size)
                if args.polygons and sheet.crs is None:
                    raise ValueError(
                        f'{path} has no CRS, so where the polygons lie on it '
                        'cannot be known; assign it, e.g. with `gdal_edit.py '
                        '-a_srs EPSG:32631`.')
                found.append((split, sheet))
            except (ValueError, OSError) as error:
                problems.append(str(error))
    if not found:
        told = f' {problems[0]}' if problems else ''
        raise ValueError(
            f'{raw} holds no raster to convert; looked for '
            f'*{{{",".join(RASTERS)}}}.{told}')
    return found, problems


def choose_parts(found: Sequence[tuple[str, Sheet]], truth: Truth,
                 args: argparse.Namespace) -> tuple[list[Part], list[str]]:
    """What becomes scenes, and remarks.

    Raises:
        ValueError: A split is empty, or an option does not fit.
    """
    sheets = [sheet for _, sheet in found]
    planes = {}
    if truth.features:
        for crs in {sheet.crs for sheet in sheets}:
            planes[crs] = to_plane(
                truth.features.shapes, truth.features.crs, crs)

    def occupied(part: Part) -> bool:
        if truth.features is None or truth.legend.background != IGNORE:
            return True
        grid = part.grid
        return touching(planes[part.sheet.crs], bounds_of(
            grid.height, grid.width, grid.transform)).size > 0

    remarks: list[str] = []
    if args.split == 'blocks':
        parts, remarks = by_blocks(
            sheets, args.block, args.margin,
            min(window_size(args.model)), occupied, args.shares, args.seed)
    elif args.split == 'areas':
        parts = by_areas(
            sheets, read_vectors(args.areas, args.areas_layer),
            args.split_column, args.repair)
    elif args.split == 'folders':
        parts = [Part(sheet.path.stem, split, sheet, whole_box(sheet))
                 for split, sheet in found]
    else:
        parts = by_pattern(sheets, args.val, args.test)
    bare = [part for part in parts if not occupied(part)]
    parts = [part for part in parts if occupied(part)]
    if bare:
        remarks.append(
            f'{len(bare)} raster(s) or area(s) meet no polygon and are left '
            f'out, e.g. {bare[0].name}.')
    if args.split == 'files' and not args.val and not args.test:
        parts = by_chance(parts, args.shares, args.seed)
    check_splits(parts)
    if truth.features:
        remarks += _outside(truth.features, parts, planes)
    return parts, remarks + shared_ground(parts)


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


def plan(raw: Path, truth: Truth, args: argparse.Namespace) -> Conversion:
    """Scenes of a raw folder."""
    found, problems = find_sheets(raw, args)
    sheets = [sheet for _, sheet in found]
    remarks = [*truth.remarks, *check_alike(sheets)]
    beside: tuple[Path, ...] = ()
    if truth.features:
        check_overlap(truth.features, [sheet.path for sheet in sheets])
        empty = np.flatnonzero(shapely.is_missing(truth.features.shapes)
                               | shapely.is_empty(truth.features.shapes))
        if empty.size and not args.repair:
            problems.append(
                f'{args.polygons}: {"; ".join(faults(truth.features, empty))}'
                '. Use --repair to leave out what cannot be drawn.')
        drawn: Drawing | dict[int, int] = Drawing(
            args.polygons, args.layer, args.class_column,
            dict(truth.legend.values), truth.legend.background,
            args.priority == 'classes', args.repair)
        beside = (args.polygons, )
    else:
        images = {sheet.path.stem: sheet.path for sheet in sheets}
        pairs, alone = pair(images, dict(truth.labels), args.labels)
        problems += alone
        paired = {name for name, _, _ in pairs}
        found = [(split, sheet) for split, sheet in found
                 if sheet.path.stem in paired]
        drawn = {IGNORE: IGNORE} | {
            int(value): ident for value, ident in truth.legend.values.items()}
    parts, more = choose_parts(found, truth, args)
    if args.areas:
        beside += (args.areas, )
    tasks = [Task(
        part.name, part.split,
        (part.sheet.path, *([truth.labels[part.sheet.path.stem]]
                            if truth.labels else []), *beside),
        open_part, dict(part=part, truth=drawn)) for part in parts]
    return Conversion(tasks, problems, remarks=[*remarks, *more])
