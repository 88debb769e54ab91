"""Predictions as GeoTIFFs that GIS opens without a further step."""
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import MARK, Grid, Mosaic, copy_points, open_raster
from relay_seg.rasters.files import naming
from relay_seg.rasters.writing import (
    TILE,
    RowWriter,
    colour_table,
    pieces,
    read_back,
)
from relay_seg.views import Window as View

from .deciding import STEPS
from .model import Classes

#: The last one refers to the blocks, which stay.
FORMATS = ('gtiff', 'cog', 'vrt')
#: How probabilities can be stored. GDAL below 3.11 knows no float16: a
#: float32 of 16 bits is read by every version.
PROBABILITIES = {
    'uint8': dict(dtype='uint8', nodata=IGNORE, predictor=2),
    'float16': dict(dtype='float32', nodata=np.nan, nbits=16, predictor=3),
}


#: Kinds of confidence, and what their bands are called.
CONFIDENCES = dict(maximum='largest probability', entropy='entropy')


@dataclass(frozen=True)
class Form:
    """What distinguishes one kind of output from another.

    Args:
        profile: Type, bands and the like.
        decorate: Gives the raster names and colours.
        resampling: How overviews are made.
    """
    profile: Mapping
    decorate: Callable[[rasterio.io.DatasetWriter], None]
    resampling: Resampling


def class_ids(classes: Classes) -> Form:
    """Class ids with a colour table, and overviews by mode."""

    def decorate(raster: rasterio.io.DatasetWriter) -> None:
        raster.write_colormap(1, colour_table(classes.palette, (0, 0, 0, 0)))
        raster.set_band_description(1, 'class')

    return Form(dict(count=1, dtype='uint8', nodata=IGNORE), decorate,
                Resampling.mode)


def probabilities(classes: Classes, kind: str) -> Form:
    """One band for each class, with its name."""

    def decorate(raster: rasterio.io.DatasetWriter) -> None:
        raster.descriptions = classes.names
        if kind == 'uint8':
            raster.scales = (1 / STEPS, ) * len(classes.names)

    profile = PROBABILITIES[kind] | dict(
        count=len(classes.names), interleave='band')
    return Form(profile, decorate, Resampling.average)


def confidence(kind: str) -> Form:
    """One band in percent, as GIS reads it; of :data:`CONFIDENCES`."""

    def decorate(raster: rasterio.io.DatasetWriter) -> None:
        raster.set_band_description(1, CONFIDENCES[kind])
        raster.scales, raster.offsets = (100 / STEPS, ), (0., )
        raster.units = ('%', )

    return Form(PROBABILITIES['uint8'] | dict(count=1), decorate,
                Resampling.average)


class Statistics:
    """Of the pixels of each band that hold data, as they pass.

    Without them, GIS shows a band of probabilities in black.

    Args:
        count: Bands.
        nodata: What holds no data.
    """

    def __init__(self, count: int, nodata: float) -> None:
        self._nodata, self._pixels = nodata, 0
        self._low, self._high = np.full(count, np.inf), np.full(count, -np.inf)
        self._valid, self._sum, self._squares = np.zeros((3, count))

    def add(self, rows: np.ndarray) -> None:
        """Count rows (C, H, W); one at a time, which takes no memory."""
        for row in rows.swapaxes(0, 1):
            there = ~np.isnan(row) if np.isnan(self._nodata) else (
                row != self._nodata)
            values = np.where(there, row, 0).astype(np.float64)
            self._pixels += row.shape[1]
            self._valid += there.sum(1)
            self._sum += values.sum(1)
            self._squares += (values**2).sum(1)
            self._low = values.min(
                1, initial=np.inf, where=there).clip(max=self._low)
            self._high = values.max(
                1, initial=-np.inf, where=there).clip(min=self._high)

    def of_band(self, band: int) -> dict[str, str]:
        """As GDAL names them; nothing of a band without data."""
        i = band - 1
        if not (valid := self._valid[i]):
            return {}
        mean = self._sum[i] / valid
        spread = max(self._squares[i] / valid - mean**2, 0.)**0.5
        found = dict(MINIMUM=self._low[i], MAXIMUM=self._high[i], MEAN=mean,
                     STDDEV=spread, VALID_PERCENT=100 * valid / self._pixels)
        return {f'STATISTICS_{name}': f'{value:.14g}'
                for name, value in found.items()}


