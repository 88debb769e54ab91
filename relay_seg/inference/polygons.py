"""Predicted classes as polygons.

shapely and pyogrio are imported where they are used: a prediction without
polygons does not need them.
"""
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.warp import transform
from rasterio.windows import Window
from scipy.cluster.hierarchy import DisjointSet

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import (
    Grid,
    equal_area,
    grid_of,
    ground_pixel,
    open_raster,
)
from relay_seg.rasters.vector_files import (
    DECIMALS,
    DEGREES,
    check_name,
    vector_writer,
)

if TYPE_CHECKING:
    import shapely

SIDE = 1024  # rows and columns that are vectorised at a time
FEATURES = 10_000  # features that are written at a time
#: What is straight in one CRS is bent in another: to be measured, edges are
#: cut to this share of the raster.
PIECE = 1 / 256
EDGE = 64  # pixels; or to this, to be told in degrees
#: Polygons as they are made to polygons without holes that are too small.
Fill = Callable[[np.ndarray], np.ndarray]


def check_polygons(out: Path, grid: Grid, name: object,
                   min_area: float = 0., simplify: float = 0.) -> None:
    """Say before any work whether polygons can be written.

    Args:
        out: File to write.
        grid: Of the class ids.
        name: The scene, for messages.
        min_area: See :func:`write_polygons`.
        simplify: See :func:`write_polygons`.

    Raises:
        ValueError: The file has an unknown ending, or square metres, metres
            or degrees are asked for but not known.
        ImportError: A package is missing.
    """
    check_name(out)
    measure = Measure(grid.crs, grid.transform, grid.shape)
    for option in [x for x, asked in (('--min-area', min_area),
                                      ('--simplify', simplify)) if asked]:
        measure.check(option, name)
    if _in_degrees(out) and not measure.is_on_earth:
        raise ValueError(
            f'{name} has no CRS on the earth, and GeoJSON is in degrees; '
            f'write {out.with_suffix(".gpkg")}, or assign a CRS.')


def _in_degrees(out: Path) -> bool:
    return out.suffix.lower() == '.geojson'


def write_polygons(classes: Path, out: Path, names: Sequence[str],
                   min_area: float = 0., simplify: float = 0.) -> int:
    """Vectorise a raster of class ids, of any size.

    Regions of one class, joined over edges of pixels, become a polygon with
    the attributes class_id, class and area_m2, on the ground (area_px where
    that is not known). The raster is read block by block; in memory are the
    pieces of the regions that reach over the lower edge of a row of blocks,
    or from one of its blocks to the next.

    Args:
        classes: Raster of class ids.
        out: File to write, of a kind that its name tells; see
            :func:`relay_seg.rasters.vector_files.vector_writer`.
        names: Names of the classes.
        min_area: Polygons below this area, in the unit of the attribute,
            are left out, and holes below it are filled. What lies in such a
            hole is left out, too, so that polygons never overlap.
        simplify: Metres (pixels without a CRS) by which borders may move,
            about: corners that make less than such a square are cut off. A
            border that two polygons share stays shared.

    Returns:
        Number of polygons.

    Raises:
        ValueError: See :func:`check_polygons`.
        OSError: The file cannot be written.
    """
    with open_raster(classes) as raster:
        grid = grid_of(raster)
        check_polygons(out, grid, classes, min_area, simplify)
        measure = Measure(grid.crs, grid.transform, grid.shape)
        fields = {'class_id': int, 'class': str, measure.attribute: float}

        def fill(polygons: np.ndarray) -> np.ndarray:
            return measure.filled(polygons, min_area)

        written = 0
        found = regions(raster, measure.pixels(simplify), fill)
        with vector_writer(out, fields, grid.crs) as writer:
            while group := list(islice(found, FEATURES)):
                ids, polygons = (np.array(column, object)
                                 for column in zip(*group))
                polygons = fill(polygons)
                areas = measure.areas(polygons)
                kept = ~(areas < min_area)
                if not kept.any():
                    continue
                place = (measure.in_degrees if _in_degrees(out)
                         else measure.in_crs)
                writer.append(place(polygons[kept]), [
                    ids[kept].astype(np.int32),
                    np.array([names[i] for i in ids[kept]], object),
                    areas[kept].astype(float)])
                written += int(kept.sum())
    return written


