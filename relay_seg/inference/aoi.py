"""Polygons that say which part of a scene to segment.

shapely and pyogrio are imported where they are used: a prediction without
polygons does not need them.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.features import rasterize

from relay_seg.views import Window

from .plan import Plan
from .source import Source


@dataclass(frozen=True)
class Area:
    """Polygons in pixels of a scene: x is the column, y the row."""
    shapes: np.ndarray

    def touched(self, plan: Plan) -> np.ndarray:
        """Which windows touch a polygon, (rows of windows, columns)."""
        import shapely
        tree = shapely.STRtree(self.shapes)
        found = np.zeros((len(plan.tops), len(plan.lefts)), bool)
        lefts = np.array(plan.lefts)
        rights = np.minimum(lefts + plan.size[1], plan.shape[1])
        for row, top in enumerate(plan.tops):
            bottom = min(top + plan.size[0], plan.shape[0])
            boxes = shapely.box(lefts, top, rights, bottom)
            hits = tree.query(boxes, predicate='intersects')[0]
            found[row, np.unique(hits)] = True
        return found

    def mask(self, region: Window) -> np.ndarray:
        """Which pixels of a region have their centre in a polygon."""
        import shapely
        top, left, height, width, _ = region
        near = self.shapes[shapely.intersects(self.shapes, shapely.box(
            left, top, left + width, top + height))]
        if not len(near):
            return np.zeros((height, width), bool)
        return rasterize(
            near, (height, width), dtype='uint8',
            transform=Affine.translation(left, top)).astype(bool)


def read_area(path: str | Path, source: Source) -> Area:
    """Polygons of a file, brought to the pixels of a scene.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, holds no polygon, or file or scene do
            not say where they are.
    """
    import shapely

    from relay_seg.rasters.vectors import read_vectors, to_plane
    if source.crs is None:
        raise ValueError(
            f'{source.name} has no CRS, so polygons have no place on it; '
            'assign one (for example with gdal_edit.py -a_srs) or leave out '
            '--aoi.')
    vectors = read_vectors(Path(path))
    if vectors.crs is None:
        raise ValueError(f'{path} has no CRS that names a place, so its place '
                         f'on {source.name} is not known; assign one.')
    parts = shapely.get_parts(shapely.make_valid(vectors.shapes))
    parts = shapely.get_parts(parts)
    parts = parts[shapely.get_type_id(parts) == 3]
    if not len(parts):
        raise ValueError(f'{path} holds no polygon; --aoi needs some.')
    inverse = ~source.transform
    try:
        moved = shapely.transform(
            to_plane(parts, vectors.crs, source.crs),
            lambda xy: np.column_stack(inverse @ tuple(xy.T)))
    except (RasterioError, CPLE_BaseError) as error:
        raise ValueError(
            f'{path} cannot be brought to {source.crs} of {source.name} '
            f'({error}); give polygons in that CRS.') from error
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise ValueError(f'{path} reaches to where {source.crs} of '
                         f'{source.name} is not defined; cut it first.')
    return Area(shapely.make_valid(moved))