class Growing:
    """A GeoTIFF that grows from its top, while rows come to be.

    One thread at a time may use it.

    Args:
        path: The file.
        form: What it holds.
        mosaic: The blocks that are there.
        tags: What it says of itself.
        output_format: Of ``FORMATS``.
        threads: Threads that compress; the bytes are the same with any
            number.
        like: Raster on the same grid, whose ground control points and RPCs
            the file gets.
    """

    def __init__(self, path: Path, form: Form, mosaic: Mosaic,
                 tags: Mapping[str, str], output_format: str,
                 threads: int = 1, like: Path | None = None) -> None:
        self.path, self._form, self._mosaic = path, form, mosaic
        self._grid = grid = mosaic.grid
        self._cog = output_format == 'cog'
        self._flat = path.with_suffix('.flat.tif') if self._cog else path
        self._threads = str(threads)
        self._left = deque(pieces(*grid.shape))
        self._statistics = Statistics(
            form.profile['count'], form.profile['nodata'])
        with naming(path):
            self._writer = RowWriter(
                self._flat, grid, compress='deflate',
                num_threads=self._threads, **form.profile)
            form.decorate(self._writer.raster)
            self._writer.raster.update_tags(ns=MARK, **tags)
            if like:
                with open_raster(like, whole=False) as source:
                    copy_points(source, self._writer.raster)

    def advance(self, until: int) -> None:
        """Write whole rows of tiles, as far as rows are there.

        Args:
            until: All rows above this one are there.
        """
        count, dtype = (self._form.profile[x] for x in ('count', 'dtype'))
        while self._left and (
                self._left[0].row_off + self._left[0].height <= until):
            part = self._left.popleft()
            pixels = self._mosaic.read(
                View(part.row_off, part.col_off, part.height, part.width),
                count, dtype)
            self._statistics.add(pixels)
            with naming(self.path):
                self._writer.put(pixels, part)

    def finish(self) -> None:
        """The remaining rows, overviews, and a look at whether all is there.

        Raises:
            OSError: It is not.
        """
        self.advance(self._grid.height)
        resampling = self._form.resampling
        with (naming(self.path),
              rasterio.Env(GDAL_NUM_THREADS=self._threads)):
            # To a COG, GDAL copies those of a domain or of bands, not both.
            for band in self._writer.raster.indexes:
                self._writer.raster.update_tags(
                    band, **self._statistics.of_band(band))
            self._writer.close()
            if self._cog:
                rasterio.shutil.copy(
                    self._flat, self.path, driver='COG', compress='deflate',
                    predictor='YES' if 'predictor' in self._form.profile
                    else 'NO', blocksize=str(TILE), bigtiff='IF_SAFER',
                    SRC_MDD=MARK, overview_resampling=resampling.name)
                self._flat.unlink()
            else:
                build_overviews(self.path, self._grid, resampling)
            read_back(self.path, self._writer.crc)

    def close(self) -> None:
        """Let go of a file that is not finished."""
        with suppress(RasterioError, CPLE_BaseError):
            self._writer.raster.close()


def build_overviews(path: Path, grid: Grid, how: Resampling) -> None:
    """A half, a quarter and so on, until one tile holds everything."""
    factors: list[int] = []
    while max(grid.height, grid.width) > TILE * 2**len(factors):
        factors.append(2 * 2**len(factors))
    if factors:
        with rasterio.open(path, 'r+') as raster:
            raster.build_overviews(factors, how)


def sidecar(path: Path) -> Path:
    """Where GDAL looks for what a GeoTIFF does not hold."""
    return path.with_name(f'{path.name}.aux.xml')


def name_categories(path: Path, names: Sequence[str]) -> None:
    """Class names where GDAL looks for the categories of a band."""
    root = ElementTree.Element('PAMDataset')
    root.append(ElementTree.Comment(MARK))
    band = ElementTree.SubElement(root, 'PAMRasterBand', band='1')
    categories = ElementTree.SubElement(band, 'CategoryNames')
    for name in names:
        ElementTree.SubElement(categories, 'Category').text = name
    ElementTree.indent(root)
    with naming(sidecar(path)):
        ElementTree.ElementTree(root).write(sidecar(path), encoding='utf-8')
