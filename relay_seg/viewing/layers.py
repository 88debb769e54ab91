"""The rasters on show: opened, checked and laid over each other."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from relay_seg.class_ids import IGNORE
from relay_seg.drawing import shown_bands
from relay_seg.rasters import (
    Grid,
    Handles,
    choose_bands,
    grid_of,
    open_raster,
    same_grid,
)
from relay_seg.rasters.remote import file_name, gdal_name, located

from .classes import Legend, read_classes, read_tag
from .grids import check_fit, lay_over
from .windows import WindowsShown, read_windows

#: Rasters larger than this are slow to show as a whole without overviews.
LARGE = 8192


@dataclass(frozen=True)
class Layer:
    """A raster on show.

    Args:
        path: File.
        grid: Its own grid.
        handles: Handles on the grid of the scene.
        bands: Bands shown, the first is 1.
        quick: Whether it is read quickly at any zoom: small, or overviews.
    """
    path: Path
    grid: Grid
    handles: Handles
    bands: tuple[int, ...]
    quick: bool

    @property
    def name(self) -> str:
        return file_name(self.path)


@dataclass(frozen=True)
class Layers:
    """Everything on show.

    Args:
        scene: Image.
        prediction: Class ids.
        truth: Class ids.
        classes: Names and colours.
        windows: Windows of the model that predicted.
    """
    scene: Layer
    prediction: Layer
    truth: Layer | None
    classes: Legend
    windows: WindowsShown

    @property
    def ids(self) -> dict[str, Layer]:
        """Layers of class ids."""
        layers = {'prediction': self.prediction}
        if self.truth:
            layers['truth'] = self.truth
        return layers

    @property
    def names(self) -> list[str]:
        """What can be shown, from below."""
        compared = ['error'] if self.truth else []
        return ['scene', *self.ids, *compared]

    def close(self) -> None:
        for layer in (self.scene, *self.ids.values()):
            layer.handles.close()


def open_layers(scene: str | Path, prediction: str | Path,
                truth: str | Path | None = None, *,
                bands: Sequence[int] | None = None,
                class_names: Sequence[str] | None = None,
                window: tuple[int, int] | None = None,
                context_factors: Sequence[int] | None = None,
                stride: tuple[int, int] | None = None) -> Layers:
    """Open and check the rasters to show.

    Bands, names, window, factors and stride that are not given come from the
    tags of the prediction.

    Args:
        scene: Any raster that GDAL opens.
        prediction: Class ids, 0 to 254, of the scene: on its grid, or
            anywhere else if both are georeferenced.
        truth: Class ids, likewise.
        bands: One band of the scene, or three for red, green and blue; by
            default the first of those that the model read.
        class_names: Names of the classes, from class 0.
        window: Height and width of the model's window in pixels of the
            prediction.
        context_factors: Context factor of each global view.
        stride: Vertical and horizontal step between windows.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be shown, or not over the scene.
    """
    files = [located(path) for path in (prediction, truth) if path]
    scene_layer = _open_scene(located(scene), bands, files[0])
    layers = [_open_ids(path, scene_layer) for path in files]
    return Layers(
        scene_layer, layers[0], layers[1] if truth else None,
        read_classes(files, class_names),
        read_windows(files[0], layers[0].grid, window, context_factors,
                     stride))


def _open_scene(path: Path, bands: Sequence[int] | None,
                prediction: Path) -> Layer:
    with open_raster(path) as raster:
        if bands and len(bands) not in (1, 3):
            raise ValueError(f'--bands names {len(bands)} bands; give one, '
                             'shown in grey, or three: red, green, blue.')
        bands = bands or shown_bands(
            raster, _read_bands(prediction, file_name(path), raster.count))
        bands = choose_bands(raster, bands, len(bands))
        if any('complex' in raster.dtypes[band - 1] for band in bands):
            raise ValueError(f'{path} holds complex numbers, which cannot be '
                             'shown; convert it to amplitudes.')
        handles = Handles(path, lambda: rasterio.open(gdal_name(path)))
        return Layer(path, grid_of(raster), handles, bands,
                     _is_quick(raster))


def _read_bands(prediction: Path, scene: str,
                count: int) -> list[int] | None:
    """Bands of a scene that the model read, as far as the prediction says.

    Args:
        prediction: Class ids; their tag holds the bands of each input.
        scene: Name of the scene, which may have changed if it was the only
            input.
        count: Bands of the scene.
    """
    with open_raster(prediction) as raster:
        known = read_tag(raster, 'BANDS', _are_bands) or {}
    bands = known.get(scene, *known.values() if len(known) == 1 else ())
    return bands if bands and max(bands) <= count else None


def _are_bands(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(bands, list) and bands
        and all(isinstance(band, int) and band >= 1 for band in bands)
        for bands in value.values())


def _open_ids(path: Path, scene: Layer) -> Layer:
    with open_raster(path) as raster:
        if raster.count != 1:
            raise ValueError(
                f'{path} has {raster.count} bands; class ids are one band. '
                'Give the raster of classes, not probabilities or a picture.')
        kind = np.dtype(raster.dtypes[0])
        if kind.kind not in 'iu':
            raise ValueError(f'{path} is of type {kind}; class ids are '
                             'integers. Convert it to uint8.')
        grid = grid_of(raster)
        check_fit(grid, scene.grid, str(path), str(scene.path))
        quick = _is_quick(raster)
    return Layer(
        path, grid, Handles(path, lambda: open_over(path, scene.grid)),
        (1, ), quick)


def open_over(path: Path, grid: Grid) -> rasterio.DatasetReader:
    """Open a raster of ids on a grid that may be another one's."""
    raster = rasterio.open(gdal_name(path))
    if same_grid(grid_of(raster), grid):
        return raster
    # 255 does not fit into int8.
    nodata = -1 if raster.dtypes[0] == 'int8' else IGNORE
    return lay_over(raster, grid, nodata)


def _is_quick(raster: rasterio.DatasetReader) -> bool:
    return max(raster.shape) <= LARGE or bool(raster.overviews(1))
