"""Many rasters side by side as one."""
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags

from relay_seg.rasters import Grid, Mosaic, grid_of, mosaic_of, open_raster
from relay_seg.views import Window

PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 1_500_000)


def write(path, pixels, top=0, left=0, crs='EPSG:32648', place=PLACE,
          nodata=None):
    with rasterio.open(
            path, 'w', driver='GTiff', count=len(pixels), dtype=pixels.dtype,
            height=pixels.shape[1], width=pixels.shape[2], crs=crs,
            transform=place @ Affine.translation(left, top),
            nodata=nodata) as raster:
        raster.write(pixels)
    return path


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(
        1, 255, (2, 90, 120), dtype=np.uint8)


@pytest.fixture
def tiles(image, tmp_path):
    """Five tiles of unlike sizes; the lower right corner is missing."""
    places = [(0, 0, 40, 50), (0, 50, 40, 70), (40, 0, 50, 30),
              (40, 30, 20, 90), (60, 30, 30, 40)]
    return {write(tmp_path / f'{i}.tif', image[:, t:t + h, x:x + w], t, x):
            Window(t, x, h, w) for i, (t, x, h, w) in enumerate(places)}


@pytest.fixture
def expected(image):
    out = image.copy()
    out[:, 60:, 70:] = 0
    return out


def test_tiles_find_their_places(tiles, expected, tmp_path):
    paths = list(tiles)
    mosaic = mosaic_of(paths[::-1])
    assert mosaic.files == tiles
    assert mosaic.grid.shape == (90, 120)
    mosaic.write_vrt(tmp_path / 'all.vrt')
    with open_raster(tmp_path / 'all.vrt') as raster:
        np.testing.assert_array_equal(raster.read(), expected)
        assert grid_of(raster) == mosaic.grid
        assert raster.crs.to_epsg() == 32648


@pytest.mark.parametrize('kind', ['nothing', 'alpha', 'nodata', 'one band'])
def test_between_tiles_is_no_data(tiles, expected, tmp_path, kind):
    """Numbers of 0 and what is marked as alpha stay data in tiles."""
    for path in tiles:
        with rasterio.open(path, 'r+') as raster:
            raster.write(raster.read() * np.uint8(kind != 'alpha'))
            if kind == 'alpha':
                raster.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
            if kind == 'nodata':
                raster.nodata = 0
    paths = list(tiles)
    if kind == 'one band':
        paths = [path.with_suffix('.vrt') for path in tiles]
        for path, virtual in zip(tiles, paths):
            rasterio.shutil.copy(path, virtual, driver='VRT')
            virtual.write_text(virtual.read_text().replace(
                '<ColorInterp>', '<NoDataValue>7</NoDataValue><ColorInterp>',
                1))
    mosaic = mosaic_of(paths)
    assert mosaic.has_gaps and not mosaic_of(paths[:2]).has_gaps
    for count, gap in (5, True), (2, False):
        mosaic_of(paths[:count]).write_vrt(tmp_path / 'all.vrt')
        with rasterio.open(tmp_path / 'all.vrt') as raster:
            masked = MaskFlags.per_dataset in raster.mask_flag_enums[1]
            assert masked == (gap and kind != 'nodata')
            if gap:
                np.testing.assert_array_equal(
                    raster.read_masks(2) > 0, expected[1] > 0)


def test_a_mosaic_may_be_moved(tiles, expected, tmp_path):
    folder = tmp_path / 'a'
    folder.mkdir()
    mosaic_of(list(tiles)).write_vrt(folder / 'all.vrt')
    moved = tmp_path.with_name(tmp_path.name + '_moved')
    tmp_path.rename(moved)
    with open_raster(moved / 'a/all.vrt') as raster:
        np.testing.assert_array_equal(raster.read(), expected)


@pytest.mark.parametrize('region', [
    (0, 0, 90, 120), (10, 10, 5, 5), (35, 20, 40, 60), (70, 80, 10, 10),
    (39, 49, 2, 2)])
def test_any_region_is_read(tiles, expected, region):
    mosaic = Mosaic(tiles, Grid(90, 120), 0)
    top, left, height, width = region
    np.testing.assert_array_equal(
        mosaic.read(Window(*region), 2, 'uint8'),
        expected[:, top:top + height, left:left + width])


def test_a_file_that_cannot_be_read_is_named(tiles):
    path = list(tiles)[3]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match=f'{path.name}') as error:
        Mosaic(tiles, Grid(90, 120), 0).read(
            Window(0, 0, 90, 120), 2, 'uint8')
    assert error.value.filename == str(path)


@pytest.mark.parametrize('odd', [
    dict(crs='EPSG:32647'), dict(place=PLACE @ Affine.scale(2)),
    dict(place=PLACE @ Affine.translation(0.4, 0)), dict(nodata=0),
    dict(place=PLACE @ Affine.rotation(5))])
def test_tiles_of_another_kind_are_refused(tiles, image, tmp_path, odd):
    other = write(tmp_path / 'other.tif', image[:, :8, :8], **odd)
    with pytest.raises(ValueError, match=r'other\.tif.*gdalwarp'):
        mosaic_of([*tiles, other])


def test_tiles_without_a_place_are_refused(image, tmp_path):
    path = write(tmp_path / 'a.tif', image, place=Affine.identity())
    with pytest.raises(ValueError, match=r'a\.tif.*transform'):
        mosaic_of([path])
