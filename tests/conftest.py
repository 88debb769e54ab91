"""Tiny scenes on disk, and the same random numbers for every test."""
import copy
import gc
import os
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import settings
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from rasterio.errors import NotGeoreferencedWarning
from yapf.yapflib import yapf_api

import relay_seg.registered  # noqa: F401

CLASSES = 5
CONFIGS = str(Path(__file__).parents[1] / 'configs')
SHAPE = 150, 170
DRIVERS = {'.tif': 'GTiff', '.png': 'PNG', '.jpg': 'JPEG'}
TILES = dict(tiled=True, blockxsize=64, blockysize=64)

torch.set_num_threads(1)
# The host lays out a run's config eight times, half of the time of a short
# training; it means the same without.
yapf_api.FormatCode = lambda text, **style: (text, True)
# Configs of this project are parsed once; nothing changes them.
PARSED, parse_config = {}, Config._file2dict


def _parse_once(filename, *options, **named):
    filename = os.path.abspath(filename)
    if not filename.startswith(CONFIGS):
        return parse_config(filename, *options, **named)
    key = filename, *options, *named.items()
    if key not in PARSED:
        PARSED[key] = parse_config(filename, *options, **named)
    return copy.deepcopy(PARSED[key])


Config._file2dict = staticmethod(_parse_once)
settings.register_profile(
    'relay', max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile('relay')


def pytest_collection_finish():
    """What is imported by now stays, so nobody needs to look through it.

    The host collects garbage for each dataset, a quarter of a second of
    which went into modules.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same numbers, whatever ran before it.

    Commands that it runs in this process may answer SIGTERM in their way.
    The host remembers loggers by the second in which a run began, and with
    them all that a run held.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    for kind in (MMLogger, MessageHub, Visualizer, SegLocalVisualizer):
        kind._instance_dict.clear()


def _write_raster(path, image):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.asarray(image)
    image = image[None] if image.ndim == 2 else image
    count, height, width = image.shape
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
                path, 'w', driver=DRIVERS[path.suffix], count=count,
                height=height, width=width, dtype=image.dtype,
                **(TILES if path.suffix == '.tif' else {})) as raster:
            raster.write(image)
    return path


def _make_scene(folder, split, name, image=None, label=None, suffix='.tif'):
    rng = np.random.default_rng(sum(map(ord, split + name)))
    if label is None:
        coarse = rng.integers(0, CLASSES, [-(-side // 10) for side in SHAPE])
        label = np.kron(coarse, np.ones((10, 10)))[:SHAPE[0], :SHAPE[1]]
        label = label.astype(np.uint8)
        label[:12, :20] = 255
    if image is None:
        image = rng.normal(0, 12, (3, *label.shape))
        colour = np.where(label == 255, CLASSES, label).astype(int)
        colour = 30 + 40 * colour
        image += np.stack([colour, 255 - colour, colour[::-1]])
        image = image.clip(0, 255).astype(np.uint8)
    image_path = _write_raster(
        Path(folder) / 'img_dir' / split / (name + suffix), image)
    label_path = _write_raster(
        Path(folder) / 'ann_dir' / split / (name + '.tif'), label)
    return image_path, label_path


@pytest.fixture
def write_raster():
    """``write_raster(path, image)``: (C, H, W) or (H, W), tiled if a tif.

    The suffix chooses the format: .tif, .png or .jpg. Returns the path.
    """
    return _write_raster


@pytest.fixture
def make_scene():
    """``make_scene(folder, split, name, image, label, suffix)``.

    Writes one scene in MMSeg's layout and returns the paths of image and
    label. Without image and label: 150 x 170 pixels, 3 bands whose colours
    follow the 5 classes, a corner of the label ignored. The label is a .tif.
    """
    return _make_scene


@pytest.fixture
def scenes(tmp_path):
    """A data_root of tiled tifs: img_dir and ann_dir of train, val, test.

    Two scenes in each split, 'a' and 'b', as :func:`make_scene` makes them.
    """
    for split in ('train', 'val', 'test'):
        for name in 'ab':
            _make_scene(tmp_path, split, name)
    return tmp_path


@pytest.fixture(scope='module')
def module_scenes(tmp_path_factory):
    """As ``scenes``, for tests that only read them."""
    folder = tmp_path_factory.mktemp('scenes')
    for split in ('train', 'val', 'test'):
        for name in 'ab':
            _make_scene(folder, split, name)
    return folder