def regions(raster: rasterio.DatasetReader, tolerance: float = 0.,
            fill: Fill = lambda polygons: polygons
            ) -> 'Iterator[tuple[int, shapely.Geometry]]':
    """Regions of one class, in pixels, from top to bottom.

    Args:
        raster: Class ids; what its mask excludes is left out.
        tolerance: By how many pixels borders may move, about.
        fill: Takes holes away that do not matter.

    Yields:
        Class id and polygon.
    """
    # Regions that reach below what was read: class and pieces of each, and
    # which of them is there at each column (-1: none), with its class.
    opened: list[tuple[int, list[shapely.Geometry]]] = []
    above = np.full(raster.width, -1)
    ids_above = np.full(raster.width, IGNORE, np.uint8)
    beside = above, ids_above  # the same of the last column of a block
    for top in range(0, raster.height, SIDE):
        sets = DisjointSet(range(len(opened)))
        pieces = list(opened)
        below, ids_below = np.full_like(above, -1), ids_above.copy()
        for left in range(0, raster.width, SIDE):
            block = _Block(raster, top, left)
            known = np.flatnonzero(block.values != IGNORE)
            polygons = fill(block.polygons(tolerance)[known])
            numbers = np.full(len(block.values), -1)
            for i, polygon in zip(known, polygons):
                value = int(block.values[i])
                if not block.at_edge[i]:
                    yield value, polygon
                    continue
                numbers[i] = len(pieces)
                sets.add(len(pieces))
                pieces.append((value, [polygon]))
            across = slice(left, left + block.ids.shape[1])
            here = numbers[block.labels]
            meetings = [(above[across], ids_above[across],
                         here[0], block.ids[0])]
            if left:
                meetings.append((*beside, here[:, 0], block.ids[:, 0]))
            for meeting in meetings:
                for a, b in _same(*meeting):
                    sets.merge(a, b)
            beside = here[:, -1], block.ids[:, -1]
            below[across], ids_below[across] = here[-1], block.ids[-1]
        above, ids_above = np.full_like(below, -1), ids_below
        lasting = set() if top + SIDE >= raster.height else {
            sets[i] for i in np.unique(below[below >= 0]).tolist()}
        opened, new = [], np.full(len(pieces) + 1, -1)  # the last one: none
        for region in sets.subsets():
            members = sorted(region)
            value = pieces[members[0]][0]
            parts = [part for i in members for part in pieces[i][1]]
            if sets[members[0]] in lasting:
                new[members] = len(opened)
                opened.append((value, parts))
            else:
                yield value, _joined(parts, tolerance)
        above = new[below]


def _same(a: np.ndarray, ids_a: np.ndarray, b: np.ndarray,
          ids_b: np.ndarray) -> list[tuple[int, int]]:
    """Pieces on either side of a line that are of one region."""
    same = (ids_a == ids_b) & (a >= 0) & (b >= 0)
    return [(int(x), int(y)) for x, y in np.unique(
        np.stack([a[same], b[same]]), axis=1).T]


def _joined(parts: 'Sequence[shapely.Geometry]',
            tolerance: float) -> 'shapely.Geometry':
    """One polygon, without the corners that the blocks made.

    Simplified, corners where three regions meet stay corners of all three.
    """
    import shapely
    if len(parts) == 1:
        return parts[0]
    whole = shapely.union_all(parts)
    return shapely.normalize(whole if tolerance else whole.simplify(0))


