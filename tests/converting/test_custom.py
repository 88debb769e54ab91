"""Rasters and polygons of one's own: labels, bands, splits, errors."""
import json
import re
from itertools import product
from xml.etree import ElementTree

import custom
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.warp import transform, transform_geom
from raw_folders import UTM, box_at, save_raster, save_vectors

from relay_seg.converting import bands, own
from relay_seg.converting.parts import Part, whole_box
from relay_seg.converting.splitting import by_blocks, by_chance
from relay_seg.rasters import raster_reader
from relay_seg.views import Window

SIZE = 60, 80
NAMES = 'a', 'b', 'c', 'd'
WGS84 = CRS.from_epsg(4326)


def place_of(number):
    return Affine(0.5, 0, 400000 + 1000 * number, 0, -0.5, 1500000)


def pixels_of(number, count=3, dtype='uint8'):
    rng = np.random.default_rng(number)
    high = 250 if dtype == 'uint8' else 9000
    return (1 + rng.random((count, *SIZE)) * high).astype(dtype)


def make(raw, names=NAMES, crs=None, **options):
    """Rasters, each with a field and a pond over its corner.

    Returns:
        Labels (H, W) by name: 0 field, 1 pond, 255 neither.
    """
    truth, shapes, kinds = {}, [], []
    for number, name in enumerate(names):
        place = place_of(number)
        save_raster(raw / f'{name}.tif', pixels_of(number), place, **options)
        label = np.full(SIZE, 255)
        for ident, (left, top, right, bottom) in enumerate(
                ((5, 5, 40, 50), (30, 20, 60, 55))):
            # Edges lie off the centres of pixels, in any CRS.
            shapes.append(box_at(place, left + .1, top - .1, right + .1,
                                 bottom + .1))
            kinds.append(('field', 'pond')[ident])
            label[top:bottom, left:right] = ident
        # Columns start at left + 0.1: the centre at left + 0.5 is inside.
        truth[name] = label
    if crs:
        shapes = [shapely.geometry.shape(transform_geom(
            UTM, crs, shapely.geometry.mapping(shape))) for shape in shapes]
    save_vectors(raw.parent / 'p.gpkg', shapes, 'kind', kinds, crs or UTM)
    return truth


def convert(raw, out, *arguments, column='kind'):
    polygons = [] if '--labels' in arguments else [
        '--polygons', raw.parent / 'p.gpkg', '--class-column', column]
    return custom.main([str(x) for x in (
        raw, out, '--jobs', '1', *polygons, *arguments)])


def refused(capsys, *arguments, code=2, **keywords):
    """What is printed when nothing can be converted."""
    assert convert(*arguments, **keywords) == code
    return ' '.join(capsys.readouterr().out.split())


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def manifest(out):
    return json.loads((out / 'manifest.json').read_text())


def scenes(out):
    return {path.stem: path.parent.name
            for path in (out / 'img_dir').glob('*/*')}


def data_config(out, side=256):
    (path, ) = (out / 'configs/datasets').glob(f'*_{side}.py')
    return Config.fromfile(path)


# Labels.


@pytest.mark.parametrize('crs', [None, WGS84], ids=['same', 'reprojected'])
def test_every_class_id_is_exact(places, crs):
    raw, out = places
    truth = make(raw, crs=crs)
    assert convert(raw, out, '--test', 'd') == 0
    assert scenes(out) == dict(a='train', b='train', c='train', d='test')
    for name, split in scenes(out).items():
        found = read(out / f'ann_dir/{split}/{name}.tif')[0]
        np.testing.assert_array_equal(found, truth[name])
    cfg = data_config(out)
    assert cfg.metainfo.classes == ('field', 'pond')
    # Val has no scenes of its own: test stands in.
    assert cfg.val_dataloader.dataset.data_prefix.img_path == 'img_dir/test'


def test_background_and_colours_and_order(places):
    raw, out = places
    truth = make(raw)
    assert convert(raw, out, '--test', 'd', '--background', 'rest',
                   '--classes', 'water:pond=blue', 'field=#10ff00') == 0
    found = read(out / 'ann_dir/train/a.tif')[0]
    expected = np.select([truth['a'] == 255, truth['a'] == 1], [0, 1], 2)
    np.testing.assert_array_equal(found, expected)
    meta = data_config(out).metainfo
    assert meta.classes == ('rest', 'water', 'field')
    assert meta.palette[1:] == [[0, 0, 255], [16, 255, 0]]


