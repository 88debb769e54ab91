"""Generated raw folders convert, and show what their labels say."""
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from mmseg.registry import DATASETS

from relay_seg.config import load_config
from relay_seg.evaluation.published import PUBLISHED
from relay_seg.evaluation.results import changed_settings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'data_prep'))
generated_raw = importlib.import_module('generated_raw')


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.mark.parametrize('dataset', PUBLISHED)
def test_generated_scenes_convert_and_can_be_learned(dataset, tmp_path):
    published = PUBLISHED[dataset]
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    assert generated_raw.main([published.name, str(raw)]) == 0
    converter = importlib.import_module(published.name)
    assert converter.main(
        [str(raw), str(out), '--jobs', '1', *published.convert]) == 0

    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['failures'] == {}
    if published.name == 'cityscapes':
        assert manifest['splits'] == dict(train=2, val=2, test=0)
        for name in ('frankfurt', 'lindau_munster'):
            assert len((out / f'{name}.txt').read_text().split()) == 1
    else:
        assert manifest['splits'] == dict(train=2, val=1, test=1)
    palette = np.array(DATASETS.get(dataset).METAINFO['palette'])
    for scene in manifest['scenes']:
        # All classes to learn, and something that is ignored.
        assert min(scene['class_pixels']) > 0
        label = read(out / scene['label']['path'])[0]
        image = read(out / scene['image']['path'])[:3].astype(float)
        assert (label == 255).any() == (published.name != 'gleason')
        distance = np.linalg.norm(
            image.transpose(1, 2, 0)[:, :, None] - palette, axis=-1)
        assert (distance.argmin(-1) == label)[label != 255].mean() > 0.85

    # Statistics of the data are in a config, but change no training.
    name = f'configs/released/vit_s_{published.name}.py'
    cfg = load_config(ROOT / name, {
        f'{split}_dataloader.dataset.data_root': str(out)
        for split in ('train', 'val', 'test')})
    assert None not in cfg.model.data_preprocessor.mean
    assert changed_settings(cfg) == {}


def test_it_writes_over_nothing(tmp_path, capsys):
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(SystemExit):
        generated_raw.main(['urur', str(tmp_path)])
    assert 'is not empty; give another folder' in capsys.readouterr().err
