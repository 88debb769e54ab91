"""Files of a virtual raster that GDAL cannot open: they are never zeros.

GDAL says so once. Afterwards it gives zeros, also for rasters that come to
lie at the same address of memory, while any other virtual raster is open.
"""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from relay_seg.inference import predict_raster
from relay_seg.inference.raster_source import ModelBands, RasterSource
from relay_seg.rasters import Handles, open_raster, raster_reader
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


def write_mosaic(path):
    """Tiles of 64 pixels, two by two, beside the virtual raster."""
    path.parent.mkdir(exist_ok=True)
    tiles = ''
    for i in range(4):
        name = f'{path.stem}{i}.tif'
        with rasterio.open(
                path.with_name(name), 'w', driver='GTiff', count=1,
                height=TILE, width=TILE, dtype='uint8', crs='EPSG:32648',
                transform=Affine.translation(0, 1)) as raster:
            raster.write(np.full((1, TILE, TILE), 50 + i, np.uint8))
        tiles += SOURCE.format(f'./{name}', i % 2 * TILE, i // 2 * TILE)
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


@pytest.mark.parametrize('fault', ['damaged'], indirect=True)
def test_scenes_to_train_on_say_it_every_time(broken):
    for _ in range(5):
        read = raster_reader(broken, bands=None, fill=[0.])
        for _ in range(4):
            with pytest.raises(ValueError, match='m0.tif'):
                read(Window(0, 0, 128, 128), 1)


@pytest.mark.parametrize('fault', ['damaged'], indirect=True)
def test_a_prediction_says_it_every_time(broken):
    source = RasterSource([broken], ONE)
    reader = source.reader()

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
        assert source.damaged == [Window(0, 0, 64, 64)]
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
        if fault == 'damaged' or skip:
            reader = RasterSource(
                [broken], ONE, skip_damaged=skip).reader()
            try:
                reader.native(Window(32, 32, 64, 64))
            except ValueError:
                assert not skip
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
    assert source.damaged == [Window(0, 0, 128, 128)]
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
