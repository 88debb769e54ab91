"""What the tiles, the areas and the windows show."""
import math
import tracemalloc

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.warp import Resampling, calculate_default_transform, reproject
from rio_tiler.reader import read
from shown_rasters import COLOURS, HALF_METRE, UTM, save
from test_doors import KINDS, REFUSED

from relay_seg.drawing import as_bytes, as_rgb, read_shown, stretch, thumbnail
from relay_seg.viewing import areas as areas_module
from relay_seg.viewing import open_layers
from relay_seg.viewing.areas import Areas, chunks
from relay_seg.viewing.grids import square_metres
from relay_seg.viewing.tiles import ERROR_COLOUR, Tiles
from relay_seg.viewing.windows import outlines, window_at
from relay_seg.views import plan_windows

#: GDAL takes the last of four bands of bytes for alpha unless it is told.
NO_ALPHA = dict(photometric='MINISBLACK')


def decode(png):
    """A tile as (H, W, 4)."""
    with MemoryFile(png) as file, file.open() as image:
        pixels = image.read()
    if len(pixels) == 2:  # grey and alpha
        pixels = pixels[[0, 0, 0, 1]]
    return pixels.transpose(1, 2, 0)


def mosaic(tiles, layer, level=None):
    """All tiles of a level, cut to the size of the layer: (H, W, 4)."""
    level = tiles.levels if level is None else level
    factor = 2**(tiles.levels - level)
    height, width = (math.ceil(side / factor)
                     for side in tiles.layers.scene.grid.shape)
    whole = np.vstack([
        np.hstack([decode(tiles.draw(layer, level, column, row))
                   for column in range(math.ceil(width / 256))])
        for row in range(math.ceil(height / 256))])
    alpha = whole[..., 3]
    assert not alpha[height:].any() and not alpha[:, width:].any()
    return whole[:height, :width]


def coloured(ids):
    table = np.zeros((256, 4), np.uint8)
    for class_id, colour in COLOURS.items():
        table[class_id] = (*colour, 255)
    return table[ids]


@pytest.fixture
def tiny(tmp_path):
    """``tiny(image, **profile)``: tiles of a scene, prediction of zeros."""
    opened = []

    def make(image, bands=None, **profile):
        scene = save(tmp_path / 'scene.tif', image, **profile)
        shape = np.asarray(image).shape[-2:]
        ids = save(tmp_path / 'ids.tif', np.zeros(shape, np.uint8))
        opened.append(open_layers(scene, ids, bands=bands))
        return Tiles(opened[-1])

    yield make
    for layers in opened:
        layers.close()


def test_native_tiles_are_the_pixels_of_the_files(shown):
    paths, (image, ids, truth) = shown
    tiles = Tiles(open_layers(*paths))
    scene = mosaic(tiles, 'scene')
    np.testing.assert_array_equal(scene[..., :3], image.transpose(1, 2, 0))
    assert (scene[..., 3] == 255).all()
    np.testing.assert_array_equal(mosaic(tiles, 'prediction'), coloured(ids))
    np.testing.assert_array_equal(mosaic(tiles, 'truth'), coloured(truth))
    wrong = (ids != truth) & (ids != 255) & (truth != 255)
    expected = np.where(wrong[..., None], (*ERROR_COLOUR, 255), 0)
    np.testing.assert_array_equal(mosaic(tiles, 'error'), expected)


@pytest.mark.parametrize('suffix, driver', [
    ('.png', 'PNG'), ('.tif', 'GTiff')])
def test_no_georeferencing_is_needed(tmp_path, suffix, driver):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (3, 300, 530), np.uint8)
    ids = rng.integers(0, 3, (300, 530), np.uint8)
    layers = open_layers(
        save(tmp_path / f's{suffix}', image, driver=driver, crs=None,
             transform=None),
        # Only one of the two has coordinates.
        save(tmp_path / 'p.tif', ids, colours=COLOURS))
    tiles = Tiles(layers)
    np.testing.assert_array_equal(
        mosaic(tiles, 'scene')[..., :3], image.transpose(1, 2, 0))
    np.testing.assert_array_equal(mosaic(tiles, 'prediction'), coloured(ids))