@pytest.mark.parametrize('priority, winner', [('file', 1), ('classes', 0)])
def test_overlap_goes_to_the_last_of_file_or_classes(
        places, priority, winner):
    raw, out = places
    make(raw)
    assert convert(raw, out, '--test', 'd', '--priority', priority,
                   '--classes', 'pond', 'field') == 0
    label = read(out / 'ann_dir/train/a.tif')[0]
    pond, field = 0, 1
    assert label[25, 35] == (pond if winner == 1 else field)
    (note, ) = [x for x in manifest(out)['scenes'][0]['notes']
                if 'several' in x]
    assert note.startswith('300 pixels (6.25%)')  # 10 columns of 30 rows


def test_values_may_be_numbers_and_ignored(places):
    raw, out = places
    make(raw)
    boxes = [box_at(place_of(i), 10, 10, 20, 20) for i in range(4)]
    pyogrio.raw.write(
        raw.parent / 'p.gpkg', shapely.to_wkb(np.array(boxes)),
        [np.array([10., 9., 10., np.nan])], ['code'], layer='p',
        geometry_type='Polygon', driver='GPKG', crs=UTM.to_wkt())
    assert convert(raw, out, '--test', 'c', '--ignore', 'NULL',
                   column='code') == 0
    assert manifest(out)['classes'] == ['9', '10']  # by size, not by letter
    assert (read(out / 'ann_dir/train/d.tif') == 255).all()


def test_label_rasters_by_id(places):
    raw, out = places
    truth = make(raw)
    for name, label in truth.items():
        ids = np.select([label == 0, label == 1], [7, 8], 0).astype(np.uint8)
        path = save_raster(raw.parent / f'ids/{name}.tif', ids[None],
                           place_of(NAMES.index(name)))
        with rasterio.open(path, 'r+') as raster:
            raster.write_colormap(1, {7: (1, 2, 3, 255)})
    arguments = '--labels', raw.parent / 'ids', '--test', 'd'
    assert convert(raw, out, *arguments, '--classes', 'field:7',
                   'pond:8', '--ignore', '0') == 0
    for name, split in scenes(out).items():
        np.testing.assert_array_equal(
            read(out / f'ann_dir/{split}/{name}.tif')[0], truth[name])


def save_ids(raw, number, ids, place, crs=UTM, **options):
    return save_raster(raw.parent / f'ids/{NAMES[number]}.tif',
                       ids.astype(np.uint8)[None], place, crs, **options)


def convert_ids(raw, out, *arguments):
    return convert(raw, out, '--labels', raw.parent / 'ids', '--test', 'd',
                   '--classes', 'nothing:0', 'field:7', 'pond:8', *arguments)


@pytest.mark.parametrize('crs', [UTM, None], ids=['UTM', 'no CRS'])
def test_label_rasters_lie_where_they_say(places, crs):
    """40 columns and 25 rows off; finer; and in another CRS."""
    raw, out = places
    truth = make(raw)
    ids = {name: np.select([label == 0, label == 1], [7, 8], 0)
           for name, label in truth.items()}
    save_ids(raw, 0, ids['a'], place_of(0) @ Affine.translation(40, 25), crs)
    fine = place_of(1) @ Affine.scale(1 / 3)
    save_ids(raw, 1, ids['b'].repeat(3, 0).repeat(3, 1), fine, crs)
    save_ids(raw, 2, ids['c'], place_of(2) @ Affine.translation(.004, 0), crs)
    # Without a place, and a class is its value for no data.
    save_ids(raw, 3, ids['d'], Affine.identity(), None, nodata=0)
    assert convert_ids(raw, out) == 0
    expected = np.full(SIZE, 255)
    expected[25:, 40:] = np.searchsorted([0, 7, 8], ids['a'])[:-25, :-40]
    np.testing.assert_array_equal(read(out / 'ann_dir/train/a.tif')[0],
                                  expected)
    for name, split in dict(b='train', c='train', d='test').items():
        np.testing.assert_array_equal(
            read(out / f'ann_dir/{split}/{name}.tif')[0],
            np.searchsorted([0, 7, 8], ids[name]))
    notes = {x['name']: x['notes'] for x in manifest(out)['scenes']}
    assert [[name for name in NAMES if 'nearest' in ' '.join(notes[name])]
            ] == [['a', 'b']]


