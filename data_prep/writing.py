"""Rasters as training reads them fast: tiled, compressed, with overviews."""
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

TILE = 256
OVERVIEWS = (2, 4, 8, 16)
LOSSLESS = dict(compress='deflate', predictor=2)
JPEG = dict(compress='jpeg', jpeg_quality=85, photometric='ycbcr')


def write_image(path: Path, image: np.ndarray, **compression) -> None:
    """Write an image (C, H, W) as tiled GeoTIFF with averaged overviews.

    Args:
        path: File to write; it appears under this name when it is whole.
        image: Bands first.
        compression: Creation options, ``LOSSLESS`` if none are given.
    """
    _write(path, image, Resampling.average, None, compression or LOSSLESS)


def write_label(path: Path, label: np.ndarray,
                palette: Sequence[Sequence[int]]) -> None:
    """Write class ids (H, W) uint8 as tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        label: Class ids, 255 for ignored.
        palette: Colour of each class, (R, G, B).
    """
    colours = {i: (*colour, 255) for i, colour in enumerate(palette)}
    colours[255] = (0, 0, 0, 0)
    _write(path, label[None], Resampling.mode, colours,
           dict(compress='deflate'))


def _write(path: Path, pixels: np.ndarray, resampling: Resampling,
           colours: dict | None, options: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    count, height, width = pixels.shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(
                    unfinished, 'w', driver='GTiff', count=count,
                    height=height, width=width, dtype=pixels.dtype,
                    tiled=True, blockxsize=TILE, blockysize=TILE,
                    bigtiff='if_safer', **options) as raster:
                raster.write(pixels)
                if colours:
                    raster.write_colormap(1, colours)
                factors = [k for k in OVERVIEWS if k < max(height, width)]
                raster.build_overviews(factors, resampling)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
