"""Files of a virtual raster that GDAL cannot open: they are never zeros.

GDAL says so once. Afterwards it gives zeros, also for rasters that come to
lie at the same address of memory, while any other virtual raster is open.
"""
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from relay_seg.evaluation.scoring import score_prediction
from relay_seg.inference import predict_raster
from relay_seg.inference.polygons import write_polygons
from relay_seg.inference.raster_source import ModelBands, RasterSource
from relay_seg.rasters import (
    Handles,
    mosaic_of,
    open_raster,
    opening,
    raster_reader,
    reused_raster,
)
from relay_seg.rasters.remote import gdal_name
from relay_seg.views import Window

ONE = ModelBands(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), (0., ))
TILE = 64
SOURCE = ('<SimpleSource><SourceFilename relativeToVRT="1">{}'
          '</SourceFilename><SourceBand>1</SourceBand><SrcRect xOff="0" '
          'yOff="0" xSize="64" ySize="64"/><DstRect xOff="{}" yOff="{}" '
          'xSize="64" ySize="64"/></SimpleSource>')
MOSAIC = ('<VRTDataset rasterXSize="128" rasterYSize="128"><SRS>EPSG:32648'
          '</SRS><GeoTransform>0, 1, 0, 128, 0, -1</GeoTransform>'
          '<VRTRasterBand dataType="Byte" band="1">{}</VRTRasterBand>'
          '</VRTDataset>')


def write_mosaic(path, only=(0, 1, 2, 3)):
    """Tiles of 64 pixels, two by two, beside the virtual raster."""
    path.parent.mkdir(exist_ok=True)
    tiles = ''
    for i in only:
        name = f'{path.stem}{i}.tif'
        left, top = i % 2 * TILE, i // 2 * TILE
        with rasterio.open(
                path.with_name(name), 'w', driver='GTiff', count=1,
                height=TILE, width=TILE, dtype='uint8', crs='EPSG:32648',
                transform=Affine(1, 0, left, 0, -1, 128 - top)) as raster:
            raster.write(np.full((1, TILE, TILE), 50 + i, np.uint8))
        tiles += SOURCE.format(f'./{name}', left, top)
    path.write_text(MOSAIC.format(tiles))
    return path


@pytest.fixture
def another(tmp_path):
    """A virtual raster that is open, so that GDAL keeps what it knows."""
    with rasterio.open(write_mosaic(tmp_path / 'another/a.vrt')) as raster:
        raster.read()
        yield


@pytest.fixture(params=['damaged', 'missing'])
def fault(request):
    return request.param


@pytest.fixture
def broken(another, tmp_path, fault):
    """A mosaic of which the first tile cannot be opened."""
    path = write_mosaic(tmp_path / 'm.vrt')
    break_tile(path, fault)
    return path


def break_tile(path, fault, number=0):
    tile = path.with_name(f'{path.stem}{number}.tif')
    if fault == 'missing':
        tile.unlink()
    else:
        tile.write_bytes(b'this is no picture' * 100)


def test_handles_say_it_every_time(broken):
    handles = Handles(broken, lambda: rasterio.open(gdal_name(broken)))
    for _ in range(20):
        with pytest.raises(ValueError, match='m0.tif'), \
                handles.lend() as raster:
            raster.read(1)


def test_rasters_say_it_every_time(broken):
    for _ in range(20):
        with pytest.raises(ValueError, match='m0.tif'), \
                open_raster(broken, whole=False) as raster:
            raster.read(1)


def test_it_is_said_before_any_work(broken):
    """For a file may be read where it is not broken, and looked at first."""
    for _ in range(3):
        with pytest.raises(FileNotFoundError, match='m0.tif'), \
                open_raster(broken):
            pass
        with pytest.raises(FileNotFoundError, match='m0.tif'):
            raster_reader(broken, bands=None, fill=[0.])
        with pytest.raises(FileNotFoundError, match='m0.tif.*on-error skip'):
            RasterSource([broken], ONE)


def test_a_scene_that_breaks_meanwhile(another, tmp_path):
    path = write_mosaic(tmp_path / 'm.vrt')
    source = RasterSource([path], ONE)
    reader = source.reader()
    break_tile(path, 'missing')

    def refused(_):
        with pytest.raises(ValueError, match='m0.tif.*--on-error skip'):
            reader.native(Window(32, 32, 64, 64))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(refused, range(40)))


