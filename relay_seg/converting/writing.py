"""Rasters as training reads them fast: tiled, compressed, with overviews.

Rows go in from top to bottom, so a scene of any size takes the memory of one
row of tiles. Overviews are computed here: GDAL makes each from the one below,
which rounds up to four times, and spreads its cells over the whole image when
the size is no multiple of the factor; a training view needs the exact mean of
the pixels under each of its own.
"""
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from relay_seg.rasters import EXACT_OVERVIEWS, Grid

from .reducing import area_means, nearest

TILE = 256
OVERVIEWS = (2, 4, 8, 16)
#: Zstandard is read 2.6 times as fast as deflate, at the same size.
LABEL = dict(compress='zstd')
#: By kind of number: differences of neighbours are compressed.
LOSSLESS = {'u': dict(compress='zstd', predictor=2),
            'i': dict(compress='zstd', predictor=2),
            'f': dict(compress='zstd', predictor=3, zstd_level=1)}
JPEG = dict(compress='jpeg', jpeg_quality=85, photometric='ycbcr')
LAYOUT = dict(driver='GTiff', tiled=True, blockxsize=TILE, blockysize=TILE,
              bigtiff='if_safer')


def strips(height: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each row of tiles."""
    for top in range(0, height, TILE):
        yield top, min(TILE, height - top)


class RasterWriter:
    """A raster that grows from top to bottom and appears when it is whole.

    Use as a context manager; without :meth:`publish` nothing is left behind.

    Args:
        path: File to write.
        grid: Size and place.
        count: Bands.
        dtype: Type of the pixels.
        nodata: Value of pixels that hold nothing; left out of means.
        colours: Colour (R, G, B, A) of each value, which makes it a label:
            its overviews take one pixel each instead of a mean.
        scratch: Folder for unfinished files on the same file system as
            ``path``; the folder of ``path`` if none is given.
        compression: Creation options, lossless ones if none are given.
    """

    def __init__(self, path: Path, grid: Grid, count: int, dtype: str, *,
                 nodata: float | None = None,
                 colours: dict[int, tuple] | None = None,
                 scratch: Path | None = None,
                 compression: dict | None = None) -> None:
        self.path = path
        self.grid = grid
        self.nodata = nodata
        self.is_label = bool(colours)
        self.compression = compression
        self.factors = (1, *(k for k in OVERVIEWS
                             if k < max(grid.height, grid.width)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(
            prefix=f'.{path.stem}.', dir=scratch or path.parent))
        self._whole = self._folder / 'whole.tif'
        self._stack = ExitStack()
        with _naming(path):
            self._levels = [
                self._stack.enter_context(_Level(
                    self._folder / f'{k}.tif', grid, k, count, dtype, nodata,
                    colours if k == 1 else None)) for k in self.factors
            ]

    def __enter__(self) -> 'RasterWriter':
        return self

    def write(self, rows: np.ndarray) -> None:
        """Append rows (C, H, W); H as :func:`strips` says."""
        if self.is_label:
            reduced = nearest(rows, self.factors[1:])
        else:
            reduced = area_means(rows, self.factors[1:], self.nodata)
        with _naming(self.path):
            for level, pixels in zip(self._levels, (rows, *reduced)):
                level.write(pixels)

    def finish(self) -> None:
        """Assemble the file and read it back, for :meth:`publish`.

        Raises:
            OSError: The disk is full or failing.
        """
        with _naming(self.path):
            for level in self._levels:
                level.close()
            rasterio.shutil.copy(
                self._virtual(), self._whole, copy_src_overviews=True,
                **LAYOUT, **self._options())
            self._read_back(self._whole)

    def publish(self) -> None:
        """Give the finished file its name."""
        self._whole.replace(self.path)

    def __exit__(self, kind: type | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            with _naming(self.path):
                self._stack.close()
        except OSError:
            # Closing an unfinished file on a full disk; the error that led
            # here says so already.
            if error is None:
                raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _options(self) -> dict:
        if self.compression:
            return self.compression
        if self.is_label:
            return LABEL
        return LOSSLESS[np.dtype(self._levels[0].dtype).kind]

    def _virtual(self) -> Path:
        """A VRT of the finest level that knows the others as overviews."""
        path = self._folder / 'levels.vrt'
        rasterio.shutil.copy(self._levels[0].path, path, driver='VRT')
        tree = ElementTree.parse(path)
        if self.compression is None:  # lossless: readers may rely on it
            metadata = ElementTree.SubElement(tree.getroot(), 'Metadata')
            tag = ElementTree.SubElement(metadata, 'MDI', key=EXACT_OVERVIEWS)
            tag.text = 'YES'
        for band in tree.iter('VRTRasterBand'):
            for level in self._levels[1:]:
                overview = ElementTree.SubElement(band, 'Overview')
                name = ElementTree.SubElement(
                    overview, 'SourceFilename', relativeToVRT='1')
                name.text = level.path.name
                source = ElementTree.SubElement(overview, 'SourceBand')
                source.text = band.get('band')
        tree.write(path)
        return path

    def _read_back(self, path: Path) -> None:
        """A full disk shows late, when GDAL closes files, and silently."""
        for index, level in enumerate(self._levels):
            options = {} if index == 0 else dict(overview_level=index - 1)
            crc = 0
            with rasterio.open(path, **options) as raster:
                for top, height in strips(raster.height):
                    rows = raster.read(
                        window=Window(0, top, raster.width, height))
                    crc = zlib.crc32(rows, crc)
            if crc != level.crc and self.compression is None:
                raise RasterioError('it reads back otherwise')


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in what goes wrong with writing it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            yield
    except (RasterioError, CPLE_BaseError) as error:
        raise OSError(
            f'{path} cannot be written ({error}); is the disk full? Make room'
            ' and run the same command again.') from error


class _Level:
    """One resolution of a raster under way, in a file of its own."""

    def __init__(self, path: Path, grid: Grid, factor: int, count: int,
                 dtype: str, nodata: float | None,
                 colours: dict[int, tuple] | None) -> None:
        self.path = path
        self.dtype = dtype
        self.crc = 0
        self._top = 0
        self._rows: list[np.ndarray] = []
        self._raster = rasterio.open(
            path, 'w', **LAYOUT, count=count, dtype=dtype,
            height=-(-grid.height // factor), width=-(-grid.width // factor),
            nodata=nodata, crs=grid.crs,
            transform=grid.transform @ Affine.scale(factor),
            compress='deflate', zlevel=1)
        if colours:
            self._raster.write_colormap(1, colours)

    def __enter__(self) -> '_Level':
        return self

    def __exit__(self, *_) -> None:
        self._raster.close()

    def write(self, rows: np.ndarray) -> None:
        """Append rows; whole rows of tiles go to disk, none twice."""
        self._rows.append(rows)
        if sum(rows.shape[1] for rows in self._rows) >= TILE:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._raster.close()

    def _flush(self) -> None:
        rows = (self._rows[0] if len(self._rows) == 1 else
                np.concatenate(self._rows, axis=1))
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        self._rows = []
        self._raster.write(
            rows, window=Window(0, self._top, rows.shape[2], rows.shape[1]))
        self._top += rows.shape[1]
        self.crc = zlib.crc32(rows.data, self.crc)


def label_colours(palette: Sequence[Sequence[int]]) -> dict[int, tuple]:
    """Colour table of a label: those of the classes, black for 255."""
    colours = {i: (*colour, 255) for i, colour in enumerate(palette)}
    colours[255] = (0, 0, 0, 255)
    return colours


def write_image(path: Path, image: np.ndarray, **compression) -> None:
    """Write an image (C, H, W) as tiled GeoTIFF with averaged overviews.

    Args:
        path: File to write; it appears under this name when it is whole.
        image: Bands first.
        compression: Creation options, lossless ones if none are given.
    """
    _write(path, image, None, compression or None)


def write_label(path: Path, label: np.ndarray,
                palette: Sequence[Sequence[int]]) -> None:
    """Write class ids (H, W) uint8 as tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        label: Class ids, 255 for ignored.
        palette: Colour of each class, (R, G, B).
    """
    _write(path, label[None], label_colours(palette), None)


def _write(path: Path, pixels: np.ndarray, colours: dict | None,
           compression: dict | None) -> None:
    count, height, width = pixels.shape
    with RasterWriter(
            path, Grid(height, width), count, pixels.dtype.name,
            colours=colours, compression=compression) as writer:
        for top, rows in strips(height):
            writer.write(pixels[:, top:top + rows])
        writer.finish()
        writer.publish()
