"""Scenes in files: aligned rasters, as normalised pixels."""
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from math import ceil, floor
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.vrt import WarpedVRT
from torch import Tensor

from relay_seg.rasters import (
    Content,
    Grid,
    Handles,
    check_bands,
    choose_bands,
    content_of,
    data_bands,
    grid_of,
    open_raster,
    read_data,
    read_region,
    same_grid,
    transform_of,
)
from relay_seg.rasters.grid import told
from relay_seg.rasters.mosaics import without
from relay_seg.rasters.opening import said
from relay_seg.rasters.physical import UM, Micrometres, physical_pixel
from relay_seg.rasters.remote import gdal_name, shown
from relay_seg.rasters.resampling import PLANE, Rescaling
from relay_seg.views import Window

from .damage import Damage
from .source import ModelBands

BLOCK = 64, 512  # rows of a file's blocks that are worth aligning with
#: Native pixels of a band that are resampled at once, about.
AT_ONCE = 2**22


@dataclass(frozen=True)
class FileBands:
    """One file of a scene and its bands."""
    path: Path
    content: Content
    fill: tuple[float, ...]


class RasterSource:
    """Rasters on one grid, their bands one after the other.

    Args:
        paths: Files.
        bands: What the model makes of their bands.
        pixel_size: Side of a pixel to resample to, in units of the CRS, or
            :class:`Micrometres` where files say that size instead; the mean
            where that is coarser, bilinear where it is finer.
        skip_damaged: Take what cannot be read for no data, instead of
            stopping there.
    """

    def __init__(self, paths: Sequence[str | Path], bands: ModelBands, *,
                 pixel_size: float | None = None,
                 skip_damaged: bool = False) -> None:
        self.paths = tuple(Path(path) for path in paths)
        self.name = '+'.join(map(shown, paths))
        self.skip_damaged = skip_damaged
        with ExitStack() as stack:
            files = [stack.enter_context(
                open_raster(path, whole=not skip_damaged))
                for path in self.paths]
            first = files[0]
            self.crs, self.transform = first.crs, transform_of(first)
            #: Side of a pixel in metres, of files without a place.
            self.physical = physical_pixel(first)
            self.shape: tuple[int, int] = first.shape
            files_shape = self.shape
            #: To pixels of the size that is asked for, if one is.
            self.rescaling: Rescaling | None = None
            rows, columns = first.block_shapes[0]
            self.dtype = first.dtypes[0]
            self.tiled = columns < first.width or rows == first.height
            self.block_rows = rows if BLOCK[0] <= rows <= BLOCK[1] else 256
            self.warp: dict | None = None
            for raster in files:
                self._check_grid(raster)
            if pixel_size:
                self._resample(pixel_size)
            self.damage = Damage(
                [path for path, raster in zip(self.paths, files)
                 if skip_damaged and raster.driver == 'VRT'],
                files_shape, self.touched)
            self.layers = [
                FileBands(self.paths[i], content_of(files[i], chosen), fill)
                for i, chosen, fill in self._chosen(files, bands)]
        self.bands = len(bands.fill)
        #: Whether pixels stay the bytes that they are in the files.
        self.bytes = not pixel_size and not skip_damaged and all(
            layer.content.bytes for layer in self.layers)

    def _chosen(self, files: Sequence[rasterio.DatasetReader],
                wanted: ModelBands) -> Iterator[
                    tuple[int, list[int], tuple[float, ...]]]:
        """Runs of bands of one file, with what is outside of each.

        Raises:
            ValueError: They are not those of the model.
        """
        expected, chosen = len(wanted.fill), wanted.chosen
        if len(files) == 1:
            yield 0, list(choose_bands(files[0], chosen, expected)), (
                wanted.fill)
            return
        every = [(i, band) for i, file in enumerate(files)
                 for band in file.indexes]
        if chosen is None and len(every) > expected:
            every = [(i, band) for i, file in enumerate(files)
                     for band in data_bands(file)]
        chosen = chosen or tuple(range(1, len(every) + 1))
        check_bands(self.name, chosen, len(every), expected)
        picked = zip((every[i - 1] for i in chosen), wanted.fill)
        for i, run in groupby(picked, key=lambda pick: pick[0][0]):
            bands, fill = zip(*((band, value) for (_, band), value in run))
            yield i, list(bands), fill

    def open(self, path: Path) -> rasterio.DatasetReader:
        """A file of the scene, without what it lacks."""
        if lacking := self.damage.lacking(path):
            xml = without(path, lacking).encode()
            with rasterio.MemoryFile(xml, filename=path.name) as file:
                return rasterio.open(file.name)
        return rasterio.open(gdal_name(path))

    def laid(self, raster: rasterio.DatasetReader) -> rasterio.DatasetReader:
        """A file on the grid of the scene, good enough to be looked at."""
        if self.warp is None:
            return raster
        plain = raster.nodata is None and len(data_bands(raster)) == (
            raster.count)
        return WarpedVRT(raster, add_alpha=plain, **self.warp)

    def _check_grid(self, raster: rasterio.DatasetReader) -> None:
        """The rasters of a scene lie on each other, pixel by pixel."""
        first = self.paths[0]
        own = Grid(*self.shape, self.crs, self.transform)
        if not same_grid(grid_of(raster), own):
            raise ValueError(
                f'{raster.name} ({told(grid_of(raster))}) does not lie on '
                f'{first} ({told(own)}); bring them to one grid, for example '
                'with gdalwarp.')

    def _resample(self, size: float) -> None:
        """Take a coarser or finer grid in the same place."""
        if self.physical:
            self._resample_physical(size)
            return
        if isinstance(size, Micrometres):
            raise ValueError(
                f'{self.paths[0]} does not say how many micrometres a pixel '
                f'has, so --pixel-size {size} has no meaning; leave it out, '
                'or give it in units of the CRS, without um.')
        if self.crs is None or self.transform.is_identity:
            raise ValueError(
                f'{self.paths[0]} says neither where it is nor how large its '
                'pixels are, so --pixel-size has no meaning; leave it out, '
                'or give the file a CRS and a transform.')
        if not size > 0:
            raise ValueError(f'pixel size {size} is not above zero.')
        height, width = self.shape
        corners = [self.transform @ corner for corner in (
            (0, 0), (width, 0), (0, height), (width, height))]
        xs, ys = zip(*corners)
        self.shape = tuple(
            max(round((max(side) - min(side)) / size), 1)
            for side in (ys, xs))
        before = self.transform
        self.transform = Affine(size, 0, min(xs), 0, -size, max(ys))
        self.rescaling = Rescaling(~before @ self.transform, (height, width))
        self.warp = dict(
            crs=self.crs, transform=self.transform, height=self.shape[0],
            width=self.shape[1], resampling=self.rescaling.method)
        self.block_rows, self.tiled = 256, True

    def _resample_physical(self, size: float) -> None:
        """The same for a scan that says how large its pixels are."""
        native = float(self.physical or 0) / UM
        if not isinstance(size, Micrometres):
            raise ValueError(
                f'{self.paths[0]} has no CRS but pixels of {native:.4g} '
                f'micrometres; say --pixel-size {size:g}um.')
        factor = size / native
        self.rescaling = Rescaling(Affine.scale(factor), self.shape)
        height, width = (max(round(side / factor), 1) for side in self.shape)
        self.shape = height, width
        self.physical = size * UM
        self.warp = dict(
            src_crs=PLANE, crs=PLANE, src_transform=Affine.scale(1, -1),
            transform=Affine.scale(factor, -factor), height=self.shape[0],
            width=self.shape[1], resampling=self.rescaling.method)
        self.block_rows, self.tiled = 256, True

    def reader(self) -> 'RasterReader':
        return RasterReader(self)

    def touched(self, window: Window) -> Window:
        """Pixels of the scene that hold something of some of the files."""
        if self.rescaling is None:
            return window
        top, left, height, width, _ = window
        rescaled = ~self.rescaling.place
        # Resampling looks at neighbours.
        corners = [rescaled @ corner for corner in product(
            (left - 1, left + width + 1), (top - 1, top + height + 1))]
        (x, right), (y, bottom) = (
            (floor(min(values)), ceil(max(values))) for values in zip(
                *corners))
        return Window(y, x, bottom - y, right - x)