def test_label_raster_in_another_crs_is_brought_to_the_image(places):
    raw, out = places
    truth = make(raw)
    for number, label in enumerate(truth.values()):
        ids = np.select([label == 0, label == 1], [7, 8], 0)
        save_ids(raw, number, ids, place_of(number))
    # Steps of a fifth of a pixel, in degrees.
    place = place_of(0)
    corners = [place @ xy for xy in ((-9, -9), (89, -9), (-9, 69), (89, 69))]
    xs, ys = transform(UTM, WGS84, *zip(*corners))
    step = 0.1 / 111_320
    height, width = (int(np.ptp(x) / step) for x in (ys, xs))
    there = Affine(step, 0, min(xs), 0, -step, max(ys))
    columns, rows = np.meshgrid(np.arange(width) + .5, np.arange(height) + .5)
    x, y = (np.asarray(v).reshape(height, width) for v in transform(
        WGS84, UTM, *(v.ravel() for v in there @ (columns, rows))))
    column, row = (np.floor(v).astype(int) for v in ~place @ (x, y))
    inside = (row >= 0) & (row < 60) & (column >= 0) & (column < 80)
    ids = np.where(inside, np.select(
        [truth['a'] == 0, truth['a'] == 1], [7, 8], 0)[
            row.clip(0, 59), column.clip(0, 79)], 0)
    save_ids(raw, 0, ids, there, WGS84)
    assert convert_ids(raw, out) == 0
    np.testing.assert_array_equal(
        read(out / 'ann_dir/train/a.tif')[0],
        np.select([truth['a'] == 0, truth['a'] == 1], [1, 2], 0))


@pytest.mark.parametrize('size, place, crs, message', [
    ((61, 80), Affine.identity(), None, 'a.tif has 60 x 80 .* 61 x 80'),
    (SIZE, place_of(3), UTM, 'do not overlap'),
    (SIZE, place_of(0), CRS.from_epsg(32633), 'do not overlap'),
])
def test_label_rasters_of_another_place_are_refused(
        places, capsys, size, place, crs, message):
    raw, out = places
    make(raw)
    for number in range(4):
        save_ids(raw, number, np.full(SIZE, 7), place_of(number))
    save_ids(raw, 0, np.full(size, 7), place, crs)
    assert convert_ids(raw, out) == 2
    told = ' '.join(capsys.readouterr().out.split())
    assert re.search(message, told) and 'ids/a.tif' in told
    assert not out.exists()
    assert convert_ids(raw, out, '--leave-out') == 0
    assert set(scenes(out)) == {'b', 'c', 'd'}


# Bands and statistics.


def special(dtype, count):
    """Pixels with holes, and the value of no data."""
    pixels = [pixels_of(i, count, dtype) for i in range(4)]
    if dtype == 'uint8':
        return pixels, None
    nodata = dict(uint16=0, int16=-9999, float32=-9999.,
                  float64=np.nan)[dtype]
    for image in pixels:
        image[:, 40:, 50:] = nodata
        image[0, :5, :5] = nodata
    return pixels, nodata


@pytest.mark.parametrize('dtype, count, order', [
    ('uint8', 3, (3, 2, 1)), ('uint16', 5, (5, 1, 3, 4)),
    ('int16', 16, None), ('float32', 2, None), ('float64', 4, (2, 4))])
