"""Image files, opened: what cannot mean what one sees is refused here."""
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from io import BufferedReader
from math import log2
from pathlib import Path
from typing import BinaryIO

import rasterio
from PIL import Image

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError, CPLE_OpenFailedError
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from .identity import driver_of, files_of
from .mosaics import missing_parts
from .remote import (
    Bytes,
    gdal_name,
    is_remote,
    is_virtual,
    patience,
    refuse_local,
    shown,
    without_keys,
)

#: Ends of names that are taken for rasters in a folder.
SUFFIXES = frozenset((
    '.tif', '.tiff', '.vrt', '.png', '.jpg', '.jpeg', '.jp2', '.j2k', '.img',
    '.bmp', '.webp', '.asc', '.nc'))
#: Tag of files whose overviews hold exact means (converters write it).
EXACT_OVERVIEWS = 'RELAY_SEG_EXACT_OVERVIEWS'
#: Levels may be a little larger or smaller than a power of 2 has it.
SLACK = 0.01
#: Drivers that pass over tiles in silence.
INDEXES = frozenset(('GTI', 'STACIT', 'STACTA'))
ORIENTATION = 0x0112  # tag of EXIF and TIFF
#: Virtual rasters that stay open, see :func:`_closed_after_errors`.
_SPOILED: list[rasterio.DatasetReader] = []


@contextmanager
def open_raster(path: str | Path,
                whole: bool = True) -> Iterator[rasterio.DatasetReader]:
    """Open any image or raster that GDAL reads.

    Args:
        path: File, or address that :func:`gdal_name` knows.
        whole: Refuse a virtual raster of which files are missing.

    Raises:
        FileNotFoundError: There is no such file, or one that it refers to.
        OSError: It cannot be reached.
        ValueError: GDAL cannot read it, it ends too early, it holds no
            bands, or several pages, or its pixels are to be turned before
            they are shown.
    """
    if not (is_virtual(path) or Path(path).exists()):
        raise _missing(path)
    with readable(path), _settings(path):
        raster = _open(path, whole)
        with _closed_after_errors(raster):
            yield raster
        raster.close()


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
    with readable(path):
        raster = _open_once(str(path), factor, _stamp(path))
        # To enter it takes as long as a small read.
        needed = raster.driver in ('PNG', 'VRT') or patience(path)
        try:
            with (_settings(path) if needed else nullcontext(),
                  _closed_after_errors(raster)):
                yield raster
        except BaseException:
            _open_once.cache_clear()  # it is closed
            raise


def _stamp(path: str | Path) -> tuple[int, int, int]:
    """Changes with the process and with the file, if it lies here."""
    if is_virtual(path):
        return os.getpid(), 0, 0
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
    with warnings.catch_warnings(), _settings(path):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        raster = rasterio.open(gdal_name(path), **kwargs)
    inside = raster.subdatasets
    if not raster.count or len(inside) > 1 and not _is_pyramid(raster):
        what = 'pages' if raster.count else 'rasters, and no bands of its own'
        raise ValueError(
            f'{path} holds {len(inside)} {what}, and which is meant is not '
            f'known ({", ".join(inside[:8])}{" ..." * (len(inside) > 8)}); '
            'write one to a file of its own: gdal_translate '
            f'{inside[0] if inside else path} one.tif')
    if whole and raster.driver == 'VRT':
        files = [part.file for part in missing_parts(path, raster.shape)]
        if files:
            raise FileNotFoundError(
                f'{path} refers to {", ".join(files[:5])}'
                f'{" and others" * (len(files) > 5)}, which are gone or '
                'damaged; bring them back. (Prediction takes their pixels for '
                'no data with --on-error skip.)')
    if raster.driver in INDEXES:
        raise ValueError(
            f'{path} is an index of tiles ({raster.driver}), of which those '
            'that cannot be opened would be zeros without a word; make a '
            'virtual raster of the tiles: gdalbuildvrt mosaic.vrt TILES.')
    if raster.driver == 'VRT' and is_remote(path):
        refuse_local(path, [str(file) for file in files_of(path)])
    turn = _orientation(raster)
    if turn > 1:
        raise ValueError(
            f'{path} is to be turned or mirrored when it is shown (EXIF '
            f'orientation {turn}), so its pixels, and those of its label, lie '
            'elsewhere than one sees them; turn the pixels first, for example '
            f'with "mogrify -auto-orient {path}", or, if they lie right as '
            'they are, leave the tag out: gdal_translate '
            f'{path} upright.tif')
    return raster


def _is_pyramid(raster: rasterio.DatasetReader) -> bool:
    """Whether further pages of a file are coarser levels of its first."""
    if raster.tags().get('TIFFTAG_IMAGEDESCRIPTION', '').startswith('Aperio'):
        return True  # a thumbnail, a label and the slide from far are pages
    for name in raster.subdatasets[1:]:
        with rasterio.open(name) as page:
            factor = raster.width / page.width
            if (page.dtypes != raster.dtypes or factor < 2 - SLACK
                    or abs(log2(factor) - round(log2(factor))) > SLACK
                    or abs(page.height - raster.height / factor) > 1):
                return False
    return True


