"""Predicted classes as polygons.

shapely and pyogrio are imported where they are used: a prediction without
polygons does not need them.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
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

from relay_seg.rasters import MARK, equal_area
from relay_seg.rasters.files import naming

if TYPE_CHECKING:
    import shapely

STRIP = 1024  # rows that are vectorised at a time
FEATURES = 10_000  # features that are written at a time
#: What is straight in one CRS is bent in another: to be measured, edges are
#: cut to this share of the raster.
PIECE = 1 / 256
#: Files of the same polygons are the same.
DATE = 'OGR_CURRENT_DATE', '2000-01-01T00:00:00.000Z'


def write_polygons(classes: Path, out: Path, names: Sequence[str],
                   min_area: float = 0.) -> int:
    """Vectorise a raster of class ids.

    Regions of one class, joined over edges of pixels, become a polygon with
    the attributes class_id, class and area_m2, on the ground (area_px where
    that is not known). The raster is read strip by strip; in memory are the
    pieces of the regions that reach over the lower edge of the strip.

    Args:
        classes: Raster of class ids.
        out: GeoPackage to write.
        names: Names of the classes.
        min_area: Polygons below this area, in the unit of the attribute,
            are left out.

    Returns:
        Number of polygons.

    Raises:
        ValueError: A least area is asked for, but not known.
        OSError: The file cannot be written.
    """
    import pyogrio
    with rasterio.open(classes) as raster, _dated():
        measure = Measure(raster.crs, raster.transform, raster.shape)
        measure.check(min_area, classes)
        written, found = 0, regions(raster)
        while group := list(islice(found, FEATURES)):
            ids, shapes = (np.array(column, object) for column in zip(*group))
            shapes, areas = measure.place(shapes)
            kept = ~(areas < min_area)
            if kept.any():
                with naming(out):
                    _append(out, (ids[kept], shapes[kept], areas[kept]),
                            names, measure, written > 0)
                written += int(kept.sum())
        with naming(out):
            if not written:
                _append(out, (np.empty(0, object), ) * 3, names, measure,
                        False)
            info = pyogrio.read_info(out, force_feature_count=True)
            if info['features'] != written:
                raise OSError(f"{info['features']} of {written} are there")
    return written


@contextmanager
def _dated() -> Iterator[None]:
    import pyogrio
    name, date = DATE
    before = pyogrio.get_gdal_config_option(name)
    pyogrio.set_gdal_config_options({name: date})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({name: before})


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
        shape: Its height and width.
    """

    def __init__(self, crs: CRS | None, place: Affine,
                 shape: tuple[int, int]) -> None:
        self.crs, self._place = crs, place
        self._piece = max(shape) * PIECE
        self._equal = equal_area(crs, place, shape) if crs else None
        #: Metres in a unit of a CRS that is flat and nowhere on the earth.
        self._unit = crs.units_factor[1] if crs and not self._equal and (
            not crs.is_projected and not crs.is_geographic) else None
        self.attribute = 'area_m2' if self._equal or self._unit else 'area_px'

    def check(self, min_area: float, name: object) -> None:
        """Square metres are asked for: are they known?

        Raises:
            ValueError: They are not.
        """
        if min_area and self.crs and self.attribute == 'area_px':
            raise ValueError(
                f'{name} is in {self.crs.to_string()}, of which no way to '
                'square metres is known; leave out --min-area (areas are '
                'in pixels then), or assign a CRS on the earth.')

    def place(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Polygons in the CRS, and their areas.

        Args:
            shapes: Polygons in pixels, (N, ) of shapely.
        """
        import shapely

        def to_crs(xy: np.ndarray) -> np.ndarray:
            return np.column_stack(self._place @ tuple(xy.T))

        def to_ground(xy: np.ndarray) -> np.ndarray:
            return np.column_stack(
                transform(self.crs, self._equal, *to_crs(xy).T))

        placed = shapely.transform(shapes, to_crs)
        if self._unit:
            return placed, shapely.area(placed) * self._unit**2
        if not self._equal:
            return placed, shapely.area(shapes)
        return placed, shapely.area(shapely.transform(
            shapely.segmentize(shapes, self._piece), to_ground))


def _append(out: Path, features: tuple[np.ndarray, np.ndarray, np.ndarray],
            names: Sequence[str], measure: Measure, append: bool) -> None:
    """Add class ids, polygons and areas to a file, or begin it."""
    import pyogrio.raw
    import shapely
    ids, polygons, areas = features
    pyogrio.raw.write(
        out, shapely.to_wkb(polygons),
        [ids.astype(np.int32), np.array([names[i] for i in ids], object),
         areas.astype(float)],
        ['class_id', 'class', measure.attribute],
        geometry_type='Polygon', driver='GPKG', layer='classes',
        crs=measure.crs.to_wkt() if measure.crs else None, append=append,
        layer_metadata=None if append else {MARK: 'classes as polygons'})
