"""Regions of image files, read through rasterio: the edge of the package."""
import os
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
            # GDAL's fast path for whole PNGs does not see that one ends early.
            with (rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM='NO'),
                  rasterio.open(path) as raster):
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


def write_class_ids(path: Path, ids: np.ndarray,
                    palette: Sequence[Sequence[int]], like: Path) -> None:
    """Write class ids as a tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        ids: (H, W) uint8.
        palette: Colour of each class.
        like: Raster whose CRS and transform the file gets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    with open_raster(like) as source:
        crs, transform = source.crs, source.transform
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(
                    unfinished, 'w', driver='GTiff', count=1, dtype='uint8',
                    height=ids.shape[0], width=ids.shape[1], crs=crs,
                    transform=transform, tiled=True, blockxsize=256,
                    blockysize=256, compress='deflate') as raster:
                raster.write(ids, 1)
                raster.write_colormap(1, {
                    i: (*colour, 255) for i, colour in enumerate(palette)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