class RasterReader:
    """Reads a :class:`RasterSource` with files of its own."""

    def __init__(self, source: RasterSource) -> None:
        self._source = source
        self._handles: dict[tuple[Path, frozenset[str]], Handles] = {}

    def native(self, region: Window) -> tuple[Tensor, Tensor]:
        """See :class:`relay_seg.inference.source.Reader`."""
        source = self._source
        read = self._resampled if source.rescaling else self._layer
        layers = [read(layer, region) for layer in source.layers]
        pixels = layers[0] if len(layers) == 1 else np.concatenate(layers)
        valid = np.ones(pixels.shape[1:], bool) if source.bytes else (
            ~np.isnan(pixels).all(axis=0))
        for hole in source.damage.regions:
            y, x = hole.top - region.top, hole.left - region.left
            inside = (slice(max(y, 0), max(y + hole.height, 0)),
                      slice(max(x, 0), max(x + hole.width, 0)))
            valid[inside] = False
            pixels[(slice(None), *inside)] = np.nan
        return torch.from_numpy(pixels), torch.from_numpy(valid)

    def _resampled(self, layer: FileBands, region: Window) -> np.ndarray:
        """Pixels of another size, in parts if many native ones are below."""
        rescaling = self._source.rescaling
        assert rescaling
        under = rescaling.under(region)
        across = region.width > region.height
        half = max(region[2:4]) // 2
        if under.height * under.width <= AT_ONCE or not half:
            return rescaling.read(region, partial(self._layer, layer))
        top, left, height, width, _ = region
        parts = (
            (Window(top, left, height, half),
             Window(top, left + half, height, width - half)) if across else
            (Window(top, left, half, width),
             Window(top + half, left, height - half, width)))
        return np.concatenate([self._resampled(layer, part) for part in parts],
                              axis=2 if across else 1)

    def _layer(self, layer: FileBands, region: Window) -> np.ndarray:
        """A region of the file itself."""
        source = self._source
        known = source.damage.lacking(layer.path)
        try:
            with self._lend(layer.path) as raster:
                if source.bytes:
                    return read_region(
                        raster, region, bands=layer.content.bands,
                        fill=layer.fill, dtype=np.uint8)
                return read_data(raster, region, layer.content, layer.fill)
        except ValueError as error:
            if not source.skip_damaged:
                raise ValueError(
                    f'{layer.path} cannot be read at row {region.top}, '
                    f'column {region.left} ({said(error)}); it is damaged. '
                    'Replace it, or take what cannot be read for no data '
                    'with --on-error skip.') from error
            if source.damage.is_more(layer.path, known, error):
                return self._layer(layer, region)
        return self._by_blocks(layer, region)

    def _by_blocks(self, layer: FileBands, region: Window) -> np.ndarray:
        """As much of a region as can be read, NaN elsewhere."""
        out = np.full((len(layer.fill), *region[2:4]), np.nan, np.float32)
        with self._lend(layer.path) as raster:
            parts = list(blocks(raster, region))
        for whole, block in parts:
            try:
                with self._lend(layer.path) as raster:
                    pixels = read_data(raster, block, layer.content,
                                       layer.fill)
            except ValueError as error:
                self._source.damage.note(
                    self._source.touched(whole), layer.path, said(error))
                continue
            y, x = block.top - region.top, block.left - region.left
            out[:, y:y + block.height, x:x + block.width] = pixels
        return out

    def _lend(self, path: Path) -> AbstractContextManager[
            rasterio.DatasetReader]:
        """The file without all that it is known to lack."""
        key = path, self._source.damage.lacking(path)
        if key not in self._handles:
            self._handles.setdefault(
                key, Handles(path, partial(self._source.open, path)))
        return self._handles[key].lend()


def blocks(raster: rasterio.DatasetReader,
           region: Window) -> Iterator[tuple[Window, Window]]:
    """The blocks of a file that meet a region: whole, and cut to it."""
    height, width = raster.block_shapes[0]
    rows, columns = (
        (max(start, 0), min(start + size, end)) for start, size, end in zip(
            region[:2], region[2:4], raster.shape))
    for top in range(rows[0] // height * height, rows[1], height):
        for left in range(columns[0] // width * width, columns[1], width):
            whole = Window(top, left, min(height, raster.height - top),
                           min(width, raster.width - left))
            y, x = max(top, rows[0]), max(left, columns[0])
            yield whole, Window(y, x, min(top + height, rows[1]) - y,
                                min(left + width, columns[1]) - x)
