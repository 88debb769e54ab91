"""Predictions as GeoTIFFs that GIS opens without a further step."""
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import MARK, Grid, copy_points, open_raster
from relay_seg.rasters.files import naming

from .deciding import STEPS
from .model import Classes

TILE = 256
FORMATS = ('gtiff', 'cog')
#: How probabilities can be stored. GDAL below 3.11 knows no float16: a
#: float32 of 16 bits is read by every version.
PROBABILITIES = {
    'uint8': dict(dtype='uint8', nodata=IGNORE, predictor=2),
    'float16': dict(dtype='float32', nodata=np.nan, nbits=16, predictor=3),
}
#: Gives rows [first, last) of all bands, (C, rows, W).
Rows = Callable[[int, int], np.ndarray]


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
        colours = {i: (*c, 255) for i, c in enumerate(classes.palette)}
        raster.write_colormap(1, colours | {IGNORE: (0, 0, 0, 0)})
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


class Growing:
    """A GeoTIFF that grows from its top, while rows come to be.

    One thread at a time may use it.

    Args:
        path: The file.
        form: What it holds.
        rows: Gives rows that are there.
        grid: Size and place.
        tags: What it says of itself.
        output_format: Of ``FORMATS``.
        threads: Threads that compress; the bytes are the same with any
            number.
        like: Raster on the same grid, whose ground control points and RPCs
            the file gets.
    """

    def __init__(self, path: Path, form: Form, rows: Rows, grid: Grid,
                 tags: Mapping[str, str], output_format: str,
                 threads: int = 1, like: Path | None = None) -> None:
        self._path, self._form, self._rows, self._grid = path, form, rows, grid
        self._cog = output_format == 'cog'
        self._flat = path.with_suffix('.flat.tif') if self._cog else path
        self._threads = str(threads)
        self._left = deque(strips(grid.height))
        self._crc = 0
        with self._naming():
            self._raster = rasterio.open(
                self._flat, 'w', driver='GTiff', height=grid.height,
                width=grid.width, crs=grid.crs, transform=grid.transform,
                tiled=True, blockxsize=TILE, blockysize=TILE,
                compress='deflate', bigtiff='if_safer',
                num_threads=self._threads, **form.profile)
            form.decorate(self._raster)
            self._raster.update_tags(ns=MARK, **tags)
            if like:
                with open_raster(like, whole=False) as source:
                    copy_points(source, self._raster)

    def advance(self, until: int) -> None:
        """Write whole rows of tiles, as far as rows are there.

        Args:
            until: All rows above this one are there.
        """
        with self._naming():
            while self._left and self._left[0][1] <= until:
                top, bottom = self._left.popleft()
                pixels = self._rows(top, bottom).astype(
                    self._form.profile['dtype'], copy=False)
                self._crc = zlib.crc32(
                    np.ascontiguousarray(pixels).data, self._crc)
                self._raster.write(pixels, window=RasterWindow(
                    0, top, self._grid.width, bottom - top))

    def finish(self) -> None:
        """The remaining rows, overviews, and a look at whether all is there.

        Raises:
            OSError: It is not.
        """
        self.advance(self._grid.height)
        resampling = self._form.resampling
        with (self._naming(), rasterio.Env(GDAL_NUM_THREADS=self._threads)):
            self._raster.close()
            factors = overview_factors(self._grid)
            if self._cog:
                rasterio.shutil.copy(
                    self._flat, self._path, driver='COG', compress='deflate',
                    predictor='YES' if 'predictor' in self._form.profile
                    else 'NO', blocksize=str(TILE), bigtiff='IF_SAFER',
                    SRC_MDD=MARK, overview_resampling=resampling.name)
                self._flat.unlink()
            elif factors:
                with rasterio.open(self._path, 'r+') as raster:
                    raster.build_overviews(factors, resampling)
            _check(self._path, self._crc)

    def close(self) -> None:
        """Let go of a file that is not finished."""
        with suppress(RasterioError, CPLE_BaseError):
            self._raster.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Name the file in what goes wrong with writing it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                yield
        except (RasterioError, CPLE_BaseError) as error:
            raise OSError(
                f'{self._path} cannot be written ({error}); is the disk full?'
                ' Make room and run the same command again.') from error


def overview_factors(grid: Grid) -> list[int]:
    """2, 4, 8 and so on until one tile holds everything."""
    factors: list[int] = []
    while max(grid.height, grid.width) > TILE * 2**len(factors):
        factors.append(2 * 2**len(factors))
    return factors


def strips(height: int) -> Iterator[tuple[int, int]]:
    """First row of each row of tiles, and the first row after it."""
    for top in range(0, height, TILE):
        yield top, min(top + TILE, height)


def _check(path: Path, crc: int) -> None:
    """A full disk shows late, when GDAL closes files, and silently."""
    found = 0
    with rasterio.open(path) as raster:
        for top, bottom in strips(raster.height):
            pixels = raster.read(
                window=RasterWindow(0, top, raster.width, bottom - top))
            found = zlib.crc32(np.ascontiguousarray(pixels).data, found)
    if found != crc:
        raise RasterioError('it reads back otherwise')


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