class _Block:
    """Regions of one class in a part of a raster.

    Args:
        raster: Class ids.
        top: First row of the part.
        left: First column.
    """

    def __init__(self, raster: rasterio.DatasetReader, top: int,
                 left: int) -> None:
        self._top, self._left = top, left
        # A pixel more on each side: where regions meet beside the edge.
        y, x = max(top - 1, 0), max(left - 1, 0)
        window = Window(x, y, min(left + SIDE + 1, raster.width) - x,
                        min(top + SIDE + 1, raster.height) - y)
        self._wide = raster.read(1, window=window)
        self._wide[raster.read_masks(1, window=window) == 0] = IGNORE
        self._inner = top - y, left - x
        #: Class ids, (H, W) uint8.
        self.ids = self._wide[top - y:, left - x:][:SIDE, :SIDE]
        #: Number of the region of each pixel, (H, W).
        self.labels = np.zeros(self.ids.shape, np.int32)
        values: list[int] = []
        for value in np.unique(self.ids).tolist():
            count, found = cv2.connectedComponents(
                (self.ids == value).view(np.uint8), connectivity=4)
            self.labels += np.where(found, found + len(values) - 1, 0
                                    ).astype(np.int32)
            values += [value] * (count - 1)
        #: Class id of each region.
        self.values = np.array(values)
        edges = [self.labels[i] for i in (0, -1)] + [
            self.labels[:, i] for i in (0, -1)]
        #: Whether it reaches to the edge.
        self.at_edge = np.zeros(len(values), bool)
        self.at_edge[np.concatenate(edges)] = True

    def polygons(self, tolerance: float) -> np.ndarray:
        """The regions in pixels of the raster, by number.

        Their borders inside are simplified; the edge of the block stays as
        it is, so that blocks fit. To this end no data is a region, too.
        """
        import shapely
        found = np.empty(len(self.values), object)
        for shape, number in shapes(
                self.labels, None if tolerance else self.ids != IGNORE,
                connectivity=4,
                transform=Affine.translation(self._left, self._top)):
            found[int(number)] = shapely.geometry.shape(shape)
        if not tolerance:
            return found
        # Neighbours must have the same corners.
        return shapely.coverage_simplify(
            self._with_nodes_only(shapely.transform(
                shapely.segmentize(found, 1), np.rint)),
            tolerance, simplify_boundary=False)

    def _with_nodes_only(self, polygons: np.ndarray) -> np.ndarray:
        """On the edge, only corners where regions of either side end."""
        import shapely
        kind, corners, (rings, outer) = shapely.to_ragged_array(
            polygons)
        height, width = self.ids.shape
        x, y = corners.T - np.array([[self._left], [self._top]])
        kept = np.ones(len(corners), bool)
        for along, at, ends in (
                (x, y == 0, self._ends(0)), (x, y == height, self._ends(1)),
                (y, x == 0, self._ends(2)), (y, x == width, self._ends(3))):
            kept[at] &= ends[along[at].astype(int)]
        before = np.concatenate([[0], np.cumsum(kept)])
        return shapely.from_ragged_array(
            kind, corners[kept], (before[rings], outer))

    def _ends(self, side: int) -> np.ndarray:
        """Where regions end along an edge: upper, lower, left or right."""
        down, right = self._inner
        height, width = self.ids.shape
        wide = self._wide
        if side < 2:
            wide = wide[:, right:right + width]
            first = down - 1 if side == 0 else down + height - 1
        else:
            wide = wide[down:down + height].T
            first = right - 1 if side == 2 else right + width - 1
        lines = wide[max(first, 0):first + 2]
        ends = np.ones(lines.shape[1] + 1, bool)  # corners of the block
        ends[1:-1] = (lines[:, 1:] != lines[:, :-1]).any(0)
        return ends


