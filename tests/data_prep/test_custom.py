"""Rasters and polygons of one's own: labels, bands, splits, errors."""
import json
from itertools import product

import custom
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from parts import Part, whole_box
from rasterio.crs import CRS
from rasterio.warp import transform_geom
from raw_folders import UTM, box_at, save_raster, save_vectors
from splitting import by_blocks, by_chance

SIZE = 60, 80
NAMES = 'a', 'b', 'c', 'd'
WGS84 = CRS.from_epsg(4326)


def place_of(number):
    return Affine(0.5, 0, 400000 + 1000 * number, 0, -0.5, 1500000)


def pixels_of(number, bands=3, dtype='uint8'):
    rng = np.random.default_rng(number)
    high = 250 if dtype == 'uint8' else 9000
    return (1 + rng.random((bands, *SIZE)) * high).astype(dtype)


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
                           place_of(0))
        with rasterio.open(path, 'r+') as raster:
            raster.write_colormap(1, {7: (1, 2, 3, 255)})
    arguments = '--labels', raw.parent / 'ids', '--test', 'd'
    assert convert(raw, out, *arguments, '--classes', 'field:7',
                   'pond:8', '--ignore', '0') == 0
    for name, split in scenes(out).items():
        np.testing.assert_array_equal(
            read(out / f'ann_dir/{split}/{name}.tif')[0], truth[name])


# Bands and statistics.


def special(dtype, bands):
    """Pixels with holes, and the value of no data."""
    pixels = [pixels_of(i, bands, dtype) for i in range(4)]
    if dtype == 'uint8':
        return pixels, None
    nodata = dict(uint16=0, int16=-9999, float32=-9999.,
                  float64=np.nan)[dtype]
    for image in pixels:
        image[:, 40:, 50:] = nodata
        image[0, :5, :5] = nodata
    return pixels, nodata


@pytest.mark.parametrize('dtype, bands, order', [
    ('uint8', 3, (3, 2, 1)), ('uint16', 5, (5, 1, 3, 4)),
    ('int16', 16, None), ('float32', 2, None), ('float64', 4, (2, 4))])
def test_bands_and_statistics_are_exact(places, dtype, bands, order):
    raw, out = places
    make(raw)
    images, nodata = special(dtype, bands)
    for number, (name, image) in enumerate(zip(NAMES, images)):
        if dtype == 'float32':
            image[1, 30, 30] = np.inf
        save_raster(raw / f'{name}.tif', image, place_of(number),
                    nodata=nodata)
    chosen = order or tuple(range(1, bands + 1))
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
    sheet = custom.look_at(raw / 'a.tif', None, None)
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
    args = custom.make_parser().parse_args(
        [str(raw), str(out), '--model', 'swin2_n'])
    custom.complete(args)
    assert args.margin == 4 * 128 and args.block == 2 * args.margin


def test_thin_blocks_are_left_out(places):
    raw, _ = places
    make(raw, 'a')
    sheet = custom.look_at(raw / 'a.tif', None, None)
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
        lambda raw: set_crs(raw, None), (), 1, 'b.tif has no CRS'),
    'no CRS of the polygons': (
        lambda raw: save_vectors(raw.parent / 'p.gpkg', [FAR], 'kind', ['x'],
                                 None), (), 2, 'p.gpkg has no CRS'),
    'no such column': (None, ('--class-column', 'type'), 2, "['kind']"),
    'polygons elsewhere': (
        lambda raw: save_vectors(raw.parent / 'p.gpkg', [FAR], 'kind', ['x']),
        ('--background', 'none'), 2, 'overlaps no raster'),
    'self-intersection': (bow_tie, (), 1, 'Self-intersection'),
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
        lambda raw: (raw / 'b.tif').write_bytes(b'II*\0 no raster'), (), 1,
        'b.tif'),
    'no layer': (None, ('--layer', 'q'), 2, "layers ['p']"),
    'ids without meaning': (None, ('--labels', '.'), 2, 'meaning of the ids'),
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
    assert not (out / 'configs').exists()
    assert not [*out.glob('.unfinished/*')]


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


