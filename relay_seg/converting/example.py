"""The sample scenes as a folder of one's own: GeoTIFFs and polygons."""
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from rasterio.features import shapes

from relay_seg.datasets import classes

from .sources import open_source

PLANE = 'EPSG:32640'
SIDE, APART = 0.3, 1000  # metres


def write_example(sample: Path, out: Path,
                  longest: int | None = None) -> int:
    """Write the sample scenes with a place, and their labels as polygons.

    Args:
        sample: Folder of the sample scenes.
        out: Folder to write.
        longest: Cut scenes to this many pixels a side; None for all.

    Returns:
        Number of polygons.
    """
    (out / 'rasters').mkdir(parents=True, exist_ok=True)
    polygons, kinds = [], []
    names = classes.DUBAI['classes']
    for number, path in enumerate(sorted(sample.glob('img_dir/*/*.tif'))):
        place = Affine(SIDE, 0, 500000 + APART * number, 0, -SIDE, 2800000)
        label_path = sample / 'ann_dir' / path.parent.name / path.name
        with open_source(path) as image, open_source(label_path) as label:
            pixels = image.read()[:, :longest, :longest]
            ids = label.read(1)[:longest, :longest]
        with rasterio.open(
                out / 'rasters' / path.name, 'w', driver='GTiff', tiled=True,
                compress='deflate', count=len(pixels), dtype=pixels.dtype,
                height=pixels.shape[1], width=pixels.shape[2],
                crs=PLANE, transform=place) as raster:
            raster.write(pixels)
        for shape, ident in shapes(ids, ids < len(names), transform=place):
            polygons.append(shapely.geometry.shape(shape))
            kinds.append(names[int(ident)])
    file = out / 'town.gpkg'
    file.unlink(missing_ok=True)
    pyogrio.raw.write(
        file, shapely.to_wkb(np.array(polygons, dtype=object)),
        [np.array(kinds, dtype=object)], ['kind'], geometry_type='Polygon',
        layer=file.stem, driver='GPKG', crs=PLANE)
    return len(polygons)