@pytest.mark.parametrize('threads', [1, 4])
def test_just_these_pixels_are_no_data(broken, threads):
    """Though others are damaged in the meantime, and read at once."""
    source = RasterSource([broken], ONE, skip_damaged=True)
    reader = source.reader()

    def look(corner):
        top, left = corner
        pixels, valid = reader.native(Window(top, left, 40, 40))
        return corner, pixels[0].numpy(), valid.numpy()

    corners = [(top, left) for top in (0, 30, 60, 88)
               for left in (0, 30, 60, 88)] * 4
    expected = np.repeat(np.repeat([[np.nan, 51.], [52, 53]], 64, 0), 64, 1)
    with ThreadPoolExecutor(threads) as pool:
        for (top, left), pixels, valid in pool.map(look, corners):
            wanted = expected[top:top + 40, left:left + 40]
            np.testing.assert_array_equal(pixels, wanted)
            np.testing.assert_array_equal(valid, ~np.isnan(wanted))
        assert source.damage.regions == [Window(0, 0, 64, 64)]
        break_tile(broken, 'missing', 3)
        reader = source.reader()
        expected[64:, 64:] = np.nan
        for (top, left), pixels, _ in pool.map(look, corners):
            wanted = expected[top:top + 40, left:left + 40]
            np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize('size', [0.5, 2., 1.7])
def test_these_pixels_are_no_data_on_another_grid(broken, size):
    source = RasterSource([broken], ONE, pixel_size=size, skip_damaged=True)
    reader = source.reader()
    height, width = source.shape
    pixels, valid = reader.native(Window(0, 0, height, width))
    for _ in range(3):
        again = reader.native(Window(0, 0, height, width))
        np.testing.assert_array_equal(again[0], pixels)
    half = round(64 / size)
    assert not valid[:half, :half].any()
    far = half + round(2 / size) + 2  # neighbours are looked at
    assert valid[far:-1].all() and valid[:-1, far:-1].all()
    assert pixels[0][valid].min() >= 51  # no zeros come in
    assert pixels[0][valid].max() <= 53


def test_a_tile_that_is_mended_counts_again(broken, fault):
    for skip in (True, False):
        with nullcontext() if skip else pytest.raises(FileNotFoundError):
            RasterSource([broken], ONE, skip_damaged=skip).reader().native(
                Window(32, 32, 64, 64))
    write_mosaic(broken)
    for _ in range(10):
        source = RasterSource([broken], ONE)
        pixels, valid = source.reader().native(Window(32, 32, 64, 64))
        assert valid.all() and (pixels[0, :32, :32] == 50).all()


def test_a_mosaic_of_mosaics(broken):
    """The outer one shows the right half, and the inner one twice."""
    outer = broken.with_name('outer.vrt')
    outer.write_text(MOSAIC.format(''.join(
        SOURCE.format(name, left, top) for name, left, top in (
            ('m.vrt', 0, 0), ('m1.tif', 64, 0), ('m.vrt', 0, 64),
            ('m2.tif', 64, 64)))))
    source = RasterSource([outer], ONE, skip_damaged=True)
    for _ in range(2):
        pixels, valid = source.reader().native(Window(0, 0, 128, 128))
        assert not valid[:, :64].any()
        assert valid[:, 64:].all()
        assert (pixels[0, :64, 64:] == 51).all()
        assert (pixels[0, 64:, 64:] == 52).all()


@pytest.mark.parametrize('fault', ['missing'], indirect=True)
def test_functions_of_pixels_need_all_their_files(broken):
    broken.write_text(broken.read_text().replace(
        'band="1">', 'band="1" subClass="VRTDerivedRasterBand">'
        '<PixelFunctionType>sum</PixelFunctionType>'))
    source = RasterSource([broken], ONE, skip_damaged=True)
    assert source.damage.regions == [Window(0, 0, 128, 128)]
    assert not source.reader().native(Window(0, 0, 128, 128))[1].any()


@pytest.mark.parametrize('fault', ['missing'], indirect=True)
def test_a_mask_beside_it_would_be_lost(broken):
    broken.with_name('m.vrt.msk').touch()
    source = RasterSource([broken], ONE, skip_damaged=True)
    with pytest.raises(ValueError, match='m.vrt.*msk'):
        source.reader().native(Window(0, 0, 128, 128))


