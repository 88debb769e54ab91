"""Pictures of bands of any number and type."""
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmengine.dataset import Compose
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from rasterio.enums import ColorInterp

from relay_seg.class_ids import IGNORE, spread_colours
from relay_seg.datasets import steps_of
from relay_seg.drawing import MARGIN, as_rgb, legend, thumbnail
from relay_seg.hooks import WritePredictions
from relay_seg.inference.model import classes_of
from relay_seg.transforms import ReadScene

RAMP = np.linspace(0, 1, 400).reshape(20, 20)


def test_classes_without_colours_get_their_own():
    colours = spread_colours(IGNORE)
    assert len(set(colours)) == len(colours) == 255
    apart = np.abs(np.diff(colours, axis=0)).sum(1)
    assert apart.min() > 100
    model = SimpleNamespace(num_classes=4)
    assert list(classes_of(model).palette) == colours[:4]


def test_eight_bits_are_shown_as_they_are():
    image = (RAMP * 255).astype(np.uint8)[None].repeat(4, 0)
    for x in (image, image.astype(np.float32)):
        np.testing.assert_array_equal(as_rgb(x), image[:3].transpose(1, 2, 0))


@pytest.mark.parametrize('low, high', [(0, 1), (0, 2), (200, 9000), (-5, 5)])
def test_other_numbers_are_stretched(low, high):
    shown = as_rgb((low + RAMP * (high - low)).astype(np.float32)[None])
    assert shown.shape == (20, 20, 3)
    assert shown.min() == 0 and shown.max() == 255
    assert 120 < shown.mean() < 135


def test_each_band_is_stretched_by_itself():
    image = np.stack([RAMP, 1000 * RAMP, RAMP - 7]).astype(np.float32)
    shown = as_rgb(image)
    assert (shown == shown[..., :1]).all() and shown.max() == 255


def test_what_is_not_finite_is_black_and_stretches_nothing():
    image = (1000 + 8000 * RAMP).astype(np.float32)[None]
    image[:, 0] = np.inf
    image[:, 1] = -np.inf
    shown = as_rgb(image)
    assert (shown[:2] == 0).all() and shown[2].max() < 20
    assert shown[-1].max() == 255


def test_pictures_show_the_bands_that_are_asked_for(write_raster, tmp_path):
    image = np.arange(4, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(
        6, 2)
    path = write_raster(tmp_path / 'a.tif', image)
    assert (thumbnail(path) == (0, 1, 2)).all()
    assert (thumbnail(path, bands=[4, 3, 2, 1]) == (3, 2, 1)).all()
    ids = np.zeros((5, 6), np.uint8)
    sample = SegDataSample(
        metainfo=dict(img_path=str(path)),
        pred_sem_seg=PixelData(data=torch.from_numpy(ids)[None]))
    dataset = SimpleNamespace(
        metainfo=dict(palette=[(9, 9, 9)]),
        pipeline=Compose([ReadScene(num_bands=2, bands=[4, 2])]))
    hook = WritePredictions(pictures=tmp_path / 'pictures')
    hook._bands = {str(path): steps_of(dataset, 0)[0].bands}
    hook.after_test_iter(
        SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset)),
        0, outputs=[sample])
    picture = np.asarray(Image.open(tmp_path / 'pictures/a.png'))
    assert (picture[MARGIN:, :6] == 3).all()


def test_alpha_is_no_colour_and_hides(write_raster, tmp_path):
    image = np.full((2, 5, 6), 200, np.uint8)
    image[1] = np.arange(6) // 3 * 255
    path = write_raster(tmp_path / 'a.tif', image)
    with rasterio.open(path, 'r+') as raster:
        raster.colorinterp = ColorInterp.gray, ColorInterp.alpha
    assert (thumbnail(path)[0] == [[0] * 3] * 3 + [[200] * 3] * 3).all()


def test_no_data_is_black_and_stretches_nothing(write_raster, tmp_path):
    image = (1000 + 8000 * RAMP).astype(np.uint16)
    image[:10] = 0
    path = write_raster(tmp_path / 'a.tif', image)
    with rasterio.open(path, 'r+') as raster:
        raster.nodata = 0
    shown = thumbnail(path)
    assert (shown[:10] == 0).all()
    assert shown[10:].max() == 255 and shown[10].min() < 10
    assert (as_rgb(np.full((3, 4, 4), np.nan, np.float32)) == 0).all()


def test_legend_shows_each_colour_before_its_name():
    palette = [[200, 10, 10], [10, 200, 10]]
    drawn = np.asarray(legend(['house', 'tree'], palette, 300))
    for colour, half in zip(palette, (drawn[:, :150], drawn[:, 150:])):
        rows, columns = np.nonzero((half == colour).all(-1))
        assert len(rows) > 100 and columns.max() < 30
        assert (half[:, 30:] < 60).all(-1).any(), 'no name'
