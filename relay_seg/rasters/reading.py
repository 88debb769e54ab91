"""Pixels of image files and what of them is data: one reader for all doors."""
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import DTypeLike
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterWindow

from relay_seg.views import Read, Window, crop, valid_mean

from .opening import exact_overviews, reused_raster

#: Larger numbers measure nothing; undeclared, they stand for no data.
LARGEST = 1e30
#: Opens a file, 1, or its overview of a factor.
Opened = Callable[[str | Path, int],
                  AbstractContextManager[rasterio.DatasetReader]]


@dataclass(frozen=True)
class Content:
    """Bands of a file as a model reads them, and what of them is data.

    No data are: each band's own nodata value, NaN, infinite numbers, numbers
    beyond ``LARGEST``, and, in all bands, pixels that an alpha band, a mask
    in the file or one beside it (.msk) leaves out.

    Args:
        bands: Bands, the first is 1.
        nodata: Nodata value of each band; None without one.
        mask: Band that says where there is data, 0 for the file's mask, None
            if nothing does.
        bytes: All is data, and of bytes.
    """
    bands: tuple[int, ...]
    nodata: tuple[float | None, ...]
    mask: int | None
    bytes: bool


def data_bands(raster: rasterio.DatasetReader) -> tuple[int, ...]:
    """Bands of a file that hold data: all but alpha."""
    return tuple(band for band, kind in zip(
        raster.indexes, raster.colorinterp) if kind != ColorInterp.alpha)


def content_of(raster: rasterio.DatasetReader,
               bands: Sequence[int]) -> Content:
    """What of some bands is data.

    Raises:
        ValueError: They hold complex numbers, or entries of a colour table.
    """
    if any(raster.dtypes[band - 1].startswith('complex') for band in bands):
        raise ValueError(
            f'{raster.name} holds complex numbers; write amplitudes or '
            'intensities to a file first.')
    kinds = raster.colorinterp
    if any(kinds[band - 1] == ColorInterp.palette for band in bands):
        raise ValueError(
            f'{raster.name} holds entries of a colour table, whose numbers '
            'are no intensities; expand it first: gdal_translate -expand '
            f'rgb {raster.name} rgb.tif')
    mask = None
    alpha = [band for band, kind in zip(raster.indexes, kinds)
             if kind == ColorInterp.alpha]
    flags = raster.mask_flag_enums[bands[0] - 1]
    if alpha and alpha[-1] not in bands:
        mask = alpha[-1]
    elif MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        mask = 0
    nodata = tuple(raster.nodatavals[band - 1] for band in bands)
    return Content(
        tuple(bands), nodata, mask,
        mask is None and not any(x is not None for x in nodata)
        and all(raster.dtypes[band - 1] == 'uint8' for band in bands))


def choose_bands(raster: rasterio.DatasetReader, bands: Sequence[int] | None,
                 expected: int) -> tuple[int, ...]:
    """Bands to read from a file, checked against what a model expects.

    Args:
        raster: Open file.
        bands: Bands named by the config, the first is 1; None for all, less
            alpha if these are too many.
        expected: Bands of the model.
    """
    chosen = tuple(bands) if bands else raster.indexes
    if not bands and len(chosen) > expected:
        chosen = data_bands(raster)
    check_bands(raster.name, chosen, raster.count, expected)
    return chosen