def test_the_map_is_that_of_a_hole(broken, cheap, tmp_path):
    """As of a file that has no data there; also what lies around it."""
    report = predict_raster(
        cheap((32, 32), (32, 32)), broken, tmp_path / 'out.tif',
        bands=(1, 1, 1), on_error='skip', preview=tmp_path / 'p.png')
    assert report.damaged == [Window(0, 0, 64, 64)]
    hole = tmp_path / 'hole.tif'
    with rasterio.open(
            hole, 'w', driver='GTiff', count=1, height=128, width=128,
            dtype='uint8', crs='EPSG:32648', nodata=0,
            transform=Affine(1, 0, 0, 0, -1, 128)) as raster:
        raster.write(np.repeat(np.repeat(
            np.uint8([[0, 51], [52, 53]]), 64, 0), 64, 1)[None])
    predict_raster(cheap((32, 32), (32, 32)), hole, tmp_path / 'same.tif',
                   bands=(1, 1, 1))
    with (rasterio.open(tmp_path / 'out.tif') as found,
          rasterio.open(tmp_path / 'same.tif') as wanted):
        classes = found.read(1)
        np.testing.assert_array_equal(classes, wanted.read(1))
    assert (classes[:64, :64] == 255).all()


def test_what_is_read_first_lies_elsewhere(another, tmp_path):
    """GDAL opens the only file of a raster then, and tells nobody."""
    path = write_mosaic(tmp_path / 'm.vrt', only=[3])
    break_tile(path, 'damaged', 3)
    with pytest.raises(FileNotFoundError, match='m3.tif'):
        RasterSource([path], ONE)
    source = RasterSource([path], ONE, skip_damaged=True)
    reader = source.reader()
    for corner in (0, 64):
        reader.native(Window(corner, corner, 64, 64))
    assert source.damage.regions == [Window(64, 64, 64, 64)]


@pytest.mark.parametrize('kind', ['missing', 'damaged', 'cut'])
def test_large_windows(tmp_path, kind):
    """GDAL would read them in threads, whose errors reach nobody."""
    tiles, side = '', 600
    for i in range(4):
        with rasterio.open(
                tmp_path / f't{i}.tif', 'w', driver='GTiff', count=1,
                height=side, width=side, dtype='uint8') as raster:
            raster.write(np.full((1, side, side), 50 + i, np.uint8))
        tiles += SOURCE.format(
            f't{i}.tif', i % 2 * side, i // 2 * side).replace(
                'Size="64"', f'Size="{side}"')
    path = tmp_path / 'm.vrt'
    path.write_text(MOSAIC.format(tiles).replace('"128"', '"1200"'))
    with rasterio.open(path) as raster:
        assert raster.read(1).min() == 50
    tile = tmp_path / 't1.tif'
    if kind == 'cut':
        tile.write_bytes(tile.read_bytes()[:100_000])
    else:
        break_tile(path.with_name('t.vrt'), kind, 1)
    with pytest.raises(ValueError, match='t1.tif'), \
            open_raster(path, whole=False) as raster:
        raster.read(1)
    source = RasterSource([path], ONE, skip_damaged=True)
    pixels, valid = source.reader().native(Window(0, 0, 1200, 1200))
    assert not valid[500:600, 600:].any()
    assert valid[640:].all()  # a cut tile goes by blocks of 128 rows
    assert pixels[0][valid].min() >= 50


def test_scores_of_a_damaged_prediction(another, tmp_path):
    truth = write_mosaic(tmp_path / 'truth.vrt')
    path = write_mosaic(tmp_path / 'p.vrt')
    break_tile(path, 'damaged')
    for _ in range(3):
        with pytest.raises(FileNotFoundError, match='p0.tif'):
            score_prediction(path, truth)
        with pytest.raises(FileNotFoundError, match='p0.tif'):
            write_polygons(path, tmp_path / 'out.gpkg', ['a'])


def test_a_warped_part_of_a_mosaic(broken, fault):
    """Where a hole lies in it nobody knows, so all of it is one."""
    tile = broken.with_name('m0.tif')
    break_it = tile.unlink if fault == 'missing' else partial(
        tile.write_bytes, b'none')
    write_mosaic(broken)
    warped = broken.with_name('w.vrt')
    with rasterio.open(broken) as raster, WarpedVRT(
            raster, crs=raster.crs, width=96, height=96,
            transform=Affine(1, 0, 32, 0, -1, 96)) as part:
        rasterio.shutil.copy(part, warped, driver='VRT')
    break_it()
    source = RasterSource([warped], ONE, skip_damaged=True)
    assert source.damage.regions == [Window(0, 0, 96, 96)]
    assert not source.reader().native(Window(0, 0, 96, 96))[1].any()


