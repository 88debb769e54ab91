"""Small raw folders in the formats that the owners hand out.

Facts are written down again here, not imported from the converters: a table
that is wrong there must not be right here by the same mistake.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

Colour = tuple[int, int, int]

# URUR: classes others, building, greenhouse, woodland, farmland, bareland,
# water, road; 255 is ignored.
URUR_COLOURS: dict[Colour, int] = {
    (0, 0, 0): 0, (230, 230, 230): 1, (100, 100, 100): 2, (200, 230, 160): 3,
    (95, 163, 7): 4, (255, 255, 100): 5, (150, 200, 250): 6,
    (240, 100, 80): 7, (255, 255, 255): 255,
}
URUR_SATURATED: dict[Colour, int] = {
    (0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 4, (0, 255, 255): 2,
    (255, 255, 0): 3, (0, 0, 255): 5, (255, 0, 255): 6, (123, 123, 123): 7,
}
# Cityscapes: train id of each id in the files, as the benchmark defines it.
CITYSCAPES_IDS = dict(zip(range(34), [
    255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255,
    255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18]))
GLEASON_IDS = {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 3, 6: 0}
ARCHAEOSCAPE_NAMES = (
    '01_olinda', '02_irene', '03_diomira', '04_isidora', '05_tamara',
    '06_dorothea', '07_anastasia', '08_isaura', '09_zora', '10_gold_road',
    '11_silver_road', '12_ginger_road', '13_saffron_road',
    '14_lavender_road', '15_thyme_road', '16_cinnamon_road', '17_fusang',
    '18_yaochi', '19_penglai', '20_hali', '21_carcosa', '22_ulthar',
    '23_kadath')
UTM = CRS.from_epsg(32648)  # Cambodia


def blocks(values: Sequence, height: int, width: int) -> np.ndarray:
    """A grid of blocks that shows each of the values, (H, W)."""
    rows = np.arange(height)[:, None] // 7
    columns = np.arange(width)[None] // 9
    return np.array(values)[(rows * 3 + columns) % len(values)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write an image through Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_palette(path: Path, indices: np.ndarray,
                 palette: Sequence[Colour]) -> Path:
    """Write a PNG with a palette of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8)).convert('P')
    image.putdata(indices.astype(np.uint8).ravel().tolist())
    image.putpalette([value for colour in palette for value in colour])
    image.save(path)
    return path


def paint(classes: np.ndarray, table: Mapping[Colour, int]) -> np.ndarray:
    """Colours (H, W, 3) of classes."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for colour, ident in table.items():
        colours[ident] = colour
    return colours[classes]


def make_urur(raw: Path, size: tuple[int, int] = (75, 90)) -> dict:
    """Five scenes, one of each way to store a label.

    Returns:
        Expected classes (H, W) by split and name.
    """
    truth = {}
    published = blocks(list(URUR_COLOURS.values()), *size)
    saturated = blocks(list(URUR_SATURATED.values()), *size)
    for seed, (split, name) in enumerate((
            ('train', 'a'), ('train', 'b'), ('train', 'c'), ('val', 'd'),
            ('test', 'e'))):
        suffix = 'png' if name in 'ad' else 'tif'
        save(raw / split / 'image' / f'{name}.{suffix}', noise(*size, seed))
        path = raw / split / 'label' / f'{name}.png'
        if name in 'bc':
            # Palettes in an order of their own, one opposite to the other.
            colours = list(URUR_COLOURS)[::1 if name == 'b' else -1]
            index = {URUR_COLOURS[c]: i for i, c in enumerate(colours)}
            indices = np.vectorize(index.get)(published)
            save_palette(path, indices, colours)
            truth[split, name] = published
        else:
            table = URUR_SATURATED if name == 'd' else URUR_COLOURS
            truth[split, name] = saturated if name == 'd' else published
            save(path, paint(truth[split, name], table))
    return truth


def make_cityscapes(raw: Path, size: tuple[int, int] = (64, 128)) -> dict:
    """Scenes of five cities; the labels of test are blank, as handed out."""
    truth = {}
    ids = blocks(range(34), *size).astype(np.uint8)
    for seed, (split, city, number) in enumerate((
            ('train', 'aachen', 0), ('train', 'aachen', 1),
            ('train', 'zurich', 121), ('val', 'frankfurt', 294),
            ('val', 'frankfurt', 576), ('val', 'lindau', 0),
            ('val', 'munster', 0), ('test', 'berlin', 0))):
        name = f'{city}_{number:06}_000019'
        save(raw / 'leftImg8bit' / split / city / f'{name}_leftImg8bit.png',
             noise(*size, seed))
        base = raw / 'gtFine' / split / city
        shown = np.roll(ids, seed, axis=1)
        if split == 'test':
            shown = np.zeros_like(ids)
        else:
            truth[split, name] = np.vectorize(CITYSCAPES_IDS.get)(shown)
        save(base / f'{name}_gtFine_labelIds.png', shown)
        save(base / f'{name}_gtFine_instanceIds.png', shown)
        save(base / f'{name}_gtFine_color.png', noise(*size))
        (base / f'{name}_gtFine_polygons.json').write_text('{}')
    return truth


def make_gleason(raw: Path, size: tuple[int, int] = (80, 70),
                 majority: bool = True) -> dict:
    """Cores of all splits; with a majority, or with three pathologists."""
    truth = {}
    ids = blocks(range(7), *size).astype(np.uint8)
    for seed, (split, name) in enumerate((
            ('train', 'slide001_core016'), ('train', 'slide002_core113'),
            ('val', 'slide001_core003'), ('val', 'slide006_core015'),
            ('test', 'slide007_core003'), ('test', 'slide007_core120'))):
        save(raw / 'Train Imgs' / f'{name}.jpg', noise(*size, seed))
        file = f'{name}_classimg_nonconvex.png'
        shown = np.roll(ids, seed, axis=0)
        truth[split, name] = np.vectorize(GLEASON_IDS.get)(shown)
        if majority:
            save(raw / 'Maps_majority' / file, shown)
            continue
        # Unpacking the archives by their names nests the folders.
        save(raw / 'Maps1_T' / 'Maps1_T' / file, shown)
        save(raw / 'Maps3_T' / 'Maps3_T' / file, shown)
        save(raw / 'Maps4_T' / 'Maps4_T' / file,
             np.full(size, 5, dtype=np.uint8))
    return truth


def save_raster(path: Path, pixels: np.ndarray, transform: Affine,
                crs: CRS | None = UTM, **options) -> Path:
    """Write bands (C, H, W) as GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
            path, 'w', driver='GTiff', count=count, height=height,
            width=width, dtype=pixels.dtype, crs=crs, transform=transform,
            **options) as raster:
        raster.write(pixels)
    return path


