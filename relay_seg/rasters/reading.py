"""Regions of image files, read through rasterio: the edge of the package."""
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window as RasterWindow

from relay_seg.views import Read, Window, crop, valid_mean

#: Tag of files whose overviews hold exact means (data_prep/ writes it).
EXACT_OVERVIEWS = 'RELAY_SEG_EXACT_OVERVIEWS'
#: Opens a file, 1, or its overview of a factor.
Opened = Callable[[str | Path, int],
                  AbstractContextManager[rasterio.DatasetReader]]


@contextmanager
def open_raster(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    """Open any image or raster that GDAL reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: GDAL cannot read it, or it ends too early.
    """
    if not Path(path).exists():
        raise _missing(path)
    with _named(path), _whole_png(), _open(path) as raster:
        yield raster


@contextmanager
def reused_raster(path: str | Path,
                  factor: int = 1) -> Iterator[rasterio.DatasetReader]:
    """As :func:`open_raster`, but the file stays open for the next time.

    Each process has handles of its own, so that forked workers of a data
    loader do not share a position in the file.

    Args:
        path: File.
        factor: The file itself, 1, or its overview of this factor.
    """
    with _named(path):
        raster = _open_once(str(path), factor, _stamp(path))
        # To enter it takes as long as a small read.
        with _whole_png() if raster.driver == 'PNG' else nullcontext():
            yield raster


def _stamp(path: str | Path) -> tuple[int, int, int]:
    """Changes with the process and with the file."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    return os.getpid(), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=128)
def _open_once(path: str, factor: int,
               stamp: tuple) -> rasterio.DatasetReader:
    if factor == 1:
        return _open(path)
    return _open(path, overview_level=_overviews(path, stamp)[factor])


def _open(path: str | Path, **kwargs) -> rasterio.DatasetReader:
    with warnings.catch_warnings(), _whole_png():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        return rasterio.open(path, **kwargs)


def exact_overviews(path: str | Path) -> dict[int, int]:
    """Overviews of a file that hold exact means: factor to level."""
    return _overviews(str(path), _stamp(path))


@lru_cache(maxsize=4096)
def _overviews(path: str, stamp: tuple) -> dict[int, int]:
    """See :func:`exact_overviews`.

    Their cells start with the first pixel and are ``factor`` pixels wide.
    GDAL's own overviews are not so where the factor does not divide the size
    of the file, and are left out there.
    """
    raster = _open_once(path, 1, stamp)
    found = {}
    for level, factor in enumerate(raster.overviews(1)):
        divides = all(side % factor == 0 for side in raster.shape)
        if raster.tags().get(EXACT_OVERVIEWS) or divides:
            found[factor] = level
    return found


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Errors of GDAL as errors that name the file and the remedy."""
    try:
        yield
    except RasterioIOError as error:
        raise ValueError(
            f'{path} cannot be read ({error}); it is damaged or no image. '
            'Replace it, or take it out of the split.') from error


def _missing(path: str | Path) -> FileNotFoundError:
    return FileNotFoundError(f'{path} does not exist; check data_root and '
                             'data_prefix in the config.')


def _whole_png() -> rasterio.Env:
    """GDAL's fast path for whole PNGs does not see one that is cut."""
    return rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM='NO')


def pixel_metres(raster: rasterio.DatasetReader) -> float | None:
    """Side of a pixel in metres; None where the file does not say.

    A place without a CRS is taken to be in metres: some owners hide where
    their data lie by removing it.
    """
    if raster.transform.is_identity:
        return None
    if raster.crs is None:
        unit = 1.
    elif raster.crs.is_projected:
        unit = raster.crs.linear_units_factor[1]
    else:
        return None
    return abs(raster.transform.determinant)**0.5 * unit


