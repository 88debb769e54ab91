"""Parcels of Archaeoscape: RGB, elevation and polygons on one grid."""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window
from shapely import Geometry

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import grid_of, known_crs, readable
from relay_seg.rasters.reading import LARGEST
from relay_seg.rasters.vectors import (
    Vectors,
    bounds_of,
    draw,
    read_vectors,
    sound,
    to_plane,
    touching,
)

from .aligning import laid_on, named, rounded
from .sources import open_source


@dataclass(frozen=True)
class Kinds:
    """What the polygons mean.

    Args:
        column: Names of the attribute that holds the kind, first found.
        values: Class id of each kind, later kinds over earlier ones.
        background: Class id where there is no polygon.
    """

    column: Sequence[str]
    values: Mapping[str, int]
    background: int = 0


def kinds_of(features: Vectors, kinds: Kinds) -> np.ndarray:
    """The kind of each feature.

    Raises:
        ValueError: No attribute holds kinds, or one is unknown.
    """
    for name in kinds.column:
        if name in features.columns:
            break
    else:
        raise ValueError(
            f'{features.path} has the attributes {list(features.columns)}; '
            f'one of {list(kinds.column)} is expected to hold the kind.')
    found = features.columns[name].astype(str)
    unknown = sorted(set(found.tolist()) - set(kinds.values))
    if unknown:
        raise ValueError(
            f'{features.path} has the unknown kinds {unknown} in {name!r}; '
            f'known are {list(kinds.values)}. Correct or remove them.')
    return found


class Parcel:
    """RGB and elevation as one image, with a label drawn from polygons.

    Args:
        rgb: Open raster; its grid is that of the result.
        dtm: Elevation on the same grid.
        dtm_path: The file of the elevation, for messages.
        outline: Polygon of the parcel in the plane of ``rgb``.
        shapes: Polygons in the plane of ``rgb``, in the order of drawing.
        values: Class id of each.
        background: Class id where there is no polygon.
        notes: Remarks for the manifest.
    """

    count = 4
    dtype = 'float32'
    nodata: float | None = float('nan')

    def __init__(self, rgb: rasterio.DatasetReader,
                 dtm: rasterio.DatasetReader, dtm_path: Path,
                 outline: Geometry, shapes: np.ndarray,
                 values: Sequence[int], background: int,
                 notes: list[str]) -> None:
        self.grid = grid_of(rgb)
        self.notes = notes
        self._rgb, self._dtm, self._dtm_path = rgb, dtm, dtm_path
        self._outline = np.array([outline])
        self._shapes, self._values = shapes, values
        self._background = background
        self._inside = self._blind = 0

    def rows(self, top: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (4, height, W) float32, NaN for nothing, and label."""
        width = self.grid.width
        window = Window(0, top, width, height)
        image = np.empty((self.count, height, width), dtype=self.dtype)
        with readable(self._rgb.name):
            self._rgb.read([1, 2, 3], window=window, out=image[:3])
            # Of a colour, single bands may have the value for no data.
            if MaskFlags.all_valid not in self._rgb.mask_flag_enums[0]:
                image[:3, self._rgb.dataset_mask(window=window) == 0] = np.nan
        with readable(self._dtm_path):
            self._dtm.read([1], window=window, out=image[3:])
            image[3, self._dtm.read_masks(1, window=window) == 0] = np.nan
        image[np.abs(image) > LARGEST] = np.nan

        place = self.grid.transform @ Affine.translation(0, top)
        label = draw(self._shapes, self._values, height, width, place,
                     self._background)
        inside = draw(self._outline, [1], height, width, place, 0) == 1
        label[~inside | np.isnan(image).all(0)] = IGNORE
        self._inside += int(np.count_nonzero(inside))
        self._blind += int(np.count_nonzero(inside & np.isnan(image[3])))
        return image, label

    def finish(self) -> None:
        """Check what only the whole parcel shows.

        Raises:
            ValueError: No pixel lies in the outline.
        """
        if not self._inside:
            raise ValueError(
                f'{self._rgb.name}: no pixel lies in the outline of the '
                'parcel. Compare their coordinates.')
        if self._blind:
            self.notes.append(f'{self._blind / self._inside:.2%} of the '
                              'parcel has no elevation')


@contextmanager
def open_parcel(rgb_path: Path, dtm_path: Path, outlines_path: Path,
                features_path: Path, *, name: str, name_column: str,
                kinds: Kinds, repair: bool) -> Iterator[Parcel]:
    """Open a parcel.

    Args:
        rgb_path: Raster of red, green and blue.
        dtm_path: Raster of elevation.
        outlines_path: Outlines of all parcels.
        features_path: Polygons of all parcels.
        name: Name of the parcel.
        name_column: Attribute of the outlines that holds the name.
        kinds: What the polygons mean.
        repair: Mend self-intersecting polygons instead of refusing them.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Something does not fit; says what.
    """
    notes: list[str] = []
    with ExitStack() as stack:
        rgb = stack.enter_context(open_source(rgb_path))
        _check_rgb(rgb)
        dtm = stack.enter_context(open_source(dtm_path))
        if dtm.count != 1:
            raise ValueError(f'{dtm_path} has {dtm.count} bands; an elevation '
                             'model has one. Replace it.')
        dtm = stack.enter_context(laid_on(
            dtm, grid_of(rgb), rgb_path, None, notes, dtype='float32',
            nodata=np.nan, src_nodata=np.nan if dtm.nodata is None and
            dtm.dtypes[0].startswith('float') else dtm.nodata))
        bounds = bounds_of(rgb.height, rgb.width, rgb.transform)

        outlines = read_vectors(outlines_path)
        mine = np.flatnonzero(
            outlines.columns[name_column].astype(str) == name)
        outline = shapely.union_all(
            sound(outlines, mine, known_crs(rgb.crs), repair, notes))
        if not touching(np.array([outline]), bounds).size:
            raise ValueError(
                f'{rgb_path} covers {rounded(bounds)} in {named(rgb.crs)} '
                f'but {outlines_path} places {name} at '
                f'{rounded(outline.bounds)}; one has the wrong CRS or '
                'place.')

        features = read_vectors(features_path)
        found = kinds_of(features, kinds)
        plane = to_plane(features.shapes, features.crs, known_crs(rgb.crs))
        near = touching(plane, bounds)
        shapes = sound(
            features, near, known_crs(rgb.crs), repair, notes)
        order = sorted(range(len(near)), key=lambda i: list(
            kinds.values).index(found[near[i]]))
        notes.append(f'{len(near)} features')
        yield Parcel(rgb, dtm, dtm_path, outline, shapes[order],
                     [kinds.values[found[near[i]]] for i in order],
                     kinds.background, notes)


def _check_rgb(raster: rasterio.DatasetReader) -> None:
    alpha = raster.colorinterp[-1] == ColorInterp.alpha
    if raster.count - alpha != 3:
        raise ValueError(f'{raster.name} has {raster.count} band(s); red, '
                         'green and blue are expected.')
    if not all(np.can_cast(kind, 'float32') for kind in raster.dtypes):
        raise ValueError(
            f'{raster.name} has bands of {set(raster.dtypes)}, which '
            'float32 cannot hold; convert it to 8 or 16 bits.')
