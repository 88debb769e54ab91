"""Which part of one's own rasters trains, validates and tests.

A part becomes a file of its own, and what a view shows never leaves its
file: no training view holds a pixel of a test file, at any scale, rotation or
context factor, as long as the files share no ground (:func:`shared_ground`).
"""
import random
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import product
from math import ceil
from pathlib import Path

import numpy as np
import shapely

from relay_seg.rasters.vectors import Vectors, sound, to_plane

from .bands import Sheet
from .legend import as_text
from .manifest import SPLITS
from .parts import Box, Part, whole_box

#: Parts that share less of their ground are neighbours.
SHARED = 0.001

Occupied = Callable[[Part], bool]


def by_pattern(sheets: Sequence[Sheet], val: Sequence[str],
               test: Sequence[str]) -> list[Part]:
    """Whole rasters by names; all others train.

    Args:
        sheets: Rasters.
        val: Names or patterns such as ``north_*`` of those that validate.
        test: Those that test.

    Raises:
        ValueError: A pattern fits no raster, or a raster two splits.
    """
    parts = []
    patterns = dict(val=val, test=test)
    for split, some in patterns.items():
        for pattern in some:
            if not any(_fits(sheet, pattern) for sheet in sheets):
                raise ValueError(
                    f'--{split} {pattern} fits none of the '
                    f'{len(sheets)} rasters, e.g. {sheets[0].path.name}; '
                    'correct it.')
    for sheet in sheets:
        splits = [split for split, some in patterns.items()
                  if any(_fits(sheet, pattern) for pattern in some)]
        if len(splits) > 1:
            raise ValueError(f'{sheet.path.name} fits --val and --test; '
                             'leave it in one.')
        parts.append(Part(sheet.path.stem, (*splits, 'train')[0], sheet,
                          whole_box(sheet)))
    return parts


def by_chance(parts: Sequence[Part], shares: Sequence[float],
              seed: int, remedy: str = 'more images, or --split blocks'
              ) -> list[Part]:
    """Parts in three splits, drawn.

    Args:
        parts: Parts; what splits they have does not count.
        shares: Shares of train, val and test, in any unit.
        seed: Seed of the draw.
        remedy: What to do where there are too few.

    Raises:
        ValueError: There are too few parts.
    """
    if len(shares) != 3 or min(shares) < 0 or not shares[0] > 0:
        raise ValueError(f'--shares {shares} are no shares of train, val and '
                         'test; write such as 70 15 15.')
    numbers = [max(round(len(parts) * share / sum(shares)), 1) if share else 0
               for share in shares[1:]]
    such = f', e.g. {parts[0].name},' if parts else ''
    if sum(numbers) >= len(parts):
        raise ValueError(
            f'{len(parts)} part(s){such} are too few to draw train, val and '
            f'test from; use {remedy}, or a share of 0 for val in --shares.')
    splits = ['val'] * numbers[0] + ['test'] * numbers[1]
    splits += ['train'] * (len(parts) - len(splits))
    random.Random(seed).shuffle(splits)
    return [Part(part.name, split, part.sheet, part.box, part.outline)
            for part, split in zip(parts, splits)]


def by_areas(sheets: Sequence[Sheet], areas: Vectors, column: str,
             repair: bool) -> list[Part]:
    """Polygons of an area layer cut out of the rasters.

    Args:
        sheets: Rasters.
        areas: Polygons.
        column: Attribute with train, val or test.
        repair: Mend polygons that cannot be drawn.

    Raises:
        ValueError: The attribute is not there or holds something else.
    """
    if column not in areas.columns:
        raise ValueError(
            f'{areas.path} has the attributes {list(areas.columns)}; name the '
            'one that holds train, val or test with --split-column.')
    splits = as_text(areas.columns[column])
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise ValueError(
            f'{areas.path} holds {unknown} in {column!r}; train, val and test '
            'are expected. Correct them.')
    parts = []
    everything = np.arange(len(splits))
    for sheet in sheets:
        shapes = sound(areas, everything, sheet.crs, repair, [])
        for ident, split, shape in zip(areas.ids, splits, shapes):
            cut = _cut_out(sheet, shape)
            if cut:
                parts.append(Part(f'{sheet.path.stem}_area{ident}', split,
                                  sheet, *cut))
    return parts


def _cut_out(sheet: Sheet,
             shape: shapely.Geometry) -> tuple[Box, object] | None:
    """Box and outline of a polygon in a raster, if it reaches there."""
    inverse = ~sheet.grid.transform
    pixels = shapely.transform(
        shape, lambda xy: np.column_stack(inverse @ tuple(xy.T)))
    height, width = sheet.grid.height, sheet.grid.width
    inside = shapely.intersection(pixels, shapely.box(0, 0, width, height))
    if inside.area < 1:
        return None
    left, top, right, bottom = inside.bounds
    top, left = int(top), int(left)
    box = Box(top, left, min(ceil(bottom), height) - top,
              min(ceil(right), width) - left)
    # A pixel belongs to what its centre lies in.
    centres = shapely.box(left + 0.5, top + 0.5, left + box.width - 0.5,
                          top + box.height - 0.5)
    return box, None if pixels.covers(centres) else shape


