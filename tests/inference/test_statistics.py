"""Outputs say what their numbers are, so that GIS shows them."""
import numpy as np
import pytest
import rasterio

from relay_seg.inference import predict_raster


@pytest.mark.parametrize('kind', ['uint8', 'float16'])
def test_statistics_are_those_of_the_pixels(
        cheap, scene_file, noise, tmp_path, kind):
    image = noise(300, 280)
    image[:, :20] = 0  # no data
    scene = scene_file(tmp_path / 'scene.tif', image, nodata=0)
    predict_raster(cheap(), scene, tmp_path / 'out.tif',
                   probabilities=kind)
    for name in ('out.tif', 'out_probabilities.tif'):
        with rasterio.open(tmp_path / name) as raster:
            for band in raster.indexes:
                values = raster.read(band, masked=True).compressed().astype(
                    np.float64)
                found = {key.removeprefix('STATISTICS_'): float(value)
                         for key, value in raster.tags(band).items()
                         if key.startswith('STATISTICS_')}
                assert found == pytest.approx(dict(
                    MINIMUM=values.min(), MAXIMUM=values.max(),
                    MEAN=values.mean(), STDDEV=values.std(),
                    VALID_PERCENT=100 * 280 / 300), rel=1e-9)


def test_nothing_is_said_of_no_data(cheap, scene_file, noise, tmp_path):
    scene = scene_file(tmp_path / 'scene.tif', 0 * noise(32, 32), nodata=0)
    predict_raster(cheap(), scene, tmp_path / 'out.tif')
    with rasterio.open(tmp_path / 'out.tif') as raster:
        assert not raster.tags(1)
