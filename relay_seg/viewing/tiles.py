"""Tiles of the layers as PNG, read on demand through rio-tiler.

A layer is a quadtree of 256 x 256 pixels over the pixels of the scene. At
level z a pixel of a tile is 2^(levels - z) pixels of the scene wide; level 0
is the whole scene in one tile, the last level the scene as it is. There are
no map projections, so scenes without a CRS are shown like all others.
"""
import math
import threading
from functools import cached_property
from typing import Literal

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow
from rio_tiler.reader import read
from rio_tiler.utils import render

from relay_seg.class_ids import IGNORE
from relay_seg.drawing import as_bytes, read_shown, reduced_shape, stretch

from .classes import as_shown
from .layers import Layer, Layers

SIZE = 256
How = Literal['nearest', 'average', 'mode']
ERROR_COLOUR = (226, 35, 52)
#: Beyond this factor large files without overviews are read by nearest
#: neighbour: means and most frequent classes would take too long.
MEAN_FACTOR = 8
#: Pixels of the longest side of the read that says how to stretch.
OVERVIEW = 1024


class Tiles:
    """Draws tiles.

    Args:
        layers: What is on show.
    """

    def __init__(self, layers: Layers):
        self.layers = layers
        self._lock = threading.Lock()
        longest = max(layers.scene.grid.shape)
        self.levels = max(0, math.ceil(math.log2(longest / SIZE)))
        colours = {i: (*colour, 255)
                   for i, colour in enumerate(layers.classes.colours)}
        self._class_colours = colours | {IGNORE: (0, 0, 0, 0)}

    def draw(self, layer: str, level: int, column: int, row: int) -> bytes:
        """A tile as PNG, transparent where the layer has no data.

        Args:
            layer: One of the names of the layers.
            level: 0, the whole scene, to ``levels``, its own pixels.
            column: Of the tile, 0 at the left.
            row: Of the tile, 0 at the top.

        Raises:
            LookupError: There is no such layer or tile.
        """
        if layer not in self.layers.names:
            raise LookupError(f'no layer {layer!r}')
        height, width = self.layers.scene.grid.shape
        if not 0 <= level <= self.levels:
            raise LookupError(f'levels are 0 to {self.levels}')
        factor = 2**(self.levels - level)
        left, top = column * SIZE * factor, row * SIZE * factor
        if not (0 <= left < width and 0 <= top < height):
            raise LookupError('outside the scene')
        window = RasterWindow(
            left, top, min(SIZE * factor, width - left),
            min(SIZE * factor, height - top))
        if layer == 'scene':
            return self._scene(window, factor)
        if layer == 'error':
            ids = self._errors(window, factor)
            colours = {0: (0, 0, 0, 0), 1: (*ERROR_COLOUR, 255)}
        else:
            ids = self._ids(self.layers.ids[layer], window, factor)
            colours = self._class_colours
        return render(ids, np.full(ids.shape, 255, np.uint8),
                      colormap=colours, zlevel=1)

    def _scene(self, window: RasterWindow, factor: int) -> bytes:
        scene = self.layers.scene
        with self._lock:  # the first tiles wait for one read of the whole
            palette, ends = self._scene_palette, self._stretch
        if palette:
            pixels = _read(scene, window, factor, 'mode')
            return render(_padded(pixels.data), _padded(_opaque(pixels)),
                          colormap=palette, zlevel=1)
        with scene.handles.lend() as raster:
            pixels = read_shown(
                raster, scene.bands, _shape(window, factor), window,
                Resampling[_how(scene, factor, 'average')])
        return render(_padded(as_bytes(pixels, *ends)),
                      _padded(_opaque(pixels)), zlevel=1)

    def _ids(self, layer: Layer, window: RasterWindow,
             factor: int) -> np.ndarray:
        """Class ids of a tile, (256, 256) uint8, 255 where there is none."""
        ids = _read(layer, window, factor, 'mode')
        return _padded(as_shown(ids[0]), IGNORE)

    def _errors(self, window: RasterWindow, factor: int) -> np.ndarray:
        """1 where prediction and truth of a tile differ, else 0."""
        a, b = (self._ids(layer, window, factor)
                for layer in self.layers.ids.values())
        return ((a != b) & (a != IGNORE) & (b != IGNORE)).astype(np.uint8)

    @cached_property
    def _scene_palette(self) -> dict | None:
        """Colours of a scene that is stored with a colour table."""
        scene = self.layers.scene
        with scene.handles.lend() as raster:
            if raster.count != 1 or raster.dtypes[0] != 'uint8':
                return None
            try:
                return raster.colormap(1)
            except ValueError:  # none
                return None

    @cached_property
    def _stretch(self) -> tuple[np.ndarray, np.ndarray]:
        """Values drawn black and white, (C, 1, 1) each."""
        scene = self.layers.scene
        with scene.handles.lend() as raster:
            if all(raster.dtypes[band - 1] == 'uint8'
                   for band in scene.bands):
                sample = np.ma.zeros((len(scene.bands), 1, 1), np.uint8)
            else:
                sample = read_shown(
                    raster, scene.bands,
                    reduced_shape(raster.shape, OVERVIEW))
        return stretch(sample)


def _how(layer: Layer, factor: int, how: How) -> How:
    """Native pixels, and those of slow files, are read as they are."""
    quick = factor > 1 and (layer.quick or factor <= MEAN_FACTOR)
    return how if quick else 'nearest'


def _shape(window: RasterWindow, factor: int) -> tuple[int, int]:
    return math.ceil(window.height / factor), math.ceil(window.width / factor)


def _read(layer: Layer, window: RasterWindow, factor: int,
          how: How) -> np.ma.MaskedArray:
    """Bands of a region, reduced by a factor: (C, H, W).

    Where the factor does not divide the last columns or rows of the scene,
    their tiles are wider by less than a pixel; all layers alike.
    """
    height, width = _shape(window, factor)
    with layer.handles.lend() as raster:
        return read(
            raster, indexes=layer.bands, window=window, height=height,
            width=width, resampling_method=_how(layer, factor, how)).array


def _opaque(pixels: np.ma.MaskedArray) -> np.ndarray:
    """255 where any band has data, else 0."""
    hidden = np.ma.getmaskarray(pixels).all(0)
    return np.where(hidden, 0, 255).astype(np.uint8)


def _padded(image: np.ndarray, fill: int = 0) -> np.ndarray:
    """(..., H, W) on the upper left of a whole tile."""
    out = np.full((*image.shape[:-2], SIZE, SIZE), fill, image.dtype)
    out[..., :image.shape[-2], :image.shape[-1]] = image
    return out