def _orientation(raster: rasterio.DatasetReader) -> int:
    """How a file says that it is to be turned; 1, or 0: it is not.

    GDAL tells it of JPEG only.
    """
    if raster.driver == 'JPEG':
        return int(raster.tags().get('EXIF_Orientation', 1))
    look = dict(GTiff=_tiff_orientation, COG=_tiff_orientation,
                PNG=_png_orientation).get(raster.driver)
    if look and is_virtual(raster.name):
        with BufferedReader(Bytes(raster.name)) as file:
            return look(file)
    if look and os.path.isfile(raster.name):
        with open(raster.name, 'rb') as file:
            return look(file)
    return 1


def _tiff_orientation(file: BinaryIO) -> int:
    """What the first page says; Pillow reads no big-endian BigTIFF."""
    order = '<' if file.read(2) == b'II' else '>'

    def take(kind: str) -> int:
        size = struct.calcsize(order + kind)
        return struct.unpack(order + kind, file.read(size))[0]

    big = take('H') == 43
    if big:
        file.seek(8)
    file.seek(take('Q' if big else 'I'))
    entries = take('Q' if big else 'H')
    first = file.tell()
    for i in range(entries):
        file.seek(first + i * (20 if big else 12))
        if take('H') == ORIENTATION:
            file.seek(10 if big else 6, os.SEEK_CUR)
            return take('H')
    return 1


def _png_orientation(file: BinaryIO) -> int:
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
def readable(path: str | Path) -> Iterator[None]:
    """Errors of GDAL as errors that name the file and the remedy."""
    try:
        yield
    except (RasterioIOError, CPLE_BaseError) as error:
        words = said(error)
        words = without_keys(words) if is_virtual(path) else words
        # Asks again, and says what is wrong with the network.
        far = _far_files(path)
        if far and (not not_opened(error) or all(map(driver_of, far))):
            raise OSError(
                f'{shown(path)} cannot be read ({words}), though it can be '
                'reached; run the same command again. If '
                'that does not help it is damaged: bring it to this machine, '
                'where --on-error skip takes damage for no data.') from error
        raise ValueError(
            f'{shown(path)} cannot be read ({words}); it is damaged, gone or '
            'no image. Replace it, or leave it out.') from error


def said(error: BaseException) -> str:
    """What GDAL has said: it stands behind "see previous exception"."""
    return str(next((cause for cause in _causes(error)
                     if isinstance(cause, CPLE_BaseError)), error))


def not_opened(error: BaseException) -> bool:
    """Whether an error of GDAL is that a file could not be opened."""
    return any(isinstance(cause, CPLE_OpenFailedError)
               for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those of GDAL that led to it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
        if not isinstance(error, (RasterioIOError, CPLE_BaseError)):
            return


class Handles:
    """Open handles of one file, each lent to one thread at a time.

    GDAL's handles must not be used by two threads at once, and formats
    without tiles are read well from top to bottom only.

    Args:
        path: File.
        open_one: Gives another handle.
    """

    def __init__(self, path: Path,
                 open_one: Callable[[], rasterio.DatasetReader]) -> None:
        self._path, self._open_one = path, open_one
        # Appending and popping are atomic.
        self._idle: list[rasterio.DatasetReader] = []

    @contextmanager
    def lend(self) -> Iterator[rasterio.DatasetReader]:
        """A handle, for as long as the context lasts."""
        with readable(self._path), _settings(self._path):
            try:
                handle = self._idle.pop()
            except IndexError:
                handle = self._open_one()
            with _closed_after_errors(handle):
                yield handle
            self._idle.append(handle)

    def close(self) -> None:
        """Close those that are not lent."""
        while self._idle:
            self._idle.pop().close()


@contextmanager
def _closed_after_errors(raster: rasterio.DatasetReader) -> Iterator[None]:
    """Close a raster if there is an error, unless GDAL remembers it.

    That a source of a virtual raster cannot be opened GDAL says once. From
    then on it gives zeros, without a word, and not to that raster alone: its
    memory of it goes by the address of the raster, so it passes to the next
    one that comes to lie there. Therefore the place stays taken.
    """
    try:
        yield
    except BaseException as error:
        if not_opened(error):
            _SPOILED.append(raster)
        else:
            raster.close()
        raise


def _far_files(path: str | Path) -> list[Path]:
    """Those of a raster that lie behind a network; all must answer."""
    if not is_remote(path) and driver_of(path) != 'VRT':
        return []
    return [file for file in files_of(path) if is_remote(file)]


def _missing(path: str | Path) -> FileNotFoundError:
    return FileNotFoundError(f'{path} does not exist; check data_root and '
                             'data_prefix in the config, or the path.')


def _settings(path: str | Path) -> rasterio.Env:
    """GDAL's fast path for whole PNGs does not see one that is cut."""
    return rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM='NO', **patience(path))