def test_bands_and_statistics_are_exact(places, dtype, count, order):
    raw, out = places
    make(raw)
    images, nodata = special(dtype, count)
    for number, (name, image) in enumerate(zip(NAMES, images)):
        if dtype == 'float32':
            image[1, 30, 30] = np.inf
        save_raster(raw / f'{name}.tif', image, place_of(number),
                    nodata=nodata)
    chosen = order or tuple(range(1, count + 1))
    choice = ('--bands', *order) if order else ()
    assert convert(raw, out, '--test', 'd', *choice) == 0
    values = []
    for name, image in zip('abc', images):
        written = read(out / f'img_dir/train/{name}.tif')
        expected = image[[i - 1 for i in chosen]].astype(np.float64)
        empty = (expected == nodata) | ~np.isfinite(expected)
        if dtype in ('uint8', 'uint16', 'int16'):
            assert written.dtype == dtype
            np.testing.assert_array_equal(written, expected)
        else:
            assert written.dtype == np.float32
            expected[empty] = np.nan
            np.testing.assert_array_equal(
                written, expected.astype(np.float32))
            expected = expected.astype(np.float32).astype(np.float64)
        expected[empty] = np.nan
        values.append(expected.reshape(len(chosen), -1))
        label = read(out / f'ann_dir/train/{name}.tif')[0]
        assert (label[empty.all(0)] == 255).all()
    values = np.concatenate(values, axis=1)
    cfg = data_config(out)
    assert cfg.mean == pytest.approx(np.nanmean(values, axis=1), rel=1e-6)
    assert cfg.std == pytest.approx(np.nanstd(values, axis=1), rel=1e-6)
    assert cfg.num_bands == len(chosen)
    # Colours may be changed where there are colours.
    steps = [step.type for step in cfg.train_pipeline]
    assert ('PhotoMetricViews' in steps) == (dtype == 'uint8')


def test_alpha_is_a_mask_unless_it_is_named(places, capsys):
    raw, out = places
    make(raw)
    for number, name in enumerate(NAMES):
        image = pixels_of(number, 4)
        image[3] = np.where(np.arange(80) < 20, 0, 255)
        save_raster(raw / f'{name}.tif', image, place_of(number),
                    photometric='rgb', alpha='yes')
    assert 'marked as alpha' in refused(
        capsys, raw, out, '--test', 'd', code=0)
    image = read(out / 'img_dir/train/a.tif')
    assert np.isnan(image[:, :, :20]).all() and len(image) == 3
    np.testing.assert_array_equal(image[:, :, 20:],
                                  pixels_of(0, 4)[:3, :, 20:])
    assert (read(out / 'ann_dir/train/a.tif')[0, :, :20] == 255).all()
    assert convert(raw, out, '--test', 'd', '--bands', 1, 2, 3, 4) == 0
    image = read(out / 'img_dir/train/a.tif')
    assert image.dtype == np.uint8 and (image[3, :, :20] == 0).all()


def save_alpha(path, image, place):
    """Bands, the last of which is alpha."""
    path.unlink(missing_ok=True)
    kinds = [ColorInterp.gray] * (len(image) - 1) + [ColorInterp.alpha]
    with rasterio.open(
            path, 'w', driver='GTiff', count=len(image), height=SIZE[0],
            width=SIZE[1], dtype=image.dtype, crs=UTM,
            transform=place) as raster:
        raster.colorinterp = kinds
        raster.write(image)


def save_masked(path, image, place, empty, internal):
    save_raster(path, image, place, photometric='minisblack')
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(
            path, 'r+') as raster:
        raster.write_mask(~empty)


def save_per_band(path, image, place, values):
    """A VRT whose bands have values of their own for no data."""
    file = save_raster(path.parents[1] / f'tifs/{path.name}', image, place)
    path.unlink()
    path = path.with_suffix('.vrt')
    rasterio.shutil.copy(file, path, driver='VRT')
    tree = ElementTree.parse(path)
    for band, value in zip(tree.iter('VRTRasterBand'), values):
        ElementTree.SubElement(band, 'NoDataValue').text = str(value)
    tree.write(path)