def test_far_tiles_are_means_and_most_frequent_classes(tmp_path):
    image = np.kron(np.arange(64).reshape(8, 8), np.ones((128, 128)))
    image = image.astype(np.uint8) * 2
    image[::2] += 2  # a mean of 2 i + 1
    ids = np.kron(np.arange(64).reshape(8, 8) % 3, np.ones((128, 128)))
    ids = ids.astype(np.uint8)
    ids[::4, ::4] = 0  # one of 16 pixels
    tiles = Tiles(open_layers(
        save(tmp_path / 's.tif', image),
        save(tmp_path / 'p.tif', ids, colours=COLOURS)))
    assert tiles.levels == 2
    np.testing.assert_array_equal(
        mosaic(tiles, 'scene', 0)[16::32, 16::32, 0],
        np.arange(64).reshape(8, 8) * 2 + 1)
    np.testing.assert_array_equal(
        mosaic(tiles, 'prediction', 0)[16::32, 16::32],
        coloured(np.arange(64).reshape(8, 8) % 3))


def test_wide_values_are_stretched_alike_in_all_tiles(tiny):
    ramp = np.linspace(1000, 3000, 600)[None].repeat(300, 0)
    shown = mosaic(tiny(ramp.astype(np.uint16)), 'scene')[150, :, 0]
    assert (np.diff(shown.astype(int)) >= 0).all()  # no seam
    assert shown[:10].max() == 0 and shown[-10:].min() == 255
    assert abs(int(shown[300]) - 127) <= 2


def test_nan_and_nodata_are_transparent(tiny):
    image = np.random.default_rng(0).normal(size=(1, 80, 90))
    image[0, :20] = np.nan
    alpha = mosaic(tiny(image.astype(np.float32)), 'scene')[..., 3]
    assert not alpha[:20].any() and (alpha[20:] == 255).all()

    # A single black band is a colour; nodata is black in all of them.
    image = np.full((3, 80, 90), 100, np.uint8)
    image[0] = 0
    image[:, :30] = 0
    shown = mosaic(tiny(image, nodata=0), 'scene')
    assert not shown[:30, :, 3].any() and (shown[30:, :, 3] == 255).all()
    assert (shown[30:, :, :3] == (0, 100, 100)).all()


def test_bands_are_chosen(tiny):
    image = np.arange(4, dtype=np.uint8)[:, None, None] + np.zeros(
        (4, 20, 20), np.uint8)
    assert (mosaic(tiny(image, **NO_ALPHA), 'scene') == (0, 1, 2, 255)).all()
    assert (mosaic(tiny(image, bands=[4, 1, 2], **NO_ALPHA), 'scene')
            == (3, 0, 1, 255)).all()
    assert (mosaic(tiny(image[:2]), 'scene')[..., :3] == 0).all()
    assert (mosaic(tiny(image, bands=[3], **NO_ALPHA), 'scene')[..., :3]
            == 2).all()
    with pytest.raises(ValueError, match='bands 1 to 4'):
        tiny(image, bands=[5])
    with pytest.raises(ValueError, match='one, .* or three'):
        tiny(image, bands=[1, 2])


