"""Regions of files: overviews, edges, no data, handles of each process."""
import os
import warnings
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relay_seg.converting.writing import write_image
from relay_seg.rasters import files_of, raster_reader, reused_raster
from relay_seg.views import Window, reader

FILL = (100., 110., 120.)
warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """Files of the converters, of sides that no factor divides."""
    folder = tmp_path_factory.mktemp('converted')
    rng = np.random.default_rng(0)
    images = dict(
        uint8=rng.integers(0, 256, (3, 203, 309), np.uint8),
        float32=rng.normal(0, 9, (3, 203, 309)).astype(np.float32))
    for name, image in images.items():
        write_image(folder / f'{name}.tif', image)
    return {name: (folder / f'{name}.tif', image)
            for name, image in images.items()}


@given(factor=st.sampled_from([2, 4, 8, 16]), top=st.integers(-10, 30),
       left=st.integers(-10, 40), height=st.integers(1, 12),
       width=st.integers(1, 12), kind=st.sampled_from(['uint8', 'float32']))
@example(factor=2, top=95, left=150, height=12, width=12, kind='float32')
@example(factor=4, top=45, left=70, height=12, width=12, kind='float32')
@example(factor=8, top=20, left=30, height=12, width=12, kind='float32')
@example(factor=16, top=5, left=12, height=12, width=12, kind='uint8')
def test_reading_through_overviews_is_the_exact_area_mean(
        converted, factor, top, left, height, width, kind):
    path, image = converted[kind]
    region = Window(*(factor * x for x in (top, left, height, width)))
    ours = raster_reader(path, bands=None, fill=FILL)(region, factor)
    exact = reader(image.astype(np.float32), FILL)(region, factor)
    # An overview of integers is rounded to integers.
    np.testing.assert_allclose(
        ours, exact, rtol=1e-5, atol=0.5001 if kind == 'uint8' else 1e-4)


def test_overviews_are_what_is_read(converted, monkeypatch):
    """Not only equal: an overview of factor 4 holds a 16th of the pixels."""
    path, _ = converted['uint8']
    seen = []
    monkeypatch.setattr(
        'relay_seg.rasters.reading.read_data',
        lambda raster, region, *rest: seen.append(region) or np.zeros(
            (3, *region[2:4]), np.float32))
    raster_reader(path, bands=None, fill=FILL)(Window(8, 8, 64, 64), 4)
    raster_reader(path, bands=None, fill=FILL)(Window(9, 8, 64, 64), 4)
    assert seen == [Window(2, 2, 16, 16), Window(9, 8, 64, 64)]


@pytest.mark.parametrize('how', ('nearest', 'cubic', 'average'))
def test_overviews_of_others_are_not_looked_at(tmp_path, write_raster, how):
    """Nothing says what they hold."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 192, 192), np.uint8)
    path = write_raster(tmp_path / 'a.tif', image)
    with rasterio.open(path, 'r+') as raster:
        raster.build_overviews([4], rasterio.enums.Resampling[how])
    region = Window(16, 32, 128, 128)
    ours = raster_reader(path, bands=None, fill=FILL)(region, 4)
    exact = reader(image.astype(np.float32), FILL)(region, 4)
    np.testing.assert_array_equal(ours, exact)


@pytest.mark.parametrize('nodata, dtype', [
    (0, np.uint8), (-9999., np.float32), (np.nan, np.float32)])
def test_no_data_never_counts(tmp_path, nodata, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 200, (3, 64, 96)).astype(dtype)
    hole = rng.random((64, 96)) < 0.3
    hole[:8, :8] = True
    image[:, hole] = nodata
    path = tmp_path / 'a.tif'
    with rasterio.open(path, 'w', driver='GTiff', count=3, height=64,
                       width=96, dtype=dtype, nodata=nodata) as raster:
        raster.write(image)
    read = raster_reader(path, bands=None, fill=FILL)
    native = read(Window(0, 0, 64, 96), 1)
    assert np.isnan(native[:, hole]).all()
    np.testing.assert_array_equal(native[:, ~hole], image[:, ~hole])
    reduced = read(Window(0, 0, 64, 96), 8)
    blocks = native.reshape(3, 8, 8, 12, 8)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        expected = np.nanmean(blocks, axis=(2, 4))
    assert np.isnan(reduced[:, 0, 0]).all()
    np.testing.assert_allclose(reduced, expected, rtol=1e-5)


def test_a_file_stays_open_until_it_changes(converted, tmp_path):
    path, image = converted['uint8']
    copy = tmp_path / 'copy.tif'
    write_image(copy, image)
    with reused_raster(copy) as first, reused_raster(copy) as second:
        assert first is second
    write_image(copy, 255 - image)
    read = raster_reader(copy, bands=None, fill=FILL)
    np.testing.assert_array_equal(
        read(Window(0, 0, 9, 9), 1), (255 - image)[:, :9, :9])


def _handle(path, _):
    """What a worker reads, and whether its handle is its own."""
    with reused_raster(path) as raster:
        pixels = raster.read(1)
    return os.getpid(), int(pixels.astype(np.int64).sum())


class Reads(torch.utils.data.Dataset):

    def __init__(self, path):
        self.read = partial(_handle, path)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.read(i)


@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_workers_read_alike_however_they_start(converted, start):
    path, image = converted['uint8']
    with reused_raster(path):  # open here before the workers start
        pass
    loader = torch.utils.data.DataLoader(
        Reads(str(path)), num_workers=2, multiprocessing_context=start)
    found = list(loader)
    assert {total.item() for _, total in found} == {int(image[0].sum())}
    assert len({pid.item() for pid, _ in found}) == 2


def test_files_are_listed_once_until_something_changes(tmp_path, monkeypatch):
    """A mosaic of thousands is asked for several times in a run."""
    opened = []
    tile = tmp_path / 'tiles' / 'a.tif'
    tile.parent.mkdir()
    write_image(tile, np.zeros((1, 8, 8), np.uint8))
    whole = rasterio.open
    monkeypatch.setattr(rasterio, 'open', lambda *args, **kwargs: (
        opened.append(args), whole(*args, **kwargs))[1])
    assert files_of(tile) == files_of(tile) == (tile, )
    assert len(opened) == 1
    beside = tile.with_name('a.tif.aux.xml')
    beside.write_text('<PAMDataset></PAMDataset>')
    assert set(files_of(tile)) == {tile, beside}
