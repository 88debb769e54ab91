"""Images, written as a whole."""
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from .files import replacing
from .grid import transform_of
from .opening import open_raster
from .overwriting import MARK


def write_class_ids(path: Path, ids: np.ndarray,
                    palette: Sequence[Sequence[int]], like: Path) -> None:
    """Write class ids as a tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        ids: (H, W) uint8.
        palette: Colour of each class.
        like: Raster whose place the file gets.
    """
    with (open_raster(like) as source, replacing(path) as unfinished,
          warnings.catch_warnings()):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
                unfinished, 'w', driver='GTiff', count=1, dtype='uint8',
                height=ids.shape[0], width=ids.shape[1], crs=source.crs,
                transform=transform_of(source), tiled=True, blockxsize=256,
                blockysize=256, compress='deflate') as raster:
            copy_points(source, raster)
            raster.update_tags(ns=MARK, CONTENT='class ids')
            raster.write(ids, 1)
            raster.write_colormap(1, {
                i: (*colour, 255) for i, colour in enumerate(palette)})


def copy_points(source: rasterio.DatasetReader,
                target: rasterio.io.DatasetWriter) -> None:
    """Ground control points and RPCs of a raster on the same grid.

    Where there is a transform, too, it is the place, and points are not.
    """
    points, crs = source.gcps
    if points and transform_of(source).is_identity:
        target.gcps = points, crs
    if source.rpcs:
        target.rpcs = source.rpcs
