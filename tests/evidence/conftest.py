"""The experiments' modules, and Carrot-Weed's raw folder in small."""
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EVIDENCE = Path(__file__).parents[2] / 'benchmarks/evidence'
sys.path[:0] = [str(EVIDENCE), str(EVIDENCE.parent)]


@pytest.fixture(scope='session')
def raw_carrots(tmp_path_factory):
    """39 photographs as JPEG with masks as PNG, 576 x 640 pixels."""
    from tasks import SHOTS
    raw = tmp_path_factory.mktemp('carrots')
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (raw / folder).mkdir()
    for name in SHOTS:
        mask = np.kron(rng.integers(0, 3, (18, 20)), np.ones((32, 32)))
        image = rng.normal(60 + 60 * mask[..., None], 10, (*mask.shape, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            raw / f'images/{name}.jpg')
        Image.fromarray(mask.astype(np.uint8)).save(
            raw / f'masks/{name}.png')
    return raw


@pytest.fixture(scope='session')
def carrots(raw_carrots, tmp_path_factory):
    from tasks import prepare
    return prepare('carrot_weed', raw_carrots,
                   tmp_path_factory.mktemp('prepared'), 2)
