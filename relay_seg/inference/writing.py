"""Predictions as GeoTIFFs that GIS opens without a further step."""
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import fsum
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
from relay_seg.rasters import MARK, Mosaic, copy_points, open_raster
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
        decorate: Gives the raster names.
        resampling: How overviews are made.
        colours: Of ids, (R, G, B, A).
    """
    profile: Mapping
    decorate: Callable[[rasterio.io.DatasetWriter], None]
    resampling: Resampling
    colours: Mapping[int, tuple] | None = None


def class_ids(classes: Classes) -> Form:
    """Class ids with a colour table, and overviews by mode."""

    def decorate(raster: rasterio.io.DatasetWriter) -> None:
        raster.set_band_description(1, 'class')

    return Form(dict(count=1, dtype='uint8', nodata=IGNORE), decorate,
                Resampling.mode, colour_table(classes.palette, (0, 0, 0, 0)))


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
        self._nodata = nodata
        #: How often each value was there; values are few: bytes, or floats
        #: of 16 bits.
        self._counts: list[Counter] = [Counter() for _ in range(count)]

    def add(self, pixels: np.ndarray) -> None:
        """Count pixels (C, H, W)."""
        for counts, band in zip(self._counts, pixels):
            kind = np.uint8 if band.dtype == np.uint8 else np.float16
            bits = np.ascontiguousarray(band, kind).view(f'u{kind().nbytes}')
            found = np.bincount(bits.ravel(), minlength=1)
            for value in np.flatnonzero(found):
                key = np.asarray(value, bits.dtype).view(kind).item()
                counts[key] += int(found[value])

    def of_band(self, band: int) -> dict[str, str]:
        """As GDAL names them; nothing of a band without data."""
        counts = self._counts[band - 1]
        there = {value: count for value, count in counts.items()
                 if value == value and value != self._nodata}
        if not (valid := sum(there.values())):
            return {}
        mean = fsum(v * n for v, n in there.items()) / valid
        spread = fsum((v - mean)**2 * n for v, n in there.items()) / valid
        found = dict(
            MINIMUM=min(there), MAXIMUM=max(there), MEAN=mean,
            STDDEV=spread**0.5,
            VALID_PERCENT=100 * valid / sum(counts.values()))
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
        with (naming(self.path),
              rasterio.Env(GDAL_NUM_THREADS=self._threads)):
            # To a COG, GDAL copies those of a domain or of bands, not both.
            for band in self._writer.raster.indexes:
                self._writer.raster.update_tags(
                    band, **self._statistics.of_band(band))
            self._writer.close()
            complete(self._flat, self._form)
            if self._cog:
                rasterio.shutil.copy(
                    self._flat, self.path, driver='COG', compress='deflate',
                    predictor='YES' if 'predictor' in self._form.profile
                    else 'NO', blocksize=str(TILE), bigtiff='IF_SAFER',
                    SRC_MDD=MARK, overviews='FORCE_USE_EXISTING')
                self._flat.unlink()
            read_back(self.path, self._writer.crc)

    def close(self) -> None:
        """Let go of a file that is not finished."""
        with suppress(RasterioError, CPLE_BaseError):
            self._writer.raster.close()


def complete(path: Path, form: Form) -> None:
    """Overviews until one tile holds everything, then colours.

    With colours before, GDAL holds the whole raster in memory for overviews.
    """
    factors: list[int] = []
    with rasterio.open(path, 'r+') as raster:
        while max(raster.shape) > TILE * 2**len(factors):
            factors.append(2 * 2**len(factors))
        if factors:
            raster.build_overviews(factors, form.resampling)
    if form.colours:
        with rasterio.open(path, 'r+') as raster:
            raster.write_colormap(1, form.colours)


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
