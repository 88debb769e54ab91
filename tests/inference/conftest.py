"""Small scenes, and models of which a prediction takes milliseconds."""
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from cheap_model import CheapEncoderDecoder

PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 1_500_000)


@pytest.fixture(scope='session')
def cheap():
    """``cheap(size=(16, 16), stride=(8, 8), blend='mean', ...)``"""

    def build(size=(16, 16), stride=(8, 8), blend='gaussian', batch_size=3,
              input_size=None, **settings):
        test_cfg = dict(mode='slide', crop_size=size, stride=stride,
                        blend=blend, batch_size=batch_size,
                        input_size=input_size)
        return CheapEncoderDecoder(test_cfg=test_cfg, **settings)

    return build


@pytest.fixture
def scene_file():
    """``scene_file(path, image, nodata=None, ...)``: a georeferenced tif."""

    def write(path, image, nodata=None, crs='EPSG:32648', transform=PLACE,
              overviews=(), **options):
        options = dict(tiled=True, blockxsize=32, blockysize=32) | options
        with rasterio.open(
                path, 'w', driver='GTiff', count=len(image),
                height=image.shape[1], width=image.shape[2],
                dtype=image.dtype, nodata=nodata, crs=crs,
                transform=transform, **options) as raster:
            raster.write(image)
        if overviews:
            with rasterio.open(path, 'r+') as raster:
                raster.build_overviews(
                    overviews, rasterio.enums.Resampling.average)
        return path

    return write


VRT = '<VRTDataset rasterXSize="48" rasterYSize="48">{}</VRTDataset>'
BAND = ('<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{1}</SourceFilename>'
        '<SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>')


@pytest.fixture(scope='session')
def write_vrt():
    """``write_vrt(path, source)``: three bands of 48 x 48 pixels."""

    def write(path, source):
        path.write_text(VRT.format(''.join(
            BAND.format(i, source) for i in (1, 2, 3))))
        return path

    return write


@pytest.fixture
def place():
    """Transform of the scenes: pixels of half a metre."""
    return PLACE


@pytest.fixture
def noise():
    """``noise(height, width, bands=3)``: smooth enough to have regions."""

    def draw(height, width, bands=3, dtype=np.uint8):
        rng = np.random.default_rng(height * 1000 + width)
        coarse = rng.integers(20, 236, (
            bands, -(-height // 8), -(-width // 8)))
        image = np.kron(coarse, np.ones((1, 8, 8)))[:, :height, :width]
        image += rng.normal(0, 6, image.shape)
        return image.clip(1, 255).astype(dtype)

    return draw


@pytest.fixture(scope='session')
def in_memory():
    """``in_memory(model, image, nodata)``: classes and probabilities of the
    model's own slide inference."""
    return _in_memory


def _in_memory(model, image, nodata=None):
    pixels = torch.from_numpy(image.astype(np.float32))
    if nodata is not None:
        pixels[pixels == nodata] = torch.nan
    data = dict(inputs=[pixels], data_samples=None)
    inputs = model.data_preprocessor(data)['inputs']
    with torch.no_grad():
        logits = model.slide_inference(inputs, [{}])[0]
    classes = logits.argmax(0).numpy().astype(np.uint8)
    chances = logits.softmax(0).numpy()
    empty = pixels.isnan().all(0).numpy()
    classes[empty] = 255
    chances[:, empty] = np.nan
    return classes, chances
