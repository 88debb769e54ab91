"""Small raw folders in the formats of the downloads."""
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from PIL import Image

from relay_seg.class_ids import IGNORE

from . import archaeoscape, cityscapes, gleason, urur

#: Height and width; multiples of nothing in particular.
SIZES = dict(train=(150, 190), val=(90, 118), test=(90, 118))
CELL = 24  # pixels of one class, along both axes
NOISE = 20.  # deviation, in grey levels
PLANE, PIXEL = 'EPSG:32648', 0.5  # of Cambodia; metres
OUTLINE = 4  # pixels left out around a parcel


def draw_classes(split: str, number: int, classes: int) -> np.ndarray:
    """Cells of all classes in another order for each scene.

    Args:
        split: Decides the size.
        number: Number of the scene.
        classes: Number of classes.

    Returns:
        Class ids (H, W) uint8.
    """
    height, width = SIZES[split]
    rows, columns = -(-height // CELL), -(-width // CELL)
    cells = np.arange(rows * columns, dtype=np.uint8) % classes
    np.random.default_rng(number).shuffle(cells)
    return np.kron(cells.reshape(rows, columns), np.ones(
        (CELL, CELL), dtype=np.uint8))[:height, :width]


def paint(classes: np.ndarray, palette: list, number: int) -> np.ndarray:
    """Colours of classes with noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(1000 + number)
    colours = np.array(palette, dtype=float)[classes]
    return (colours + rng.normal(0, NOISE, colours.shape)).clip(
        0, 255).astype(np.uint8)


def inverse(table: dict) -> np.ndarray:
    """What stands in a raw label for each class id, and for 255.

    Args:
        table: Class id of each id or colour; the first of a class counts.
    """
    width = np.size(next(iter(table)))
    raw = np.zeros((256, width), dtype=np.uint8)
    for value, ident in reversed(table.items()):
        raw[ident] = value
    return raw.squeeze(1) if width == 1 else raw


def with_hole(classes: np.ndarray) -> np.ndarray:
    """A corner is ignored."""
    classes = classes.copy()
    classes[:CELL // 2, :CELL] = IGNORE
    return classes


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scenes(names: dict[str, list[str]], classes: int,
           palette: list) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Split, name, image and class ids of each scene."""
    every = [(split, name) for split in names for name in names[split]]
    for number, (split, name) in enumerate(every):
        ids = draw_classes(split, number, classes)
        yield split, name, paint(ids, palette, number), ids


def make_urur(raw: Path) -> None:
    """Labels in the published colours."""
    colours = inverse(urur.TABLES['published'])
    for split, name, image, ids in scenes(
            dict(train=['1', '2'], val=['3'], test=['4']),
            len(urur.CLASSES), urur.METAINFO['palette']):
        save(raw / split / 'image' / f'{name}.png', image)
        save(raw / split / 'label' / f'{name}.png', colours[with_hole(ids)])


def make_cityscapes(raw: Path) -> None:
    """Two cities to train on, Frankfurt and another to validate on."""
    raw_ids = inverse(cityscapes.IDS)
    cities = dict(
        train=['aachen', 'zurich'],
        val=[listed[0] for listed in cityscapes.LISTS.values()])
    for split, city, image, ids in scenes(
            cities, len(cityscapes.CLASSES),
            cityscapes.METAINFO['palette']):
        name = f'{city}_000000_000019'
        save(raw / 'leftImg8bit' / split / city
             / f'{name}{cityscapes.IMAGE_ENDING}.png', image)
        save(raw / 'gtFine' / split / city
             / f'{name}{cityscapes.LABEL_ENDING}.png',
             raw_ids[with_hole(ids)])


def make_gleason(raw: Path) -> None:
    """Maps of each pathologist, who do not see all borders alike."""
    last = gleason.LAST_VAL_CORE
    grades = inverse({grade: gleason.CLASSES.index(name)
                      for grade, name in gleason.GRADES.items()})
    for _, name, image, ids in scenes(
            dict(train=[f'slide001_core{last + 1:03}',
                        f'slide002_core{last + 2:03}'],
                 val=[f'slide001_core{last:03}'],
                 test=[f'slide{gleason.TEST_SLIDE:03}_core001']),
            len(gleason.CLASSES), gleason.METAINFO['palette']):
        save(raw / 'Train Imgs' / f'{name}.jpg', image)
        for expert in gleason.EXPERTS:
            save(raw / f'Maps{expert}_T' / f'{name}{gleason.MAP_ENDING}.png',
                 np.roll(grades[ids], expert % 3 - 1, axis=1))


def make_archaeoscape(raw: Path) -> None:
    """Parcels with elevation that follows the classes, too."""
    kinds = {ident: kind
             for kind, ident in archaeoscape.KINDS.values.items()}
    shapes, types, outlines, names = [], [], [], []
    for number, (_, name, image, ids) in enumerate(scenes(
            dict(train=['01_olinda', '02_irene'], val=['17_fusang'],
                 test=['20_hali']), len(archaeoscape.CLASSES),
            archaeoscape.METAINFO['palette'])):
        height, width = ids.shape
        place = Affine(PIXEL, 0, 4e5 + 1000 * number, 0, -PIXEL, 15e5)
        rng = np.random.default_rng(number)
        ground = 20 + 2. * ids + rng.normal(0, 0.2, ids.shape)
        save_raster(raw / 'rasters/rgb' / f'{name}.tif',
                    image.transpose(2, 0, 1), place)
        save_raster(raw / 'rasters/dtm' / f'{name}.tif',
                    ground[None].astype(np.float32), place)
        names.append(name)
        outlines.append(box(place, OUTLINE, OUTLINE, width - OUTLINE,
                            height - OUTLINE))
        cells = with_hole(ids)[::CELL, ::CELL]
        for row, column in np.argwhere(cells != archaeoscape.KINDS.background):
            left, top = column * CELL, row * CELL
            shapes.append(box(place, left, top, left + CELL, top + CELL))
            types.append(kinds[int(cells[row, column])])
    save_vectors(raw / 'parcels.gpkg', outlines,
                 archaeoscape.NAME_COLUMNS[0], names)
    save_vectors(raw / 'features.gpkg', shapes,
                 archaeoscape.KINDS.column[0], types)


def box(place: Affine, left: float, top: float, right: float,
        bottom: float) -> shapely.Geometry:
    """A rectangle given in pixels of a raster."""
    (x0, y1), (x1, y0) = place @ (left, top), place @ (right, bottom)
    return shapely.box(x0, y0, x1, y1)


def save_raster(path: Path, pixels: np.ndarray, place: Affine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
            path, 'w', driver='GTiff', count=len(pixels),
            height=pixels.shape[1], width=pixels.shape[2],
            dtype=pixels.dtype, crs=PLANE, transform=place) as raster:
        raster.write(pixels)


def save_vectors(path: Path, shapes: list, column: str,
                 values: list[str]) -> None:
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes, dtype=object)),
        [np.array(values, dtype=object)], [column], geometry_type='Polygon',
        layer=path.stem, driver='GPKG', crs=PLANE)


MAKERS: dict[str, Callable[[Path], None]] = dict(
    archaeoscape=make_archaeoscape, urur=make_urur, gleason=make_gleason,
    cityscapes=make_cityscapes)