class Measure:
    """Brings polygons from pixels to a CRS and measures them.

    Args:
        crs: CRS of the raster, or None.
        place: Its transform.
        shape: Its height and width.
    """

    def __init__(self, crs: CRS | None, place: Affine,
                 shape: tuple[int, int]) -> None:
        self.crs, self._place, self._shape = crs, place, shape
        self._piece = max(shape) * PIECE
        self._equal = equal_area(crs, place, shape) if crs else None
        #: Metres in a unit of a CRS that is flat and nowhere on the earth.
        self._unit = crs.units_factor[1] if crs and not self._equal and (
            not crs.is_projected and not crs.is_geographic) else None
        self.attribute = 'area_m2' if self._equal or self._unit else 'area_px'

    @property
    def is_on_earth(self) -> bool:
        return self._equal is not None

    def check(self, option: str, name: object) -> None:
        """Metres are asked for: are they known?

        Raises:
            ValueError: They are not.
        """
        if self.crs and self.attribute == 'area_px':
            raise ValueError(
                f'{name} is in {self.crs.to_string()}, of which no way to '
                f'square metres is known; leave out {option} (areas are '
                'in pixels then), or assign a CRS on the earth.')

    def pixels(self, metres: float) -> float:
        """A length in pixels, where it is known how long they are."""
        if not metres or self.attribute == 'area_px':
            return metres
        side = (abs(self._place.determinant)**0.5 * self._unit if self._unit
                else ground_pixel(self.crs, self._place, self._shape))
        return metres / side if side else metres

    def in_crs(self, polygons: np.ndarray) -> np.ndarray:
        """Polygons (N, ) in pixels, brought to the CRS."""
        import shapely
        return shapely.transform(polygons, self._to_crs)

    def in_degrees(self, polygons: np.ndarray) -> np.ndarray:
        """Polygons (N, ) in pixels, brought to longitude and latitude.

        Raises:
            ValueError: Some cross the meridian of 180 degrees, where GeoJSON
                would have them cut.
        """
        import shapely
        found = shapely.transform(
            shapely.segmentize(polygons, EDGE),
            lambda xy: self._to(CRS.from_user_input(DEGREES), xy).round(
                DECIMALS))
        left, _, right, _ = shapely.bounds(found).T
        turns = 360 * np.floor((left + 180) / 360)  # 200 degrees are -160
        if ((right - left > 180) | (right - turns > 180)).any():
            raise ValueError('polygons reach over the meridian of 180 '
                             'degrees, which GeoJSON cannot tell; write '
                             '.gpkg.')
        xy, of = shapely.get_coordinates(found, return_index=True)
        xy[:, 0] = (xy[:, 0] - turns[of]).round(DECIMALS)
        return shapely.set_coordinates(found, xy)

    def areas(self, polygons: np.ndarray) -> np.ndarray:
        """Areas of polygons (N, ) in pixels, in the unit of the attribute."""
        import shapely
        # A hole and what fills it are of one area, to the last bit.
        polygons = shapely.normalize(polygons)
        if self._unit:
            return shapely.area(self.in_crs(polygons)) * self._unit**2
        if not self._equal:
            return shapely.area(polygons)
        return shapely.area(shapely.transform(
            shapely.segmentize(polygons, self._piece),
            lambda xy: self._to(self._equal, xy)))

    def filled(self, polygons: np.ndarray, min_area: float) -> np.ndarray:
        """Polygons (N, ) in pixels, without holes below an area."""
        import shapely
        rings, of = shapely.get_rings(polygons, return_index=True)
        holes = np.flatnonzero(of[1:] == of[:-1]) + 1  # an outer one is first
        small = holes[self.areas(shapely.polygons(rings[holes])) < min_area]
        if not len(small):
            return polygons
        return shapely.polygons(np.delete(rings, small),
                                indices=np.delete(of, small))

    def _to_crs(self, xy: np.ndarray) -> np.ndarray:
        return np.column_stack(self._place @ tuple(xy.T))

    def _to(self, crs: CRS | None, xy: np.ndarray) -> np.ndarray:
        return np.column_stack(
            transform(self.crs, crs, *self._to_crs(xy).T))
