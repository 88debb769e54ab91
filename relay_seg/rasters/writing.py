"""Images, written as a whole."""
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from .files import replacing
from .grid import transform_of
from .reading import open_raster


def write_class_ids(path: Path, ids: np.ndarray,
                    palette: Sequence[Sequence[int]], like: Path) -> None:
    """Write class ids as a tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        ids: (H, W) uint8.
        palette: Colour of each class.
        like: Raster whose CRS and transform the file gets.
    """
    with open_raster(like) as source:
        crs, transform = source.crs, transform_of(source)
    with replacing(path) as unfinished, warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
                unfinished, 'w', driver='GTiff', count=1, dtype='uint8',
                height=ids.shape[0], width=ids.shape[1], crs=crs,
                transform=transform, tiled=True, blockxsize=256,
                blockysize=256, compress='deflate') as raster:
            raster.write(ids, 1)
            raster.write_colormap(1, {
                i: (*colour, 255) for i, colour in enumerate(palette)})
