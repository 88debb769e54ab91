"""Pixels of image files and what of them is data: one reader for all doors."""
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import DTypeLike
from PIL import Image

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window as RasterWindow

from relay_seg.views import Read, Window, crop, valid_mean

from .mosaics import missing_parts

#: Tag of files whose overviews hold exact means (converters write it).
EXACT_OVERVIEWS = 'RELAY_SEG_EXACT_OVERVIEWS'
#: Larger numbers measure nothing; undeclared, they stand for no data.
LARGEST = 1e30
ORIENTATION = 0x0112  # of EXIF
#: Opens a file, 1, or its overview of a factor.
Opened = Callable[[str | Path, int],
                  AbstractContextManager[rasterio.DatasetReader]]


@contextmanager
def open_raster(path: str | Path,
                whole: bool = True) -> Iterator[rasterio.DatasetReader]:
    """Open any image or raster that GDAL reads.

    Args:
        path: File.
        whole: Refuse a virtual raster of which files are missing.

    Raises:
        FileNotFoundError: There is no such file, or one that it refers to.
        ValueError: GDAL cannot read it, it ends too early, it holds no
            bands, or its pixels are to be turned before they are shown.
    """
    if not Path(path).exists():
        raise _missing(path)
    with _named(path), _whole_png(), _open(path, whole) as raster:
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


def _open(path: str | Path, whole: bool = True,
          **kwargs) -> rasterio.DatasetReader:
    with warnings.catch_warnings(), _whole_png():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        raster = rasterio.open(path, **kwargs)
    if not raster.count:
        inside = ', '.join(raster.subdatasets) or 'none'
        raise ValueError(
            f'{path} is a container without bands of its own; give one of '
            f'the rasters inside ({inside}), as a file made with '
            'gdal_translate.')
    if whole and raster.driver == 'VRT' and Path(path).is_file():
        files = [part.file for part in missing_parts(path, raster.shape)]
        if files:
            raise FileNotFoundError(
                f'{path} refers to {", ".join(files[:5])}'
                f'{" and others" * (len(files) > 5)}, which are not there; '
                'bring them back. (Prediction takes their pixels for no data '
                'with --on-error skip.)')
    turn = _orientation(raster)
    if turn > 1:
        raise ValueError(
            f'{path} is to be turned or mirrored when it is shown (EXIF '
            f'orientation {turn}), so its pixels lie elsewhere than one sees '
            'them; turn the pixels first, for example with "mogrify '
            f'-auto-orient {path}".')
    return raster


def _orientation(raster: rasterio.DatasetReader) -> int:
    """How a JPEG or PNG says in EXIF that it is to be turned; 1: it is not.

    GDAL tells it of JPEG only.
    """
    if raster.driver == 'JPEG':
        return int(raster.tags().get('EXIF_Orientation', 1))
    if raster.driver != 'PNG' or not os.path.isfile(raster.name):
        return 1
    with open(raster.name, 'rb') as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack('>I4s', head)
            if kind == b'eXIf':  # before the pixels or after them
                exif = Image.Exif()
                exif.load(b'Exif\0\0' + file.read(size))
                return exif.get(ORIENTATION, 1)
            file.seek(size + 4, os.SEEK_CUR)
    return 1


def exact_overviews(path: str | Path) -> dict[int, int]:
    """Overviews of a file that hold exact means: factor to level."""
    return _overviews(str(path), _stamp(path))


@lru_cache(maxsize=4096)
def _overviews(path: str, stamp: tuple) -> dict[int, int]:
    """See :func:`exact_overviews`.

    Their cells start with the first pixel and are ``factor`` pixels wide.
    Overviews that others made are left out: nothing says what they hold.
    """
    raster = _open_once(path, 1, stamp)
    if not raster.tags().get(EXACT_OVERVIEWS):
        return {}
    return {factor: level
            for level, factor in enumerate(raster.overviews(1))}


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Errors of GDAL as errors that name the file and the remedy."""
    try:
        yield
    except (RasterioIOError, CPLE_BaseError) as error:
        # What GDAL has said stands behind "see previous exception".
        raise ValueError(
            f'{path} cannot be read ({error.__cause__ or error}); it is '
            'damaged or no image. Replace it, or take it out of the split.'
        ) from error


def _missing(path: str | Path) -> FileNotFoundError:
    return FileNotFoundError(f'{path} does not exist; check data_root and '
                             'data_prefix in the config.')


def _whole_png() -> rasterio.Env:
    """GDAL's fast path for whole PNGs does not see one that is cut."""
    return rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM='NO')


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