def save_vectors(path: Path, shapes: Sequence, column: str,
                 values: Sequence[str], crs: CRS | None = UTM) -> Path:
    """Write polygons with one attribute as GeoPackage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes, dtype=object)),
        [np.array(values, dtype=object)], [column],
        geometry_type='Unknown', layer=path.stem, driver='GPKG',
        crs=crs.to_wkt() if crs else None)
    return path


def place_of(number: int) -> Affine:
    """Where a parcel lies: half-metre pixels, one parcel per kilometre."""
    return Affine(0.5, 0, 400000.25 + 1000 * number, 0, -0.5, 1500000.75)


def box_at(place: Affine, left: float, top: float, right: float,
           bottom: float):
    """A rectangle given in pixels of a raster."""
    (x0, y0), (x1, y1) = place @ (left, top), place @ (right, bottom)
    return shapely.box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def make_archaeoscape(raw: Path, names: Sequence[str] = ARCHAEOSCAPE_NAMES,
                      size: tuple[int, int] = (60, 80)) -> dict:
    """Parcels with overlapping polygons of each kind.

    The outline leaves out 4 pixels on each side. Polygons are rectangles on
    the edges of pixels: water 10 to 40 columns, mound 30 to 60, temple 35 to
    45, void 42 to 50, all of the rows 10 to 30, listed in another order than
    that of their priority.
    """
    truth, outlines, shapes, kinds = {}, [], [], []
    height, width = size
    for number, name in enumerate(names):
        place = place_of(number)
        rgb = noise(*size, number).transpose(2, 0, 1)
        save_raster(raw / 'rasters' / 'rgb' / f'{name}.tif', rgb, place)
        dtm = (10 + np.arange(height)[:, None] / 8
               + np.arange(width)[None] / 16 + number).astype(np.float32)
        dtm[20:22, 70:72] = -9999
        save_raster(raw / 'rasters' / 'dtm' / f'{name}.tif', dtm[None], place,
                    nodata=-9999)
        outlines.append(box_at(place, 4, 4, width - 4, height - 4))
        label = np.zeros(size, dtype=np.uint8)
        for kind, ident, left, right in (
                ('hydrology', 2, 10, 40), ('mound', 1, 30, 60),
                ('temple', 3, 35, 45), ('void', 255, 42, 50)):
            label[10:30, left:right] = ident
            shapes.insert(0, box_at(place, left, 10, right, 30))
            kinds.insert(0, kind)
        border = np.ones(size, dtype=bool)
        border[4:-4, 4:-4] = False
        label[border] = 255
        split = ('train' if number < 16 else
                 'val' if number < 19 else 'test')
        truth[split, name] = label
    save_vectors(raw / 'parcels.gpkg', outlines, 'index', names)
    save_vectors(raw / 'features.gpkg', shapes, 'type', kinds)
    return truth
