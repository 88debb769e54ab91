"""Regions of image files, read through rasterio: the edge of the package."""
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window as RasterWindow

from relay_seg.views import Window, crop


@contextmanager
def open_raster(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    """Open any image or raster that GDAL reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: GDAL cannot read it, or it ends too early.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f'{path} does not exist; check data_root and '
                                'data_prefix in the config.')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                yield raster
    except RasterioIOError as error:
        raise ValueError(
            f'{path} cannot be read ({error}); it is damaged or no image. '
            'Replace it, or take it out of the split.') from error


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
    return crop(pixels.astype(dtype, copy=False), inner, fill)


def choose_bands(raster: rasterio.DatasetReader, bands: Sequence[int] | None,
                 expected: int) -> tuple[int, ...]:
    """Bands to read from a file, checked against what a model expects.

    Args:
        raster: Open file.
        bands: Bands named by the config, the first is 1; None for all.
        expected: Bands of the model.
    """
    chosen = tuple(bands) if bands else raster.indexes
    if len(chosen) != expected or max(chosen) > raster.count:
        raise ValueError(
            f'{raster.name} has {raster.count} bands, {len(chosen)} are '
            f'asked for and the model takes {expected}; choose them with '
            '`bands` of the reading transforms (1 is the first), or set '
            'in_channels, mean, std and fill for that many.')
    return chosen