@pytest.mark.parametrize('read, shown', [
    ({'scene.tif': [4, 3, 2, 1]}, (3, 2, 1)),
    ({'other.tif': [1, 2, 3], 'scene.tif': [3, 4]}, (2, 2, 2)),
    ({'before_it_was_renamed.tif': [2, 3, 4]}, (1, 2, 3)),
    ({'one.tif': [2, 3, 4], 'two.tif': [1]}, (0, 1, 2)),
    ({'larger.tif': [5, 6, 7]}, (0, 1, 2)),
    ('[4, 3, 2', (0, 1, 2)),
    ({'scene.tif': [0, 1, 2]}, (0, 1, 2)),
])
def test_the_bands_that_the_model_read_are_shown(tmp_path, read, shown):
    image = np.arange(4, dtype=np.uint8)[:, None, None] + np.zeros(
        (4, 20, 20), np.uint8)
    paths = [save(tmp_path / 'scene.tif', image, **NO_ALPHA),
             save(tmp_path / 'ids.tif', image[0], tags=dict(BANDS=read))]
    tiles = Tiles(open_layers(*paths))
    assert (mosaic(tiles, 'scene')[..., :3] == shown).all()
    tiles = Tiles(open_layers(*paths, bands=[1, 3, 4]))
    assert (mosaic(tiles, 'scene')[..., :3] == (0, 2, 3)).all()


@pytest.mark.parametrize('low, high, dtype', [
    (0, 255, np.uint8), (0, 7, np.uint8), (0, 250, np.float32),
    (0, 1, np.float32), (300, 9000, np.uint16)])
def test_a_scene_has_the_colours_of_its_pictures(tiny, tmp_path, low, high,
                                                 dtype):
    ramp = np.linspace(0, 1, 2400).reshape(1, 40, 60)
    shares = np.array([1, .7, .4, .6])[:, None, None]
    image = (low + (high - low) * shares * ramp).astype(dtype)
    tiles = mosaic(tiny(image, bands=[4, 2, 3], **NO_ALPHA), 'scene')
    tiles = tiles[..., :3]
    np.testing.assert_array_equal(
        tiles, thumbnail(tmp_path / 'scene.tif', bands=[4, 2, 3]))
    np.testing.assert_array_equal(tiles, as_rgb(image[[3, 1, 2]]))


@pytest.mark.parametrize('kind', KINDS)
def test_tiles_and_pictures_show_what_is_data(tmp_path, kind):
    path, image, known = KINDS[kind](tmp_path)
    known = np.broadcast_to(known, image.shape)
    count = 3 if len(image) >= 3 else 1
    pixels = np.ma.masked_array(image[:count], ~known[:count])
    expected = as_bytes(pixels, *stretch(pixels)).transpose(1, 2, 0)
    ids = save(tmp_path / 'ids.tif', np.zeros(image.shape[1:], np.uint8),
               crs=None, transform=None)
    tile = mosaic(Tiles(open_layers(path, ids)), 'scene')
    np.testing.assert_array_equal(tile[..., 3] > 0, known[:count].any(0))
    for found in tile[..., :3], thumbnail(path):
        np.testing.assert_array_equal(
            found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize('kind', [k for k in REFUSED if k != 'palette'])
def test_what_training_refuses_is_refused(tmp_path, kind):
    path, _ = REFUSED[kind](tmp_path)
    ids = save(tmp_path / 'ids.tif', np.zeros((40, 60), np.uint8))
    for door in lambda: open_layers(path, ids), lambda: thumbnail(path):
        with pytest.raises(ValueError, match=path.name):
            door()


def test_a_scene_with_a_colour_table_keeps_its_colours(tiny, tmp_path):
    ids = np.arange(3, dtype=np.uint8)[None].repeat(3, 0)
    tiles = tiny(ids, colours=COLOURS)
    np.testing.assert_array_equal(mosaic(tiles, 'scene'), coloured(ids))


@pytest.mark.parametrize('overviews', [(), (2, 4)])
@pytest.mark.parametrize('crs', [UTM, None])
def test_coarser_prediction_is_laid_over_by_coordinates(
        tmp_path, overviews, crs):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 602, 818), np.uint8)
    ids = np.kron(rng.integers(0, 3, (30, 40)), np.ones((10, 10)))
    ids = ids.astype(np.uint8)
    layers = open_layers(
        save(tmp_path / 's.tif', image, crs=crs),
        save(tmp_path / 'p.tif', ids, HALF_METRE @ Affine.scale(2), crs,
             colours=COLOURS, overviews=overviews),
        window=(64, 64), context_factors=[2])
    tiles = Tiles(layers)
    expected = np.full((602, 818), 255, np.uint8)
    expected[:600, :800] = np.kron(ids, np.ones((2, 2), np.uint8))
    np.testing.assert_array_equal(
        mosaic(tiles, 'prediction'), coloured(expected))
    # Far away: everything but the borders of the squares.
    np.testing.assert_array_equal(
        mosaic(tiles, 'prediction', 0)[:150, :200][2::5, 2::5],
        coloured(ids[5::10, 5::10]))

    # Its pixels are counted once, and windows count its pixels.
    areas = Areas(layers)
    areas.start()
    areas.wait()
    found = areas.report()['layers']['prediction']
    np.testing.assert_array_equal(
        found['counts'][:3], np.bincount(ids.ravel()))
    assert found['square_metres'] == (
        pytest.approx(1, rel=2e-3) if crs else None)
    local, wide = outlines(
        400.5, 300.5, layers.scene.grid, layers.prediction.grid,
        layers.windows)
    assert (local['factor'], wide['factor']) == (1, 2)
    assert np.ptp(local['corners'], 0).tolist() == [128, 128]
    assert np.ptp(wide['corners'], 0).tolist() == [256, 256]
    np.testing.assert_allclose(np.mean(local['corners'], 0), (400, 300))