def spoil_pixels(kind, path, image, place, empty):
    """Write an image of six bands that holds nothing where ``empty``."""
    if kind.startswith('alpha'):
        last = int(kind[-1]) - 1
        alpha = np.where(empty, 0, 7).astype(image.dtype)
        save_alpha(path, np.stack([*image[:last], alpha]), place)
    elif kind == 'mask':
        save_masked(path, image, place, empty, True)
    elif kind == 'msk file':
        save_masked(path, image, place, empty, False)
    elif kind == 'value of a band':
        values = range(1, 7)
        for band, value in zip(image, values):
            band[band == value] += 20
            band[empty] = value
        image[0, :4] = 2  # what is no data in another band
        save_per_band(path, image, place, values)
    else:
        value = dict(value=9, infinite=np.inf).get(kind, np.nan)
        image[image == 9] += 1
        image[:, empty] = value
        if kind == 'value and NaN':
            image[:, empty & (np.arange(SIZE[1]) < 45)] = 9
        save_raster(path, image, place, photometric='minisblack',
                    nodata=9 if 'value' in kind else None)


@pytest.mark.parametrize('size', [None, 1])
@pytest.mark.parametrize('kind, dtype, chosen', [
    ('value', 'uint8', None), ('value', 'int16', (6, 1)),
    ('value of a band', 'uint8', (1, 2)), ('mask', 'uint8', (1, 6)),
    ('msk file', 'uint16', None), ('NaN', 'float32', None),
    ('value and NaN', 'float64', (2, )), ('infinite', 'float32', (3, 4)),
    ('alpha 2', 'uint8', None), ('alpha 4', 'uint8', (3, 1)),
    ('alpha 6', 'uint8', None), ('alpha 6', 'uint8', (1, 2, 3)),
    ('alpha 6', 'uint16', (5, )), ('alpha 4', 'uint16', (1, 2, 3))])