def test_a_link_to_a_mosaic(another, tmp_path):
    """Its files lie beside the mosaic, whatever lies beside the link."""
    path = write_mosaic(tmp_path / 'm.vrt')
    link = tmp_path / 'links/m.vrt'
    write_mosaic(link)
    for i in range(4):
        break_tile(link, 'damaged', i)
    link.unlink()
    link.symlink_to(path)
    for skip in (False, True):
        if skip:
            break_tile(path, 'damaged')
        source = RasterSource([link], ONE, skip_damaged=skip)
        pixels, valid = source.reader().native(Window(0, 0, 128, 128))
        assert valid[64:].all() and (pixels[0, 64:, 64:] == 53).all()
        assert bool(valid[:64, :64].any()) != skip


def test_what_else_a_mosaic_refers_to(broken):
    """Attributes in other letters, overviews that are gone, raw numbers."""
    broken.with_name('raw').write_bytes(bytes([9]) * 128**2)
    broken.write_text(broken.read_text().replace(
        'relativeToVRT', 'RelativeToVRT').replace(
        '</VRTRasterBand>', '<Overview><SourceFilename relativeToVRT="1">'
        'none.ovr</SourceFilename><SourceBand>1</SourceBand></Overview>'
        '</VRTRasterBand><VRTRasterBand dataType="Byte" band="2" '
        'subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="1">raw'
        '</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1'
        '</PixelOffset><LineOffset>128</LineOffset></VRTRasterBand>'))
    two = ModelBands(np.zeros((2, 1, 1)), np.ones((2, 1, 1)), (0., 0.))
    source = RasterSource([broken], two, skip_damaged=True)
    assert source.damage.regions == [Window(0, 0, 64, 64)]
    pixels, valid = source.reader().native(Window(0, 0, 128, 128))
    assert valid[64:].all() and (pixels[0, 64:, 64:] == 53).all()
    assert (pixels[1, 64:] == 9).all()


def test_a_cut_picture_in_a_mosaic_of_another_name(tmp_path):
    rng = np.random.default_rng(0)
    picture = tmp_path / 'm.png'
    Image.fromarray(rng.integers(1, 9, (64, 64), np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:1500])
    path = tmp_path / 'm.xml'
    path.write_text(MOSAIC.format(SOURCE.format('m.png', 0, 0)))
    for _ in range(2):
        with pytest.raises(ValueError, match='m.png'), \
                reused_raster(path) as raster:
            raster.read(1)


def test_handles_of_damaged_files_are_closed(tmp_path):
    path = write_mosaic(tmp_path / 'm.vrt', only=[0]).with_name('m0.tif')
    path.write_bytes(path.read_bytes()[:2000])
    before = len(opening._SPOILED)
    reader = RasterSource(
        [path], ONE, pixel_size=1.5, skip_damaged=True).reader()
    for top in range(0, 40, 4):
        reader.native(Window(top, 0, 4, 40))
    assert len(opening._SPOILED) == before


def test_indexes_of_tiles_are_refused(tmp_path):
    broken = write_mosaic(tmp_path / 'm.vrt')
    break_tile(broken, 'missing', 3)
    raw = pytest.importorskip('pyogrio.raw')
    shapely = pytest.importorskip('shapely')
    tiles = [str(broken.with_name(f'm{i}.tif')) for i in range(4)]
    index = broken.with_name('i.gti.gpkg')
    raw.write(index, shapely.to_wkb(np.array([
        shapely.box(x, y, x + 64, y + 64)
        for x, y in ((0, 64), (64, 64), (0, 0), (64, 0))])),
        [np.array(tiles, object)], ['location'], crs='EPSG:32648',
        geometry_type='Polygon', layer='index')
    with pytest.raises(ValueError, match='i.gti.gpkg.*gdalbuildvrt'), \
            open_raster(index):
        pass


def test_masks_of_all_tiles_or_of_none(tmp_path):
    path = write_mosaic(tmp_path / 'm.vrt')
    tiles = [path.with_name(f'm{i}.tif') for i in range(4)]
    assert len(mosaic_of(tiles).files) == 4
    with rasterio.open(tiles[2], 'r+') as raster:
        raster.write_mask(np.eye(TILE, dtype=bool))
    with pytest.raises(ValueError, match='m2.tif.*with a mask.*gdalwarp'):
        mosaic_of(tiles)