def check_bands(name: str, chosen: Sequence[int], count: int,
                expected: int) -> None:
    """Raise a ``ValueError`` if a model cannot take the chosen bands.

    Args:
        name: Of the file, or of the files whose bands follow each other.
        chosen: Bands, the first is 1.
        count: Bands that there are.
        expected: Bands of the model.
    """
    if not set(chosen) <= set(range(1, count + 1)):
        raise ValueError(
            f'{name} has bands 1 to {count} but bands={tuple(chosen)} are '
            'asked for; choose among them (1 is the first).')
    if len(chosen) != expected:
        raise ValueError(
            f'{name} has {count} bands, {len(chosen)} are asked for and the '
            f'model takes {expected}; choose them with `bands` of the reading '
            'transforms or --bands (1 is the first), or set in_channels, '
            'mean, std and fill for that many.')


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
        content = content_of(raster, choose_bands(raster, bands, len(fill)))
        height, width = raster.shape
        overviews = exact_overviews(path) if content.mask is None else {}

    def read(region: Window, factor: int) -> np.ndarray:
        on_grid = region.top % factor == region.left % factor == 0
        if factor > 1 and factor in overviews and on_grid:
            reduced = Window(*(side // factor for side in region[:4]))
            with opened(path, factor) as raster:
                out = read_data(raster, reduced, content, fill)
            return _fill_edge(out, reduced, (height / factor, width / factor),
                              fill)
        with opened(path, 1) as raster:
            return valid_mean(
                read_data(raster, region, content, fill), factor)

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
    outside = np.asarray(fill, np.float32)[:, None, None]
    mixed = inside * image + (1 - inside) * outside
    # No data, on either side, does not count.
    return np.where(inside == 1, image, np.where(
        np.isnan(outside), image,
        np.where(np.isnan(image), outside, mixed)))


def read_data(raster: rasterio.DatasetReader, window: Window,
              content: Content, fill: Sequence[float]) -> np.ndarray:
    """Pixels of a region, also beyond the border, NaN for no data.

    Args:
        raster: Open file, or one that is resampled.
        window: Region; its angle is not looked at.
        content: Its bands.
        fill: Value of each of these bands outside the raster.

    Returns:
        (bands, window.height, window.width) float32.
    """
    inside, inner = _inside(raster, window)
    if inside is None:
        return crop(np.empty((len(content.bands), 0, 0), np.float32), inner,
                    fill)
    bands = list(content.bands)
    pixels = raster.read(bands + ([content.mask] if content.mask else []),
                         window=inside)
    values = pixels[:len(bands)].astype(np.float32)
    for value, stored, nodata in zip(values, pixels, content.nodata):
        if nodata is not None:  # compared as it is in the file
            value[stored == nodata] = np.nan
    if pixels.dtype.kind == 'f':
        # Neither is a comparison with NaN: it stays what it is.
        values[np.abs(values) > LARGEST] = np.nan
    if content.mask is not None:
        masked = (pixels[-1] if content.mask
                  else raster.read_masks(bands[0], window=inside)) == 0
        values[:, masked] = np.nan
    return crop(values, inner, fill)


def read_region(raster: rasterio.DatasetReader, window: Window, *,
                bands: Sequence[int], fill: Sequence[float],
                dtype: DTypeLike = np.float32) -> np.ndarray:
    """Numbers of a region as they are in the file, also beyond the border.

    Args:
        raster: Open file.
        window: Region; its angle is not looked at.
        bands: Bands to read, the first is 1.
        fill: Value of each of these bands outside the raster.
        dtype: Type of the result.

    Returns:
        (len(bands), window.height, window.width).
    """
    inside, inner = _inside(raster, window)
    pixels = (np.empty((len(bands), 0, 0)) if inside is None
              else raster.read(list(bands), window=inside))
    return crop(pixels.astype(dtype, copy=False), inner, fill)


def _inside(raster: rasterio.DatasetReader,
            window: Window) -> tuple[RasterWindow | None, Window]:
    """The part of a region that lies in a raster, and the region seen there.

    Args:
        raster: Open file.
        window: Region.

    Returns:
        The part, None if there is none; the region, counted from its corner.
    """
    top, left = (min(max(start, 0), end) for start, end in zip(
        (window.top, window.left), raster.shape))
    bottom, right = (min(max(start + size, 0), end) for start, size, end in
                     zip((window.top, window.left),
                         (window.height, window.width), raster.shape))
    inner = Window(window.top - top, window.left - left, window.height,
                   window.width)
    if bottom <= top or right <= left:
        return None, inner
    return RasterWindow(left, top, right - left, bottom - top), inner