def raster_reader(path: str | Path, *, bands: Sequence[int] | None,
                  fill: Sequence[float],
                  opened: Opened = reused_raster) -> Read:
    """Regions of an image file, as float32, NaN where it has no data.

    Where the file has an overview of the factor, and the region lies on its
    grid, that is read instead of the native pixels. (An overview of integers
    is rounded to integers.)

    Args:
        path: File.
        bands: Bands to read, the first is 1; None for all.
        fill: Value of each of these bands outside the file.
        opened: Gives the open file, or its overview of a factor. Files are
            open in one thread at a time only.

    Raises:
        ValueError: The file does not have as many bands as ``fill``.
    """
    with opened(path, 1) as raster:
        bands = choose_bands(raster, bands, len(fill))
        height, width = raster.shape
        overviews = exact_overviews(path)

    def read(region: Window, factor: int) -> np.ndarray:
        on_grid = region.top % factor == region.left % factor == 0
        if factor > 1 and factor in overviews and on_grid:
            reduced = Window(*(side // factor for side in region[:4]))
            with opened(path, factor) as raster:
                out = read_region(raster, reduced, bands=bands, fill=fill)
            return _fill_edge(out, reduced, (height / factor, width / factor),
                              fill)
        with opened(path, 1) as raster:
            return valid_mean(
                read_region(raster, region, bands=bands, fill=fill), factor)

    return read


def _fill_edge(image: np.ndarray, window: Window, shape: tuple[float, float],
               fill: Sequence[float]) -> np.ndarray:
    """Count what lies outside in the last, partial cells of an overview.

    Args:
        image: (C, H, W) of a window of the overview.
        window: That window.
        shape: Height and width of the file in cells, with fractions.
        fill: Value of each band outside.
    """
    shares = [np.ones(count, np.float32) for count in window[2:4]]
    for share, start, cells in zip(shares, window[:2], shape):
        last = int(cells) - start  # index of the partial cell
        if cells % 1 and 0 <= last < len(share):
            share[last] = cells % 1
    if all((share == 1).all() for share in shares):
        return image
    inside = shares[0][:, None] * shares[1]
    fill = np.asarray(fill, np.float32)[:, None, None]
    mixed = inside * image + (1 - inside) * fill
    # No data, on either side, does not count.
    return np.where(inside == 1, image, np.where(
        np.isnan(fill), image, np.where(np.isnan(image), fill, mixed)))


def read_region(raster: rasterio.DatasetReader, window: Window, *,
                bands: Sequence[int],
                fill: Sequence[float],
                dtype: type = np.float32) -> np.ndarray:
    """Native pixels of a region, also beyond the border.

    Args:
        raster: Open file.
        window: Region; its angle is not looked at.
        bands: Bands to read, the first is 1.
        fill: Value of each of these bands outside the raster.
        dtype: Type of the result.

    Returns:
        (len(bands), window.height, window.width).
    """
    top, left = (min(max(start, 0), end) for start, end in zip(
        (window.top, window.left), raster.shape))
    bottom, right = (min(max(start + size, 0), end) for start, size, end in
                     zip((window.top, window.left),
                         (window.height, window.width), raster.shape))
    if bottom > top and right > left:
        pixels = raster.read(
            list(bands),
            window=RasterWindow(left, top, right - left, bottom - top))
    else:
        pixels = np.empty((len(bands), 0, 0))
    inner = Window(window.top - top, window.left - left, window.height,
                   window.width)
    values = pixels.astype(dtype, copy=False)
    if raster.nodata is not None and np.issubdtype(dtype, np.floating):
        values = np.where(pixels == raster.nodata, np.nan, values)
        values = values.astype(dtype, copy=False)
    return crop(values, inner, fill)


def choose_bands(raster: rasterio.DatasetReader, bands: Sequence[int] | None,
                 expected: int) -> tuple[int, ...]:
    """Bands to read from a file, checked against what a model expects.

    Args:
        raster: Open file.
        bands: Bands named by the config, the first is 1; None for all.
        expected: Bands of the model.
    """
    chosen = tuple(bands) if bands else raster.indexes
    if not set(chosen) <= set(raster.indexes):
        raise ValueError(
            f'{raster.name} has bands 1 to {raster.count} but bands={chosen} '
            'are asked for; choose among them (1 is the first).')
    if len(chosen) != expected:
        raise ValueError(
            f'{raster.name} has {raster.count} bands, {len(chosen)} are '
            f'asked for and the model takes {expected}; choose them with '
            '`bands` of the reading transforms (1 is the first), or set '
            'in_channels, mean, std and fill for that many.')
    return chosen
