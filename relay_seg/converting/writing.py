"""Rasters as training reads them fast: tiled, compressed, with overviews.

Rows go in from top to bottom, so a scene of any size takes the memory of one
row of tiles. Overviews are computed here: GDAL makes each from the one below,
which rounds up to four times, and spreads its cells over the whole image when
the size is no multiple of the factor; a training view needs the exact mean of
the pixels under each of its own.
"""
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

import numpy as np
import rasterio.shutil
from affine import Affine

from relay_seg.rasters import EXACT_OVERVIEWS, Grid
from relay_seg.rasters.files import naming
from relay_seg.rasters.writing import (
    LAYOUT,
    RowWriter,
    colour_table,
    read_back,
    strips,
)

from .reducing import area_means, nearest

OVERVIEWS = (2, 4, 8, 16)
#: Zstandard is read 2.6 times as fast as deflate, at the same size.
LABEL = dict(compress='zstd')
#: By kind of number: differences of neighbours are compressed.
LOSSLESS = {'u': dict(compress='zstd', predictor=2),
            'i': dict(compress='zstd', predictor=2),
            'f': dict(compress='zstd', predictor=3, zstd_level=1)}
JPEG = dict(compress='jpeg', jpeg_quality=85, photometric='ycbcr')
#: Of what belongs to no class in a label.
BLACK = 0, 0, 0, 255


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
        self._kind = np.dtype(dtype).kind
        self._levels: list[RowWriter] = []
        with naming(path):
            for k in self.factors:
                level = RowWriter(
                    self._folder / f'{k}.tif', Grid(
                        -(-grid.height // k), -(-grid.width // k), grid.crs,
                        grid.transform @ Affine.scale(k)),
                    count=count, dtype=dtype, nodata=nodata,
                    compress='deflate', zlevel=1)
                self._stack.callback(level.close)
                self._levels.append(level)
            if colours:
                self._levels[0].raster.write_colormap(1, colours)

    def __enter__(self) -> 'RasterWriter':
        return self

    def write(self, rows: np.ndarray) -> None:
        """Append rows (C, H, W); H as :func:`strips` says."""
        if self.is_label:
            reduced = nearest(rows, self.factors[1:])
        else:
            reduced = area_means(rows, self.factors[1:], self.nodata)
        with naming(self.path):
            for level, pixels in zip(self._levels, (rows, *reduced)):
                level.write(pixels)

    def finish(self) -> None:
        """Assemble the file and read it back, for :meth:`publish`.

        Raises:
            OSError: The disk is full or failing.
        """
        with naming(self.path):
            for level in self._levels:
                level.close()
            rasterio.shutil.copy(
                self._virtual(), self._whole, copy_src_overviews=True,
                **LAYOUT, **self._options())
            for index, level in enumerate(self._levels):
                options = dict(overview_level=index - 1) if index else {}
                read_back(self._whole, level.crc,
                          lossy=self.compression is not None, **options)

    def publish(self) -> None:
        """Give the finished file its name."""
        self._whole.replace(self.path)

    def __exit__(self, kind: type | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            with naming(self.path):
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
        return LOSSLESS[self._kind]

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
    _write(path, label[None], colour_table(palette, BLACK), None)


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