def test_prediction_in_another_crs(tmp_path):
    ids = np.kron([[0, 1], [2, 0]], np.ones((200, 200))).astype(np.uint8)
    image = np.zeros((3, 400, 400), np.uint8)
    scene = save(tmp_path / 's.tif', image)
    transform, width, height = calculate_default_transform(
        UTM, 'EPSG:4326', 400, 400,
        *rasterio.transform.array_bounds(400, 400, HALF_METRE))
    turned = np.full((height, width), 255, np.uint8)
    reproject(ids, turned, src_transform=HALF_METRE, src_crs=UTM,
              dst_transform=transform, dst_crs='EPSG:4326', dst_nodata=255,
              resampling=Resampling.nearest)
    layers = open_layers(scene, save(
        tmp_path / 'p.tif', turned, transform, 'EPSG:4326', nodata=255,
        colours=COLOURS))
    same = (mosaic(Tiles(layers), 'prediction') == coloured(ids)).all(-1)
    assert same.mean() > .97  # all but the borders
    areas = Areas(layers)
    north = np.radians(transform.f)
    degree = 111_195.  # metres, on a sphere
    assert areas.report()['layers']['prediction']['square_metres'] == (
        pytest.approx((transform.a * degree)**2 * np.cos(north), rel=1e-2))
    (local, *_) = outlines(
        200, 200, layers.scene.grid, layers.prediction.grid, layers.windows)
    np.testing.assert_allclose(
        np.mean(local['corners'], 0), (200, 200), atol=2)


@pytest.mark.parametrize('dtype', ['int8', 'int16', 'uint16', 'int32'])
def test_ids_of_other_integer_types(tmp_path, dtype):
    ids = np.array([[0, 1], [2, -1]]).astype(dtype)
    layers = open_layers(
        save(tmp_path / 's.tif', np.zeros((2, 2), np.uint8)),
        save(tmp_path / 'p.tif', ids, blockxsize=16, blockysize=16))
    alpha = mosaic(Tiles(layers), 'prediction')[..., 3]
    assert alpha.tolist() == [[255, 255], [255, 0]]
    areas = Areas(layers)
    areas.start()
    areas.wait()
    report = areas.report()['layers']['prediction']
    assert report['counts'][:3] == [1, 1, 1] and report['no_class'] == 1