def test_pixels_without_data_are_ignored_and_stored_as_such(
        places, monkeypatch, kind, dtype, chosen, size):
    monkeypatch.setattr(bands, 'AT_ONCE', 7 * SIZE[1])  # seams
    raw, out = places
    make(raw)
    empty = np.zeros(SIZE, bool)
    empty[20:31, 40:51] = True
    images = {}
    for number, name in enumerate(NAMES):
        images[name] = pixels_of(number, 6, dtype)
        spoil_pixels(kind, raw / f'{name}.tif', images[name],
                     place_of(number), empty)
    options = ('--bands', *chosen) if chosen else ()
    options += ('--pixel-size', size) if size else ()
    assert convert(raw, out, '--test', 'd', '--background', 'none',
                   *options) == 0
    count = int(kind[-1]) - 1 if kind.startswith('alpha') else 6
    order = [i - 1 for i in chosen or range(1, count + 1)]
    image = images['a'][order].astype(np.float64)
    image[:, empty] = np.nan
    k = 2 if size else 1
    cells = np.ma.masked_invalid(
        image.reshape(len(image), 60 // k, k, 80 // k, k))
    expected = cells.mean((2, 4)).filled(np.nan)
    # What training reads, and from overviews.
    region = raster_reader(out / 'img_dir/train/a.tif', bands=None,
                           fill=[0] * len(order))
    found = region(Window(0, 0, *expected.shape[1:]), 1)
    rounded = size and np.dtype(dtype).kind != 'f' and kind == 'value'
    np.testing.assert_allclose(found, expected, atol=.51 if rounded else 0,
                               rtol=1e-5)
    coarse = region(Window(20 // k, 40 // k, 8 // k, 8 // k), 4 // k)
    assert np.isnan(coarse).all()
    (label, ) = read(out / 'ann_dir/train/a.tif')
    np.testing.assert_array_equal(label == 255, np.isnan(expected).all(0))


def test_pixel_sizes_are_told_and_made_one(places, capsys):
    raw, out = places
    make(raw)
    coarse = place_of(3) @ Affine.scale(2)
    save_raster(raw / 'd.tif', pixels_of(3)[:, :30, :40], coarse)
    assert 'Pixel sizes differ' in refused(
        capsys, raw, out, '--test', 'd', code=0)
    assert convert(raw, out, '--test', 'd', '--pixel-size', 1) == 0
    fine = read(out / 'img_dir/train/a.tif')
    means = pixels_of(0).reshape(3, 30, 2, 40, 2).mean((2, 4))
    assert fine.shape == (3, 30, 40)
    assert np.abs(fine - means).max() <= 1
    np.testing.assert_array_equal(read(out / 'img_dir/test/d.tif'),
                                  pixels_of(3)[:, :30, :40])
    with rasterio.open(out / 'img_dir/train/a.tif') as raster:
        assert raster.transform.a == 1


def test_no_data_does_not_spread_when_resampled(places):
    raw, out = places
    make(raw)
    for number, name in enumerate(NAMES):
        image = pixels_of(number, 3, 'float32')
        image[:, 20:31, 40:51] = np.nan
        save_raster(raw / f'{name}.tif', image, place_of(number))
    assert convert(raw, out, '--test', 'd', '--pixel-size', 1) == 0
    image = pixels_of(0, 3, 'float32')
    image[:, 20:31, 40:51] = np.nan
    means = np.ma.masked_invalid(image.reshape(3, 30, 2, 40, 2)).mean((2, 4))
    np.testing.assert_allclose(
        read(out / 'img_dir/train/a.tif'), means.filled(np.nan), rtol=1e-5)


# Splits.


def test_files_are_drawn_by_shares_and_seed(places):
    raw, out = places
    make(raw)
    assert convert(raw, out, '--shares', 2, 1, 1) == 0
    assert sorted(scenes(out).values()) == ['test', 'train', 'train', 'val']
    sheet = bands.look_at(raw / 'a.tif', None, None)
    parts = [Part(str(i), '', sheet, whole_box(sheet)) for i in range(20)]
    drawn = [[part.split for part in by_chance(parts, (3, 1, 0), seed)]
             for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert sorted(drawn[0]) == ['train'] * 15 + ['val'] * 5


def test_folders_are_splits(places):
    raw, out = places
    make(raw)
    for name, split in zip(NAMES, ('train', 'train', 'val', 'test')):
        (raw / split).mkdir(exist_ok=True)
        (raw / f'{name}.tif').rename(raw / split / f'{name}.tif')
    assert convert(raw, out) == 0
    assert scenes(out) == dict(a='train', b='train', c='val', d='test')


def test_areas_are_cut_out_and_the_rest_is_blank(places):
    raw, out = places
    truth = make(raw, 'a')
    place = place_of(0)
    slanted = shapely.Polygon([place @ xy for xy in (
        (0, 0), (40, 0), (0, 60))])
    save_vectors(raw.parent / 'areas.gpkg', [
        slanted, box_at(place, 50, 10, 75, 50)], 'split', ['train', 'test'])
    assert convert(raw, out, '--areas', raw.parent / 'areas.gpkg') == 0
    assert sorted(scenes(out).values()) == ['test', 'train']
    image = read(out / 'img_dir/test/a_area2.tif')
    np.testing.assert_array_equal(image, pixels_of(0)[:, 10:50, 50:75])
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(read(out / 'ann_dir/test/a_area2.tif')[0],
                                  truth['a'][10:50, 50:75])
    y, x = np.mgrid[:60, :40] + 0.5
    inside = x / 40 + y / 60 < 1
    image = read(out / 'img_dir/train/a_area1.tif')
    assert np.isnan(image[:, ~inside]).all()
    np.testing.assert_array_equal(image[:, inside],
                                  pixels_of(0)[:, :, :40][:, inside])
    label = read(out / 'ann_dir/train/a_area1.tif')[0]
    np.testing.assert_array_equal(
        label, np.where(inside, truth['a'][:, :40], 255))
    assert manifest(out)['scenes'][1]['bands'][0]['valid'] == inside.sum()


def test_blocks_of_two_splits_keep_their_distance(places):
    raw, out = places
    save_raster(raw / 'a.tif', np.tile(pixels_of(0), (1, 10, 10)),
                place_of(0))
    save_vectors(raw.parent / 'p.gpkg', [box_at(
        place_of(0), 0, 0, 800, 600)], 'kind', ['field'])
    background = '--background', 'none'
    margin = 31
    assert convert(raw, out, '--split', 'blocks', '--block', 150, '--margin',
                   margin, '--shares', 2, 1, 1, '--model', 'swin2_n',
                   *background) == 0
    boxes = {}
    for path in (out / 'img_dir').glob('*/*'):
        with rasterio.open(path) as raster:
            left, top = ~place_of(0) @ raster.transform @ (0, 0)
            boxes[path] = (round(top), round(left), *raster.shape)
    assert {path.parent.name for path in boxes} == {'train', 'val', 'test'}
    closest = 1000
    for (one, a), (other, b) in product(boxes.items(), repeat=2):
        if one.parent != other.parent:
            gaps = [max(a[i] - b[i] - b[i + 2], b[i] - a[i] - a[i + 2])
                    for i in (0, 1)]
            closest = min(closest, max(gaps))
    assert closest == 32  # half of the margin is rounded up on either side
    top, left, height, width = boxes[path]
    np.testing.assert_array_equal(read(path), np.tile(
        pixels_of(0), (1, 10, 10))[:, top:top + height, left:left + width])
    # What a training view shows stays in the file, at any size and angle.
    cfg = data_config(out, 128).train_dataloader.dataset
    init_default_scope('mmseg')
    marked = -1e6
    for step in cfg.pipeline:
        if step.type == 'ReadViews':
            step.fill = [marked] * 3
    cfg.pipeline = cfg.pipeline[:2]
    dataset = DATASETS.build(cfg | dict(context_factors=(4, )))
    sample = dataset[0]
    assert (sample['views'][1] == marked).any()  # nothing beyond the block


def test_default_margin_is_the_width_of_a_global_view(places, capsys):
    raw, out = places
    make(raw)
    told = refused(capsys, raw, out, '--split', 'blocks')
    assert 'nothing is left' in told
    args = custom.own_parser().parse_args(
        [str(raw), str(out), '--model', 'swin2_n'])
    own.complete(args)
    assert args.margin == 4 * 128 and args.block == 2 * args.margin


def test_thin_blocks_are_left_out(places):
    raw, _ = places
    make(raw, 'a')
    sheet = bands.look_at(raw / 'a.tif', None, None)
    parts, remarks = by_blocks([sheet], 20, 30, 5, lambda part: True,
                               (1, 1, 1), 0)
    assert all(min(part.box[2:]) >= 5 for part in parts)
    assert 'narrower than a window' in remarks[0]


def test_same_ground_in_two_splits_is_told(places, capsys):
    raw, out = places
    make(raw)
    save_raster(raw / 'd.tif', pixels_of(9),
                place_of(0) @ Affine.translation(40, 0))
    told = refused(capsys, raw, out, '--test', 'd', code=0)
    assert 'same ground, e.g. a (train) and d (test)' in told


# Bad input.


def set_crs(raw, crs):
    save_raster(raw / 'b.tif', pixels_of(1), place_of(1), crs)


def bow_tie(raw):
    place = place_of(1)
    tie = shapely.Polygon([place @ xy for xy in (
        (5, 5), (40, 40), (40, 5), (5, 40))])
    save_vectors(raw.parent / 'p.gpkg', [tie, *(
        box_at(place_of(i), 5, 5, 30, 30) for i in (0, 2, 3))], 'kind',
        ['field', 'pond', 'pond', 'pond'])


FAR = shapely.box(0, 0, 1, 1)
BAD = {
    'no CRS of a raster': (
        lambda raw: set_crs(raw, None), (), 2, 'b.tif has no CRS'),
    'no CRS of the polygons': (
        lambda raw: save_vectors(raw.parent / 'p.gpkg', [FAR], 'kind', ['x'],
                                 None), (), 2, 'p.gpkg has no CRS'),
    'no such column': (None, ('--class-column', 'type'), 2, "['kind']"),
    'polygons elsewhere': (
        lambda raw: save_vectors(raw.parent / 'p.gpkg', [FAR], 'kind', ['x']),
        ('--background', 'none'), 2, 'overlaps no raster'),
    'self-intersection': (bow_tie, (), 2, 'Self-intersection'),
    'other number of bands': (
        lambda raw: save_raster(raw / 'b.tif', pixels_of(1, 4), place_of(1),
                                photometric='minisblack'),
        (), 2, '4 band(s)'),
    'other type': (
        lambda raw: save_raster(raw / 'b.tif', pixels_of(1, 3, 'uint16'),
                                place_of(1)), (), 2, 'has uint16'),
    'no such band': (None, ('--bands', 1, 5), 2, 'bands 1 to 3'),
    'unknown value': (None, ('--classes', 'field'), 2, "'pond'"),
    'class twice': (None, ('--classes', 'field', 'field'), 2, 'twice'),
    'value twice': (None, ('--classes', 'field', 'x:field,pond'), 2,
                    'two meanings'),
    'no colour': (None, ('--classes', 'field=bluish', 'pond'), 2, 'bluish'),
    'too many classes': (
        lambda raw: save_vectors(
            raw.parent / 'p.gpkg', [box_at(place_of(0), i, 5, i + 1, 6)
                                    for i in range(255)], 'kind',
            [f'v{i}' for i in range(255)]), (), 2, '255 values'),
    'nothing to train': (None, ('--test', '*'), 2, 'left for train'),
    'one class': (
        lambda raw: save_vectors(raw.parent / 'p.gpkg', [box_at(
            place_of(0), 5, 5, 9, 9)], 'kind', ['x']), (), 2,
        '--background'),
    'no such file': (None, ('--test', 'z'), 2, 'fits none of the 4'),
    'damaged raster': (
        lambda raw: (raw / 'b.tif').write_bytes(b'II*\0 no raster'), (), 2,
        'b.tif'),
    'no layer': (None, ('--layer', 'q'), 2, "layers ['p']"),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_told_with_its_remedy(places, capsys, case):
    raw, out = places
    make(raw)
    spoil, arguments, code, message = BAD[case]
    if spoil:
        spoil(raw)
    arguments = ('--test', 'd', *arguments) if (
        '--test' not in arguments) else arguments
    told = refused(capsys, raw, out, *arguments, code=code)
    assert message in told
    assert not out.exists()


def test_repair_mends_what_crosses_itself(places):
    raw, out = places
    make(raw)
    bow_tie(raw)
    assert convert(raw, out, '--test', 'd', '--repair') == 0
    label = read(out / 'ann_dir/train/b.tif')[0]
    # Two triangles: left and right of the crossing at (22.5, 22.5).
    assert label[22, 8] == label[22, 37] == 0 and label[8, 22] == 255


def test_polygons_outside_and_absent_classes_are_told(places, capsys):
    raw, out = places
    make(raw)
    boxes = [box_at(place_of(i), 5, 5, 30, 30) for i in range(4)]
    save_vectors(raw.parent / 'p.gpkg', [*boxes, FAR], 'kind',
                 ['field', 'field', 'field', 'pond', 'pond'])
    told = refused(capsys, raw, out, '--test', 'd', code=0)
    assert '1 of 5 polygons' in told and 'train has no pixel of pond' in told


# Going on.


def test_second_run_keeps_scenes_and_changed_configs(places, capsys):
    raw, out = places
    make(raw)
    assert convert(raw, out, '--test', 'd') == 0
    before = {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}
    config = out / 'configs/rt_swin2_t_out.py'
    config.write_text(config.read_text() + '# mine\n')
    capsys.readouterr()
    told = refused(
        capsys, raw, out, '--test', 'd', '--iterations', 40, code=0)
    assert '4 of 4 scenes are there already' in told
    assert f'{config} was changed and is kept' in told
    assert config.read_text().endswith('# mine\n')
    # Its plain twin, which nobody touched, follows the options.
    assert Config.fromfile(config).train_cfg.max_iters == 40
    assert before == {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}
    assert convert(raw, out, '--test', 'd', '--check') == 0
    assert convert(raw, out, '--test', 'd', '--background', 'none',
                   '--check') == 1  # made with other options
    assert convert(raw, out, '--test', 'd', '--background', 'none') == 0
    assert manifest(out)['classes'] == ['none', 'field', 'pond']


def test_check_needs_the_result_only(places):
    raw, out = places
    make(raw)
    assert convert(raw, out, '--test', 'd') == 0
    raw.rename(raw.with_name('gone'))
    assert convert(raw, out, '--test', 'd', '--check') == 0
    path = out / 'ann_dir/test/d.tif'
    path.write_bytes(path.read_bytes()[:-1])
    assert convert(raw, out, '--test', 'd', '--check') == 1


