"""The sample scenes as folders of one's own: with polygons, as photographs."""
import csv
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.features import shapes

from relay_seg.datasets import classes

from .manifest import SPLITS
from .sources import open_source

PLANE = 'EPSG:32640'
SIDE, APART = 0.3, 1000  # metres
#: Side of a photograph, in pixels.
PHOTO = 400


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


def write_photos(sample: Path, out: Path, longest: int | None = None) -> int:
    """Write the sample scenes as photographs with coloured annotations.

    ``001_image.jpg`` and ``001_annotation.png`` and so on, black where there
    is no class, and ``split.csv``: the first scene tests, the second one
    validates.

    Args:
        sample: Folder of the sample scenes.
        out: Folder to write.
        longest: Cut scenes to this many pixels a side; None for all.

    Returns:
        Number of photographs.
    """
    out.mkdir(parents=True, exist_ok=True)
    colours = np.zeros((256, 3), np.uint8)
    colours[:len(classes.DUBAI['palette'])] = classes.DUBAI['palette']
    rows: list[tuple[str, str]] = []
    for place, path in enumerate(sorted(sample.glob('img_dir/*/*.tif'),
                                        key=lambda path: path.name)):
        label_path = sample / 'ann_dir' / path.parent.name / path.name
        with open_source(path) as image, open_source(label_path) as label:
            pixels = image.read()[:, :longest, :longest].transpose(1, 2, 0)
            painted = colours[label.read(1)[:longest, :longest]]
        side = min(PHOTO, *pixels.shape[:2])
        for top in range(0, pixels.shape[0] - side + 1, side):
            for left in range(0, pixels.shape[1] - side + 1, side):
                name = f'{len(rows) + 1:03}'
                cut = slice(top, top + side), slice(left, left + side)
                Image.fromarray(pixels[cut]).save(
                    out / f'{name}_image.jpg', quality=95)
                Image.fromarray(painted[cut]).save(
                    out / f'{name}_annotation.png')
                rows.append((name, SPLITS[max(2 - place, 0)]))
    with (out / 'split.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('photo', 'subset'), *rows])
    return len(rows)
