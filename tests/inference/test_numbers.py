"""Numbers that are none: in a scene no data, in a model an error."""
import numpy as np
import pytest
import rasterio
import torch

from relay_seg.inference import predict_array, predict_raster


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(1)


def test_infinite_pixels_are_no_data(cheap, noise, scene_file, tmp_path):
    """Others are segmented as if there was NaN."""
    image = noise(60, 60).astype(np.float32)
    found = {}
    for name, value in (('nan', np.nan), ('inf', np.inf), ('low', -3e38)):
        image[:, 20:24, 30:33] = value
        out = tmp_path / f'{name}_out.tif'
        predict_raster(
            cheap(), scene_file(tmp_path / f'{name}.tif', image), out)
        found[name] = read(out)
        np.testing.assert_array_equal(
            found[name], predict_array(cheap(), image).classes)
    assert (found['nan'] == 255).sum() == 12
    for name in 'inf', 'low':
        np.testing.assert_array_equal(found[name], found['nan'])


@pytest.mark.parametrize('value', (np.nan, np.inf))
def test_logits_that_are_no_numbers_stop_a_prediction(
        cheap, noise, scene_file, tmp_path, value):
    model = cheap()
    with torch.no_grad():
        model.mix[1, 2] = value
    scene = scene_file(tmp_path / 'scene.tif', noise(60, 60))
    out = tmp_path / 'out.tif'
    for _ in range(2):  # nothing is kept that the second run would take over
        with pytest.raises(ValueError, match='scene.tif.*no finite.*weights'):
            predict_raster(model, scene, out)
    assert not out.exists()
    with pytest.raises(ValueError, match='array.*no finite'):
        predict_array(model, noise(60, 60))
