import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from relay_seg.converting.reducing import area_means, nearest
from relay_seg.converting.writing import (
    JPEG,
    RasterWriter,
    write_image,
    write_label,
)
from relay_seg.rasters import Grid
from relay_seg.rasters.writing import colour_table, strips


def exact_means(image, k, nodata=None):
    """Means over k x k pixels, cell by cell, in float64."""
    bands, height, width = image.shape
    means = np.empty((bands, -(-height // k), -(-width // k)))
    for b, i, j in np.ndindex(means.shape):
        cell = image[b, i * k:i * k + k, j * k:j * k + k].astype(np.float64)
        if nodata is not None:
            cell = cell[~np.isnan(cell) if np.isnan(nodata)
                        else cell != nodata]
        means[b, i, j] = cell.mean() if cell.size else nodata
    return means


def write(path, image, grid=None, **options):
    count, height, width = image.shape
    with RasterWriter(path, grid or Grid(height, width), count,
                      image.dtype.name, **options) as writer:
        for top, rows in strips(height):
            writer.write(image[:, top:top + rows])
        writer.finish()
        writer.publish()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70),
       st.sampled_from(['uint8', 'uint16', 'int16', 'float32']),
       st.booleans(), st.integers(0, 99))
def test_area_means_are_exact(height, width, dtype, has_nodata, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 5, (2, height, width)).astype(dtype)
    nodata = None
    if has_nodata:
        nodata = np.nan if dtype == 'float32' else 4
        image[rng.random(image.shape) < 0.7] = nodata
    for k, found in zip((2, 4, 8, 16),
                        area_means(image, (2, 4, 8, 16), nodata)):
        expected = exact_means(image, k, nodata)
        assert found.dtype == image.dtype
        if dtype == 'float32':
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        else:
            # Half up; one more where the mean would mean nothing.
            np.testing.assert_allclose(found, expected, atol=0.5)


def test_a_mean_is_not_mistaken_for_nodata():
    image = np.array([[[100, 102], [0, 0]]], dtype=np.uint8)
    (mean, ) = area_means(image, [2], nodata=101)
    assert mean != 101
    (mean, ) = area_means(np.array([[[255, 255]]], np.uint8), [2], nodata=255)
    assert mean == 255


def test_nearest_never_mixes_classes():
    label = np.random.default_rng(0).choice([0, 7, 255], (1, 37, 53))
    for k, found in zip((2, 4, 8, 16), nearest(label, (2, 4, 8, 16))):
        assert found.shape == (1, -(-37 // k), -(-53 // k))
        assert set(np.unique(found)) <= {0, 7, 255}


@pytest.mark.parametrize('dtype, nodata', [
    ('uint8', None), ('uint8', 0), ('float32', float('nan'))])
def test_file_keeps_pixels_and_exact_overviews(tmp_path, dtype, nodata):
    # More than a row of tiles, and no multiple of any factor.
    image = np.random.default_rng(0).integers(
        0, 256, (2, 275, 139)).astype(dtype)
    if nodata is not None:
        image[:, 100:270, 50:120] = nodata
    write(tmp_path / 'a.tif', image, nodata=nodata)
    with rasterio.open(tmp_path / 'a.tif') as raster:
        np.testing.assert_array_equal(raster.read(), image)
        assert raster.profile['tiled'] and raster.profile['blockxsize'] == 256
        np.testing.assert_equal(raster.nodata, nodata)
        assert raster.tags(ns='IMAGE_STRUCTURE')['COMPRESSION'] == 'ZSTD'
    for level, k in enumerate((2, 4, 8, 16)):
        with rasterio.open(tmp_path / 'a.tif', overview_level=level) as view:
            found = view.read()
        expected = exact_means(image, k, nodata)
        tolerance = 1e-3 if dtype == 'float32' else 0.5
        if nodata == 0:
            tolerance = 1.
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_georeferencing_round_trip(tmp_path):
    place = Affine(0.5, 0.001, 400000.123456789, -0.001, -0.5, 1500000.98765)
    grid = Grid(30, 50, CRS.from_epsg(32648), place)
    write(tmp_path / 'a.tif', np.zeros((1, 30, 50), np.uint8), grid)
    with rasterio.open(tmp_path / 'a.tif') as raster:
        assert raster.crs == grid.crs
        np.testing.assert_allclose(
            raster.transform, place, rtol=0, atol=1e-9)
        back = raster.transform @ (17, 23)
    np.testing.assert_allclose(back, place @ (17, 23), rtol=0, atol=1e-9)


def test_label_has_colours_and_values_of_its_own(tmp_path):
    label = np.random.default_rng(0).choice([0, 1, 255], (270, 300))
    label = label.astype(np.uint8)
    write_label(tmp_path / 'a.tif', label, [[1, 2, 3], [4, 5, 6]])
    with rasterio.open(tmp_path / 'a.tif') as raster:
        np.testing.assert_array_equal(raster.read(1), label)
        assert raster.colormap(1)[1] == (4, 5, 6, 255)
        assert raster.colormap(1)[255] == (0, 0, 0, 255)
    with rasterio.open(tmp_path / 'a.tif', overview_level=1) as raster:
        assert set(np.unique(raster.read(1))) <= {0, 1, 255}
    assert colour_table([[1, 2, 3]]) == {0: (1, 2, 3, 255)}


def test_sample_may_be_lossy(tmp_path):
    image = np.full((3, 300, 300), 99, np.uint8)
    write_image(tmp_path / 'a.tif', image, **JPEG)
    with rasterio.open(tmp_path / 'a.tif') as raster:
        assert raster.compression.value == 'JPEG'
        assert np.abs(raster.read().astype(int) - 99).max() <= 2


def test_nothing_is_left_without_publishing(tmp_path):
    with RasterWriter(tmp_path / 'a.tif', Grid(9, 9), 1, 'uint8') as writer:
        writer.write(np.zeros((1, 9, 9), np.uint8))
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_what_reads_back_otherwise_is_refused(tmp_path):
    with pytest.raises(OSError, match='reads back otherwise'), RasterWriter(
            tmp_path / 'a.tif', Grid(300, 9), 1, 'uint8') as writer:
        writer.write(np.ones((1, 256, 9), np.uint8))
        writer._levels[0].crc += 1
        writer.finish()
    assert list(tmp_path.iterdir()) == []
