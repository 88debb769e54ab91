"""Polygons from vector files, brought to the plane of a raster."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.warp import transform
from shapely import Geometry

from .grid import known_crs
from .opening import open_raster
from .vector_files import check_letters

POLYGONS = ('Polygon', 'MultiPolygon')
#: Edges are cut to this share of the extent before they are reprojected:
#: what is straight in one CRS is bent in another.
PIECE = 1 / 1000


@dataclass(frozen=True)
class Vectors:
    """Features of a file.

    Args:
        path: The file.
        ids: Feature id of each feature, for messages.
        shapes: Geometry of each feature, None if it has none.
        columns: Values of each attribute.
        crs: CRS, None if the file names no place on earth.
    """

    path: Path
    ids: np.ndarray
    shapes: np.ndarray
    columns: dict[str, np.ndarray]
    crs: CRS | None


def read_vectors(path: Path, layer: str | None = None) -> Vectors:
    """Read the layer of polygons of a file.

    Args:
        path: The file.
        layer: Name of the layer; None for the only one, or the one that is
            named as the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or it is not clear which layer counts.
    """
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist; check the path, or complete the raw '
            'folder.')
    check_letters(path)
    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind]
        wanted = layer or path.stem
        if layer or wanted in layers:
            layers = [name for name in layers if name == wanted] or layers
        if len(layers) != 1 or layer not in (None, layers[0]):
            raise ValueError(
                f'{path} has the layers {layers}; one with polygons is '
                f'expected, or one named {wanted}; custom.py takes --layer.')
        meta, ids, wkb, values = pyogrio.raw.read(
            path, layer=layers[0], return_fids=True, force_2d=True)
        shapes = shapely.from_wkb(wkb)
    except (DataSourceError, DataLayerError, shapely.GEOSException) as error:
        raise ValueError(f'{path} cannot be read ({error}); download it '
                         'again.') from error
    return Vectors(path, ids, shapes, dict(zip(meta['fields'], values)),
                   known_crs(meta['crs']))


def faults(vectors: Vectors, chosen: np.ndarray) -> list[str]:
    """What keeps features from being drawn, in words.

    Args:
        vectors: Features.
        chosen: Places of those that matter.
    """
    found = []
    for i in chosen:
        shape, name = vectors.shapes[i], f'feature {vectors.ids[i]}'
        if shape is None or shape.is_empty:
            found.append(f'{name} has no geometry')
        elif shape.geom_type not in POLYGONS:
            found.append(f'{name} is a {shape.geom_type}, not a polygon')
        elif not shape.is_valid:
            found.append(f'{name}: {shapely.is_valid_reason(shape)}')
    return found


def sound(vectors: Vectors, chosen: np.ndarray, target: CRS | None,
          repair: bool, notes: list[str]) -> np.ndarray:
    """Geometries that can be drawn, in the plane of a raster.

    Args:
        vectors: Features.
        chosen: Places of those wanted.
        target: CRS of the raster.
        repair: Mend what cannot be drawn, and say so in ``notes``.
        notes: Remarks; more are appended.

    Raises:
        ValueError: A geometry cannot be drawn and is not to be mended.
    """
    wrong = faults(vectors, chosen)
    if wrong and not repair:
        raise ValueError(
            f'{vectors.path}: {"; ".join(wrong)}. Mend the polygons, or use '
            '--repair to mend or leave out what cannot be drawn.')
    shapes = vectors.shapes[chosen]
    if wrong:
        notes += [f'repaired {vectors.path.name}: {text}' for text in wrong]
        shapes = np.array([repaired(shape) for shape in shapes])
    return to_plane(shapes, vectors.crs, target)


def repaired(shape: Geometry) -> Geometry:
    """The polygons of a geometry, without self-intersections."""
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shape)))
    return shapely.union_all(
        [part for part in parts if part.geom_type == 'Polygon'])


def to_plane(shapes: np.ndarray, source: CRS | None,
             target: CRS | None) -> np.ndarray:
    """Geometries in the CRS of a raster.

    Args:
        shapes: Geometries.
        source: Their CRS.
        target: CRS wanted. Unknown on either side, the planes are taken for
            one, as in data that were moved to hide where they are.
    """
    if source is None or target is None or source == target:
        return shapes
    left, bottom, right, top = shapely.total_bounds(shapes)
    piece = max(right - left, top - bottom) * PIECE
    if piece > 0:
        shapes = shapely.segmentize(shapes, piece)
    return shapely.transform(
        shapes,
        lambda xy: np.column_stack(transform(source, target, *xy.T)))


def bounds_of(height: int, width: int,
              place: Affine) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a raster, turned ones too."""
    corners = [place @ corner for corner in (
        (0, 0), (width, 0), (0, height), (width, height))]
    x, y = zip(*corners)
    return min(x), min(y), max(x), max(y)


def touching(shapes: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """Places of the geometries whose bounds meet a rectangle."""
    left, bottom, right, top = bounds
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    return np.flatnonzero(
        (x0 <= right) & (x1 >= left) & (y0 <= top) & (y1 >= bottom))


def check_overlap(features: Vectors, rasters: Sequence[Path]) -> None:
    """Polygons in a wrong place would silently become nothing.

    Raises:
        ValueError: No polygon meets any raster.
    """
    planes: dict[CRS | None, np.ndarray] = {}
    seen = []
    for path in rasters:
        try:
            with open_raster(path) as raster:
                crs = known_crs(raster.crs)
                bounds = bounds_of(
                    raster.height, raster.width, raster.transform)
        except (ValueError, OSError):
            continue  # said again, and by name, when its turn comes
        if crs not in planes:
            planes[crs] = to_plane(features.shapes, features.crs, crs)
        if touching(planes[crs], bounds).size:
            return
        seen.append(f'{path.name} {tuple(round(x, 3) for x in bounds)}')
    if seen:
        extent = [tuple(np.round(shapely.total_bounds(shapes), 3).tolist())
                  for shapes in planes.values()]
        raise ValueError(
            f'{features.path} covers {extent} (left, bottom, right, top), '
            f'which overlaps no raster: {"; ".join(seen[:3])}. Its CRS '
            f'({features.crs or "unknown"}) or its place is wrong.')


def draw(shapes: np.ndarray, values: Sequence[int] | np.ndarray,
         height: int, width: int, place: Affine, fill: int) -> np.ndarray:
    """Draw polygons; a pixel belongs to what its centre lies in.

    Args:
        shapes: Polygons in the plane of the raster, later over earlier.
        values: Value of each.
        height: Rows.
        width: Columns.
        place: Transform of the first pixel.
        fill: Value of what no polygon covers.

    Returns:
        (height, width) uint8.
    """
    near = touching(shapes, bounds_of(height, width, place))
    if not near.size:
        return np.full((height, width), fill, dtype=np.uint8)
    return rasterize(
        [(shapes[i], int(values[i])) for i in near], (height, width),
        fill=fill, transform=place, dtype='uint8')