def by_blocks(sheets: Sequence[Sheet], block: int, margin: int,
              smallest: int, occupied: Occupied, shares: Sequence[float],
              seed: int) -> tuple[list[Part], list[str]]:
    """Rasters cut into blocks; blocks of two splits do not touch.

    A block gives up half of the margin at each side, and at each corner,
    where it meets a block of another split.

    Args:
        sheets: Rasters.
        block: Side of a block in pixels, about: a raster is cut evenly.
        margin: Pixels between blocks of two splits, at least.
        smallest: Blocks with a side below this are left out.
        occupied: Whether there is something to learn in a part.
        shares: See :func:`by_chance`.
        seed: See :func:`by_chance`.

    Returns:
        Parts, and remarks.
    """
    cells = {}
    for number, sheet in enumerate(sheets):
        rows, columns = (_edges(side, block) for side in (
            sheet.grid.height, sheet.grid.width))
        for r, c in product(range(len(rows) - 1), range(len(columns) - 1)):
            box = Box(rows[r], columns[c], rows[r + 1] - rows[r],
                      columns[c + 1] - columns[c])
            part = Part(f'{sheet.path.stem}_r{r:02d}c{c:02d}', '', sheet, box)
            if occupied(part):
                cells[number, r, c] = part
    cells = dict(zip(cells, by_chance(
        [*cells.values()], shares, seed, f'smaller blocks than --block {block}'
        ' (with a --margin of less than half of that)')))
    parts, thin = [], 0
    for place, part in cells.items():
        box = _trimmed(part, place, cells, ceil(margin / 2))
        if min(box.height, box.width) < smallest:
            thin += 1
            continue
        part = Part(part.name, part.split, part.sheet, box)
        if occupied(part):
            parts.append(part)
    remarks = []
    if thin:
        remarks.append(
            f'{thin} of {len(cells)} blocks are narrower than a window '
            f'({smallest} pixels) without their margin and are left out; use '
            'larger blocks (--block) or a smaller --margin.')
    return parts, remarks


def _edges(side: int, block: int) -> list[int]:
    count = max(round(side / block), 1)
    return [round(side * i / count) for i in range(count + 1)]


def _trimmed(part: Part, place: tuple[int, int, int],
             cells: dict[tuple[int, int, int], Part], give: int) -> Box:
    """A block without the margin at its foreign sides and corners."""
    number, row, column = place

    def foreign(down: int, right: int) -> bool:
        other = cells.get((number, row + down, column + right))
        return other is not None and other.split != part.split

    above, below = (give * foreign(down, 0) for down in (-1, 1))
    left, right = (give * any(foreign(down, across) for down in (-1, 0, 1))
                   for across in (-1, 1))
    box = part.box
    return Box(box.top + above, box.left + left,
               box.height - above - below, box.width - left - right)


def check_splits(splits: Sequence[str], remarks: Sequence[str]) -> None:
    """Training needs something to train and something to test on.

    Args:
        splits: Split of each part.
        remarks: What is known of those that were left out.

    Raises:
        ValueError: A split is empty that must not be.
    """
    counts = {split: [*splits].count(split) for split in SPLITS}
    known = ''.join(f'{text} ' for text in remarks)
    if not counts['train'] or not counts['val'] + counts['test']:
        empty = 'train' if not counts['train'] else 'val and test'
        told = ', '.join(f'{n} {split}' for split, n in counts.items())
        raise ValueError(
            f'nothing is left for {empty} ({told}). {known}'
            'Choose another --split, or other --val, --test, --shares, '
            '--block, --margin.')


def shared_ground(parts: Sequence[Part]) -> list[str]:
    """Remarks on parts of two splits that show the same ground.

    Of images that do not say where they lie, parts of one are compared.
    """
    together: dict[Path | None, list[Part]] = {}
    for part in parts:
        bare = part.sheet.grid.transform.is_identity
        together.setdefault(part.sheet.path if bare else None, []).append(part)
    found = [pair for some in together.values() for pair in _overlapping(some)]
    if not found:
        return []
    one, other = found[0]
    return [f'{len(found)} pair(s) of scenes of two splits show the same '
            f'ground, e.g. {one.name} ({one.split}) and {other.name} '
            f'({other.split}): what is tested was seen in training. Move them '
            'to one split, or cut them with --split areas.']


def _overlapping(parts: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    """Parts of two splits that overlap, in one plane."""
    plane = next((p.sheet.crs for p in parts if p.sheet.crs), None)
    shapes = np.array([_footprint(part, plane) for part in parts])
    tree = shapely.STRtree(shapes)
    for i, j in zip(*tree.query(shapes, predicate='intersects')):
        if i < j and parts[i].split != parts[j].split:
            shared = shapely.intersection(shapes[i], shapes[j]).area
            if shared > SHARED * min(shapes[i].area, shapes[j].area):
                yield parts[i], parts[j]


def _footprint(part: Part, plane: object) -> shapely.Geometry:
    """Ground of a part, in a plane that all share."""
    grid = part.grid
    corners = shapely.box(0, 0, grid.width, grid.height)
    shape = shapely.transform(
        corners, lambda xy: np.column_stack(grid.transform @ tuple(xy.T)))
    if part.outline is not None:
        shape = shapely.intersection(shape, part.outline)
    return to_plane(np.array([shape]), part.sheet.crs, plane)[0]


def _fits(sheet: Sheet, pattern: str) -> bool:
    if '/' in pattern:
        return fnmatch(sheet.path.as_posix(), f'*/{pattern}')
    return fnmatch(sheet.path.name, pattern) or fnmatch(
        sheet.path.stem, pattern)
