"""Scans that say how many micrometres a pixel has."""
import numpy as np
import pytest
import rasterio
from mmengine.logging import MMLogger
from PIL import Image

from relay_seg.inference import predict_raster
from relay_seg.inference.settings import Settings
from relay_seg.rasters import open_raster
from relay_seg.rasters.physical import physical_pixel

OME = '<OME><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" {}/></OME>'


@pytest.fixture
def scan(tmp_path, noise):
    """``scan(pages=(), size=(64, 96), **tags)``: a TIFF without a place."""

    def write(pages=(), size=(64, 96), resolution=None, unit=3, text=None):
        path = tmp_path / 'scan.tif'
        images = [Image.fromarray(noise(*shape).transpose(1, 2, 0))
                  for shape in (size, *pages)]
        tags = {} if resolution is None else dict(
            resolution_unit=unit, x_resolution=resolution,
            y_resolution=resolution)
        images[0].save(path, save_all=True, append_images=images[1:],
                       tiffinfo={270: text} if text else {}, **tags)
        return path

    return write


@pytest.mark.parametrize('facts, size', [
    (dict(resolution=40000.), 0.25e-6),
    (dict(resolution=101600., unit=2), 0.25e-6),
    (dict(resolution=300., unit=2), None),  # for printers
    (dict(resolution=72., unit=2, text='Aperio Image|MPP = 0.2525|X'),
     0.2525e-6),
    (dict(text=OME.format('PhysicalSizeY="0.25"')), 0.25e-6),
    (dict(text=OME.format('')), None),
    ({}, None)])
def test_size_of_a_pixel(scan, facts, size):
    with open_raster(scan(**facts)) as raster:
        assert physical_pixel(raster) == pytest.approx(size)


def test_prediction_at_another_size(scan, cheap, tmp_path):
    path, out = scan(resolution=40000.), tmp_path / 'out.tif'
    predict_raster(cheap(), path, out, pixel_size='0.5um')
    with rasterio.open(path) as raster:
        image = raster.read().astype(np.float64)
    coarse = image.reshape(3, 32, 2, 48, 2).mean((2, 4))
    half = tmp_path / 'half.tif'
    with rasterio.open(half, 'w', driver='GTiff', count=3, height=32,
                       width=48, dtype='uint8') as raster:
        raster.write((coarse + 0.5).astype(np.uint8))
    predict_raster(cheap(), half, tmp_path / 'half_out.tif')
    with rasterio.open(out) as a, rasterio.open(
            tmp_path / 'half_out.tif') as b:
        assert a.shape == (32, 48) and a.crs is None
        assert (a.read(1) == b.read(1)).mean() > 0.98  # roundings


@pytest.mark.parametrize('size, facts, text', [
    (0.5, dict(resolution=40000.), 'scan.tif.*0.25 micrometres.*0.5um'),
    ('0.5um', dict(resolution=72., unit=2), 'scan.tif.*leave it out'),
    (0.5, {}, 'scan.tif.*leave it out')])
def test_unit_must_be_the_one_of_the_file(scan, cheap, tmp_path, size, facts,
                                          text):
    with pytest.raises(ValueError, match=text):
        predict_raster(cheap(), scan(**facts), tmp_path / 'out.tif',
                       pixel_size=size)


def test_micrometres_are_no_unit_of_a_crs(scene_file, noise, cheap, tmp_path):
    path = scene_file(tmp_path / 'scene.tif', noise(32, 32))
    with pytest.raises(ValueError, match='scene.tif.*without um'):
        predict_raster(cheap(), path, tmp_path / 'out.tif', pixel_size='1um')


@pytest.mark.parametrize('text', ['half', '0.5mm', '0um', '-1'])
def test_no_length(text):
    with pytest.raises(ValueError, match='no length|above zero'):
        Settings(pixel_size=text)


def test_pixels_of_another_size_are_warned_of(scan, cheap, tmp_path, caplog):
    MMLogger.get_current_instance().addHandler(caplog.handler)
    model = cheap()
    model.dataset_meta = dict(pixel_size=1e-6, classes=[*'abcd'])
    predict_raster(model, scan(resolution=40000.), tmp_path / 'out.tif')
    MMLogger.get_current_instance().removeHandler(caplog.handler)
    assert '--pixel-size 1um' in caplog.text


def test_pages_of_a_pyramid_are_levels_of_the_first(scan):
    with open_raster(scan(pages=[(32, 48), (16, 24)])) as raster:
        assert raster.shape == (64, 96)
    with pytest.raises(ValueError, match='3 pages.*gdal_translate'), \
            open_raster(scan(pages=[(32, 48), (30, 24)])):
        pass
    with pytest.raises(ValueError, match='2 pages'), \
            open_raster(scan(pages=[(64, 96)])):
        pass
    with open_raster(scan(pages=[(10, 10)],
                          text='Aperio Image|MPP = 0.5')) as raster:
        assert raster.shape == (64, 96)
