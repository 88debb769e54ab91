"""Bands of one's own rasters, of any number and type, read in rows."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

from relay_seg.rasters import (
    Grid,
    content_of,
    data_bands,
    grid_of,
    known_crs,
    pixel_metres,
    read_data,
    read_region,
    readable,
)
from relay_seg.rasters.resampling import Rescaling
from relay_seg.views import Window

from .sources import open_source

#: Types that are kept; all others become float32.
NATIVE = 'uint8', 'uint16', 'int16'
#: Whole numbers below this are exact in float32.
EXACT = 2**24
#: Pixel sizes that differ by more than this share are told.
ALIKE = 0.01
METRES_PER_DEGREE = 111_320
#: Native pixels of a band that are resampled at once, about.
AT_ONCE = 2**24


@dataclass(frozen=True)
class Sheet:
    """A raster of the raw folder, as it will be read.

    Args:
        path: The file.
        grid: Size and place, after resampling.
        bands: Bands to read, the first is 1.
        dtype: Their type in the file.
        alpha: Band that is marked as alpha and left out, None if none is;
            where it is 0, there is no data.
    """

    path: Path
    grid: Grid
    bands: tuple[int, ...]
    dtype: str
    alpha: int | None

    @property
    def crs(self) -> CRS | None:
        """CRS, None if it names no place on earth."""
        return known_crs(self.grid.crs)

    @property
    def metres(self) -> float:
        """Side of a pixel in metres, about; in pixels without a CRS."""
        side = abs(self.grid.transform.determinant)**0.5
        if self.crs is not None and self.crs.is_geographic:
            return side * METRES_PER_DEGREE
        return pixel_metres(self.grid) or side


def look_at(path: Path, bands: Sequence[int] | None,
            pixel_size: float | None) -> Sheet:
    """What a raster is.

    Args:
        path: The file.
        bands: Bands wanted, the first is 1; None for all but alpha.
        pixel_size: Side of a pixel to resample to, in units of the CRS.

    Raises:
        ValueError: It cannot be read, or lacks a band.
    """
    with open_source(path) as raster:
        chosen = tuple(bands or data_bands(raster) or raster.indexes)
        if not set(chosen) <= set(raster.indexes):
            raise ValueError(
                f'{path} has the bands 1 to {raster.count} but --bands '
                f'{" ".join(map(str, chosen))} are asked for; choose among '
                'them.')
        kinds = sorted({raster.dtypes[i - 1] for i in chosen})
        if any(np.dtype(kind).kind not in 'uif' for kind in kinds):
            raise ValueError(f'{path} has bands of {", ".join(kinds)}; whole '
                             'or floating-point numbers are expected.')
        alpha = content_of(raster, chosen).mask or None
        return Sheet(path, _resampled(grid_of(raster), pixel_size), chosen,
                     kinds[0] if len(kinds) == 1 else 'float32', alpha)


def check_alike(sheets: Sequence[Sheet]) -> list[str]:
    """Whether rasters can train one model.

    Returns:
        Remarks on what is unusual.

    Raises:
        ValueError: They differ in the number or type of bands.
    """
    for what, remedy in (
            (lambda s: f'{len(s.bands)} band(s)',
             'Choose those that all have with --bands'),
            (lambda s: s.dtype, 'Convert them to one type')):
        groups: dict[str, Path] = {}
        for sheet in sheets:
            groups.setdefault(what(sheet), sheet.path)
        if len(groups) > 1:
            told = ', '.join(f'{path} has {kind}'
                             for kind, path in groups.items())
            raise ValueError(f'the rasters differ: {told}. {remedy}, or take '
                             'the odd ones out of the folder.')
    remarks = []
    sizes = sorted((sheet.metres, str(sheet.path)) for sheet in sheets)
    if sizes and sizes[-1][0] > sizes[0][0] * (1 + ALIKE):
        remarks.append(
            f'Pixel sizes differ: {sizes[0][1]} has {sizes[0][0]:.4g} and '
            f'{sizes[-1][1]} has {sizes[-1][0]:.4g} (metres). One model '
            'learns one size best; --pixel-size resamples all to one.')
    marked = next((sheet for sheet in sheets if sheet.alpha), None)
    if marked:
        remarks.append(
            f'Band {marked.alpha} of {marked.path} is marked as alpha: it '
            'is left out, and transparent pixels are no data. If it is '
            'something else, such as near infrared, name it in --bands.')
    return remarks


def _resampled(grid: Grid, pixel_size: float | None) -> Grid:
    if pixel_size is None:
        return grid
    old = grid.transform
    across, down = (np.hypot(old.a, old.d), np.hypot(old.b, old.e))
    width, height = (max(round(float(side * step / pixel_size)), 1) for
                     side, step in ((grid.width, across),
                                    (grid.height, down)))
    if max(abs(across / pixel_size - 1), abs(down / pixel_size - 1)) < 1e-6:
        return grid
    scale = Affine.scale(pixel_size / across, pixel_size / down)
    return Grid(height, width, grid.crs, old @ scale)


@contextmanager
def open_bands(sheet: Sheet, holes: bool) -> Iterator['Bands | Resampled']:
    """Open the bands of a raster, on the grid of its sheet.

    Args:
        sheet: What to read.
        holes: Whether pixels will be blanked, so that no data is needed.
    """
    with open_source(sheet.path) as raster:
        bands, native = Bands(sheet, raster, holes), grid_of(raster)
        yield bands if native == sheet.grid else Resampled(
            bands, native, sheet.grid)


class Bands:
    """Chosen bands of an open raster.

    8 and 16 bits stay as they are, with their value for no data; everything
    else becomes float32 with NaN for no data.

    Args:
        sheet: What to read.
        raster: The open file.
        holes: See :func:`open_bands`.
    """

    def __init__(self, sheet: Sheet, raster: rasterio.DatasetReader,
                 holes: bool) -> None:
        self.count = len(sheet.bands)
        self.path = sheet.path
        self._raster = raster
        self._content = content_of(raster, sheet.bands)
        kinds = {raster.dtypes[i - 1] for i in sheet.bands}
        self._wide = any(np.dtype(kind).kind in 'ui' and
                         np.dtype(kind).itemsize > 2 for kind in kinds)
        self.dtype = 'float32'
        self.nodata: float | None = float('nan')
        values = set(self._content.nodata)
        if (len(kinds) == len(values) == 1 and self._content.mask is None
                and (kind := kinds.pop()) in NATIVE):
            (value, ) = values
            if value is None and not holes or value is not None and (
                    value == np.clip(value, np.iinfo(kind).min,
                                     np.iinfo(kind).max)):
                self.dtype, self.nodata = kind, value

    def rows(self, top: int, left: int, height: int,
             width: int) -> np.ndarray:
        """Pixels (C, height, width)."""
        window = Window(top, left, height, width)
        bands, unknown = self._content.bands, [np.nan] * self.count
        with readable(self.path):
            if self.dtype != 'float32':
                return read_region(self._raster, window, bands=bands,
                                   fill=unknown, dtype=self.dtype)
            pixels = read_data(self._raster, window, self._content, unknown)
        if self._wide and (np.abs(pixels) >= EXACT).any():
            raise ValueError(
                f'{self.path} holds whole numbers of {EXACT} and more, which '
                'float32 cannot tell apart; scale the file to 16 bits.')
        return pixels

    def is_empty(self, pixels: np.ndarray) -> np.ndarray:
        """Where no band holds anything, (H, W)."""
        if self.nodata is None:
            return np.zeros(pixels.shape[1:], bool)
        if np.isnan(self.nodata):
            return np.isnan(pixels).all(0)
        return (pixels == self.nodata).all(0)


class Resampled:
    """Bands with pixels of another size, see :class:`Bands`.

    Args:
        bands: Bands as they are in the file.
        native: Size and place of the file.
        grid: Size and place wanted; it starts at the same corner.
    """

    def __init__(self, bands: Bands, native: Grid, grid: Grid) -> None:
        self.count, self.dtype = bands.count, bands.dtype
        self.nodata, self.is_empty = bands.nodata, bands.is_empty
        self._bands = bands
        self._rescaling = Rescaling(~native.transform @ grid.transform,
                                    native.shape, bands.nodata)

    def rows(self, top: int, left: int, height: int,
             width: int) -> np.ndarray:
        """Pixels (C, height, width)."""
        under = self._rescaling.under(Window(top, left, height, width))
        # Whole rows: many files are stored so.
        at_once = max(height * AT_ONCE // (under.height * under.width), 1)
        return np.concatenate([
            self._rescaling.read(
                Window(row, left, min(at_once, top + height - row), width),
                lambda inside: self._bands.rows(*inside[:4]))
            for row in range(top, top + height, at_once)], axis=1)
