"""Predicted classes as polygons.

shapely and pyogrio are imported where they are used: a prediction without
polygons does not need them.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.warp import transform
from rasterio.windows import Window
from scipy.cluster.hierarchy import DisjointSet

if TYPE_CHECKING:
    import shapely

STRIP = 1024  # rows that are vectorised at a time
FEATURES = 10_000  # features that are written at a time
#: Areas in degrees mean nothing: they are measured in this CRS, which keeps
#: areas all over the earth (EASE-Grid 2.0).
EQUAL_AREA = CRS.from_epsg(6933)


def write_polygons(classes: Path, out: Path, names: Sequence[str],
                   min_area: float = 0.) -> int:
    """Vectorise a raster of class ids.

    Regions of one class, joined over edges of pixels, become a polygon with
    the attributes class_id, class and area_m2 (area_px without a CRS). The
    raster is read strip by strip; in memory are the pieces of the regions
    that reach over the lower edge of the strip.

    Args:
        classes: Raster of class ids.
        out: GeoPackage to write.
        names: Names of the classes.
        min_area: Polygons below this area, in the unit of the attribute,
            are left out.

    Returns:
        Number of polygons.
    """
    with rasterio.open(classes) as raster:
        measure = Measure(raster.crs, raster.transform)
        written, waiting = 0, []
        for class_id, shape in regions(raster):
            shape, area = measure.place(shape)
            if area >= min_area:
                waiting.append((class_id, shape, area))
            if len(waiting) >= FEATURES:
                _append(out, waiting, names, measure, written > 0)
                written += len(waiting)
                waiting = []
        if waiting or not written:
            _append(out, waiting, names, measure, written > 0)
    return written + len(waiting)


def regions(raster: rasterio.DatasetReader
            ) -> 'Iterator[tuple[int, shapely.Geometry]]':
    """Regions of one class, in pixels, from top to bottom.

    Args:
        raster: Class ids; what its mask excludes is left out.

    Yields:
        Class id and polygon.
    """
    import shapely
    open_pieces: list[list[shapely.Geometry]] = []
    open_ids: list[int] = []
    for top in range(0, raster.height, STRIP):
        rows = min(STRIP, raster.height - top)
        window = Window(0, top, raster.width, rows)
        ids = raster.read(1, window=window)
        mask = raster.read_masks(1, window=window) > 0
        new = [(int(value), shapely.geometry.shape(piece))
               for piece, value in shapes(
                   ids, mask, connectivity=4,
                   transform=Affine.translation(0, top))]
        pieces = [*open_pieces, *([shape] for _, shape in new)]
        found = [*open_ids, *(value for value, _ in new)]
        groups = DisjointSet(range(len(pieces)))
        for a, b in _meeting(
                open_pieces, open_ids, new, top, raster.width):
            groups.merge(a, b)
        open_pieces, open_ids = [], []
        bottom = top + rows
        for group in groups.subsets():
            members = sorted(group)
            parts = [part for i in members for part in pieces[i]]
            value = found[members[0]]
            if bottom < raster.height and any(
                    part.bounds[3] == bottom for part in parts):
                open_pieces.append(parts)
                open_ids.append(value)
            else:
                yield value, _joined(parts)


def _meeting(old: 'Sequence[Sequence[shapely.Geometry]]',
             old_ids: Sequence[int],
             new: 'Sequence[tuple[int, shapely.Geometry]]',
             row: int, width: int) -> Iterator[tuple[int, int]]:
    """Regions above and below a row that share an edge of a pixel."""
    above = _on_line(
        [(i, part) for i, parts in enumerate(old) for part in parts
         if part.bounds[3] == row], row, width)
    below = _on_line(
        [(i, shape) for i, (_, shape) in enumerate(new)
         if shape.bounds[1] == row], row, width)
    first = np.searchsorted(above[:, 1], below[:, 0], side='right')
    after = np.searchsorted(above[:, 0], below[:, 1], side='left')
    for (_, _, b), low, high in zip(below, first, after):
        for a in above[low:high, 2].astype(int):
            if old_ids[a] == new[int(b)][0]:
                yield a, len(old) + int(b)


def _on_line(pieces: 'Sequence[tuple[int, shapely.Geometry]]', row: int,
             width: int) -> np.ndarray:
    """Where pieces meet a row: first and last column, number; by column."""
    import shapely
    line = shapely.linestrings([(0, row), (width, row)])
    edges, which = shapely.get_parts(shapely.intersection(
        np.array([shape for _, shape in pieces], object), line),
        return_index=True)
    numbers = np.array([i for i, _ in pieces], int)[which]
    bounds = shapely.bounds(edges).reshape(-1, 4)
    found = np.column_stack([bounds[:, 0], bounds[:, 2], numbers])
    return found[np.argsort(found[:, 0])]


def _joined(parts: 'Sequence[shapely.Geometry]') -> 'shapely.Geometry':
    """One polygon, without the corners that the strips made."""
    import shapely
    if len(parts) == 1:
        return parts[0]
    return shapely.normalize(shapely.union_all(parts).simplify(0))


class Measure:
    """Brings polygons from pixels to a CRS and measures them.

    Args:
        crs: CRS of the raster, or None.
        place: Its transform.
    """

    def __init__(self, crs: CRS | None, place: Affine) -> None:
        self.crs = crs
        self.attribute = 'area_m2' if crs else 'area_px'
        self._place = place
        self._unit = crs.linear_units_factor[1] if (
            crs and crs.is_projected) else 1.

    def place(self, shape: 'shapely.Geometry'
              ) -> 'tuple[shapely.Geometry, float]':
        """A polygon in the CRS, and its area."""
        import shapely
        place = self._place
        area = shape.area
        shape = shapely.transform(
            shape, lambda xy: np.column_stack(place @ tuple(xy.T)))
        if self.crs is None:
            return shape, area
        if self.crs.is_projected:
            return shape, shape.area * self._unit**2
        equal = shapely.transform(shape, lambda xy: np.column_stack(
            transform(self.crs, EQUAL_AREA, *xy.T)))
        return shape, equal.area


def _append(out: Path, features: Sequence[tuple], names: Sequence[str],
            measure: Measure, append: bool) -> None:
    import pyogrio.raw
    import shapely
    ids = np.array([i for i, _, _ in features], np.int32)
    pyogrio.raw.write(
        out,
        shapely.to_wkb(np.array([s for _, s, _ in features], object)),
        [ids, np.array([names[i] for i in ids], object),
         np.array([area for _, _, area in features], float)],
        ['class_id', 'class', measure.attribute],
        geometry_type='Polygon', driver='GPKG', layer='classes',
        crs=measure.crs.to_wkt() if measure.crs else None, append=append)