@pytest.mark.parametrize('change, message', [
    (dict(prediction='nowhere.tif'), 'nowhere.tif does not exist'),
    (dict(ids=np.zeros((40, 61), np.uint8), crs=None, transform=None),
     '61 x 40 pixels.*60 x 40.*no georeferencing'),
    (dict(ids=np.zeros((40, 61), np.uint8), crs=None), 'has no CRS'),
    (dict(transform=HALF_METRE @ Affine.translation(60, 0)), 'overlap'),
    (dict(ids=np.zeros((40, 60), np.float32)), 'float32; class ids'),
    (dict(ids=np.zeros((3, 40, 60), np.uint8)), '3 bands; class ids'),
    (dict(window=(0, 8)), 'must be 1 or more'),
    (dict(context_factors=[0]), 'must be 1 or more'),
    (dict(stride=(300, 8)), 'stride=300'),
    (dict(class_names=['x'] * 256), '256 class names'),
])
def test_errors_name_the_file_and_the_remedy(tmp_path, change, message):
    scene = save(tmp_path / 's.tif', np.zeros((3, 40, 60), np.uint8))
    raster = {key: change.pop(key) for key in ('crs', 'transform')
              if key in change}
    ids = change.pop('ids', np.zeros((40, 60), np.uint8))
    path = save(tmp_path / 'p.tif', ids, **raster)
    path = tmp_path / change.pop('prediction', path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_layers(scene, path, **change)


def test_a_file_that_is_no_raster(tmp_path):
    (tmp_path / 'p.tif').write_text('no raster')
    scene = save(tmp_path / 's.tif', np.zeros((3, 40, 60), np.uint8))
    with pytest.raises(ValueError, match='p.tif cannot be read'):
        open_layers(scene, tmp_path / 'p.tif')


def test_tags_then_options_then_assumptions(shown, tmp_path):
    paths = shown[0]
    layers = open_layers(*paths)
    assert layers.classes.names[:2] == ('building', 'tree')
    assert layers.classes.name(7) == 'class 7'
    assert layers.classes.colours[:3] == tuple(COLOURS.values())
    assert layers.windows == ((128, 96), (4, ), None, False)
    chosen = open_layers(*paths, class_names=['a'], window=(32, 32),
                         context_factors=[], stride=(16, 16))
    assert chosen.classes.names == ('a', )
    assert chosen.windows == ((32, 32), (), (16, 16), False)

    damaged = save(tmp_path / 'p.tif', shown[1][1], tags=dict(
        CLASS_NAMES='["a"', WINDOW=[0, 'x'], CONTEXT_FACTORS={}))
    layers = open_layers(paths[0], damaged)
    assert layers.classes.names == ()
    assert layers.windows == ((256, 256), (4, ), None, True)
    assert len(set(layers.classes.colours[:20])) == 20


def test_windows_are_those_of_inference(shown):
    paths = shown[0]
    layers = open_layers(*paths, window=(128, 96), stride=(64, 48))
    grid, windows = layers.prediction.grid, layers.windows
    planned = plan_windows(grid.shape, (128, 96), (64, 48))
    for x, y in np.random.default_rng(0).uniform(0, (1500, 1100), (20, 2)):
        distances = [abs(w.left + 48 - x) + abs(w.top + 64 - y)
                     for w in planned]
        assert window_at(x, y, grid, windows) == planned[
            int(np.argmin(distances))]


def test_areas_are_counted_in_blocks(shown, monkeypatch):
    paths, (_, ids, truth) = shown
    monkeypatch.setattr(areas_module, 'CHUNK', 20000)
    areas = Areas(open_layers(*paths))
    assert areas.report()['done'] == 0
    areas.start()
    areas.wait()
    report = areas.report()
    assert report['done'] == 1 and report['problem'] is None
    for name, expected in (('prediction', ids), ('truth', truth)):
        counts = np.bincount(expected.ravel(), minlength=256)
        layer = report['layers'][name]
        assert layer['counts'] == counts[:255].tolist()
        assert layer['no_class'] == counts[255]
        assert layer['square_metres'] == pytest.approx(.25, rel=2e-3)
    both = (ids != 255) & (truth != 255)
    assert report['compared'] == both.sum()
    assert report['equal'] == (both & (ids == truth)).sum()


def test_feet_are_not_metres(tmp_path):
    ids = np.zeros((4, 4), np.uint8)
    layers = open_layers(*(
        save(tmp_path / name, ids, crs='EPSG:2263',
             transform=Affine(2, 0, 984_000, 0, -2, 200_000))
        for name in ('s.tif', 'p.tif')))
    assert square_metres(layers.prediction.grid) == pytest.approx(
        4 * .3048**2, rel=1e-3)


def test_pixels_of_web_mercator_are_smaller_on_the_ground(tmp_path):
    """Four times in area at 60 degrees north."""
    ids = np.zeros((4, 4), np.uint8)
    layers = open_layers(*(
        save(tmp_path / name, ids, crs='EPSG:3857',
             transform=Affine(2, 0, 1.2e6, 0, -2, 8_399_738))
        for name in ('s.tif', 'p.tif')))
    assert square_metres(layers.prediction.grid) == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize('blocks', [dict(blockxsize=64, blockysize=32),
                                    dict(tiled=False, blockysize=3)])
def test_chunks_cover_each_pixel_once_in_whole_blocks(
        tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(areas_module, 'CHUNK', 5000)
    path = save(tmp_path / 'p.tif', np.zeros((211, 317), np.uint8), **blocks)
    seen = np.zeros((211, 317), int)
    with rasterio.open(path) as raster:
        height, width = raster.block_shapes[0]
        for window in chunks(raster):
            rows, columns = window.toslices()
            assert rows.start % height == columns.start % width == 0
            seen[rows, columns] += 1
    assert (seen == 1).all()


def test_memory_of_counting_does_not_grow_with_the_raster(tmp_path):
    peaks = []
    for height in (3000, 9000):
        ids = np.zeros((height, 3000), np.uint8)
        path = save(tmp_path / f'{height}.tif', ids)
        del ids
        areas = Areas(open_layers(path, path))
        tracemalloc.start()
        areas.start()
        areas.wait()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert areas.report()['layers']['prediction']['counts'][0] == (
            height * 3000)
    assert peaks[1] < 1.1 * peaks[0]


def test_damage_in_the_middle_is_reported(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(areas_module, 'CHUNK', 20000)
    paths = shown[0]
    # Its last blocks are cut off.
    path = save(tmp_path / 'p.tif', np.random.default_rng(0).integers(
        0, 9, (1100, 1500), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * 3 // 4])
    areas = Areas(open_layers(paths[0], path))
    areas.start()
    areas.wait()
    report = areas.report()
    assert 'not complete' in report['problem']
    assert 'p.tif' in report['problem']
    assert 0 < report['done'] < 1


def test_large_files_without_overviews_are_named_and_read_quickly(
        tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr('relay_seg.viewing.layers.LARGE', 1000)
    monkeypatch.setattr(
        'relay_seg.viewing.tiles.read',
        lambda *args, resampling_method, **options: asked.append(
            resampling_method) or read(
                *args, resampling_method=resampling_method, **options))
    monkeypatch.setattr(
        'relay_seg.viewing.tiles.read_shown',
        lambda *args: asked.append(args[-1].name) or read_shown(*args))
    ids = np.zeros((100, 5000), np.uint8)
    scene = save(tmp_path / 's.tif', ids)
    layers = open_layers(scene, save(tmp_path / 'p.tif', ids,
                                     overviews=(2, 4, 8)))
    assert (layers.scene.quick, layers.prediction.quick) == (False, True)
    tiles = Tiles(layers)
    for level in (1, 2, 5):  # reduced 16, 8 and 1 times
        for layer in ('scene', 'prediction'):
            tiles.draw(layer, level, 0, 0)
    assert asked == ['nearest', 'mode', 'average', 'mode', 'nearest',
                     'nearest']
