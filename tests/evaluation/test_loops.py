"""Scenes that are streamed count as scenes in memory do."""
import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.runner import TestLoop, ValLoop
from test_tools import ROOT

from relay_seg.engine import build_runner
from relay_seg.evaluation import loops
from relay_seg.transforms import ReadScene

NAMES = {'relay': 'configs/relay/rt_swin2_n_dubai.py',
         'plain': 'configs/plain/swin2_n_dubai.py'}


def runner_of(scenes, folder, kind='relay', **options):
    cfg = Config.fromfile(ROOT / NAMES[kind])
    settings = {
        'work_dir': str(folder), 'launcher': 'none',
        'model.decode_head.channels': 8,
        'model.test_cfg.crop_size': (64, 64),
        'model.test_cfg.stride': (40, 64),
        'model.backbone.img_size': 64, 'model.backbone.window_size': 2,
        'visualizer.vis_backends': []} | options
    for split in ('train', 'val', 'test'):
        settings[f'{split}_dataloader.dataset.data_root'] = str(scenes)
        settings[f'{split}_dataloader.num_workers'] = 0
        settings[f'{split}_dataloader.persistent_workers'] = False
    cfg.merge_from_dict(settings)
    torch.manual_seed(0)
    runner = build_runner(cfg)
    runner._hooks = []  # those of training look for one
    torch.manual_seed(1)
    with torch.no_grad():  # logits of some size, so that nothing ties
        for p in runner.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return runner


def evaluate(runner, name):
    """Report of the runner's loop and of the host's own."""
    found = []
    for host in (False, True):
        loop = getattr(runner, f'{name}_loop')
        if host:
            kind = ValLoop if name == 'val' else TestLoop
            loader = loop.dataloader
            loop = kind(runner, getattr(runner.cfg, f'{name}_dataloader'),
                        runner.cfg.val_evaluator)
            assert type(loader) is loops.SceneList
            setattr(runner, f'_{name}_loop', loop)
        loop.run()
        found.append(loop.evaluator.metrics[0].report)
    return found


@pytest.mark.parametrize('kind', NAMES)
@pytest.mark.parametrize('name', ['val', 'test'])
def test_streamed_scenes_count_as_scenes_in_memory(
        scenes, tmp_path, kind, name):
    for path in (scenes / 'img_dir').glob('*/a.tif'):  # no data, labelled
        with rasterio.open(path, 'r+') as raster:
            raster.nodata = 7
            raster.write(np.full((3, 70, 90), 7, np.uint8), window=(
                (20, 90), (30, 120)))
    streamed, whole = evaluate(
        runner_of(scenes, tmp_path, kind), name)
    assert streamed['confusion'] == whole['confusion']
    assert streamed['scenes'] == whole['scenes']
    assert streamed['ignored'] == whole['ignored'] > 0
    assert np.count_nonzero(np.sum(whole['confusion'], axis=0)) > 1


@pytest.mark.parametrize('val', [
    {'every': 3}, {'stride': (32, 40), 'blend': 'gaussian'}])
def test_settings_of_validation_are_kept(scenes, tmp_path, val):
    options = {f'model.test_cfg.val.{k}': v for k, v in val.items()}
    streamed, whole = evaluate(runner_of(scenes, tmp_path, **options), 'val')
    assert streamed['confusion'] == whole['confusion']
    assert streamed['ignored'] == whole['ignored']


def test_no_scene_is_read_whole(scenes, tmp_path, monkeypatch):
    def refuse(self, results):
        raise AssertionError('read whole')

    monkeypatch.setattr(ReadScene, 'transform', refuse)
    runner = runner_of(scenes, tmp_path)
    assert np.isfinite(runner.val_loop.run()['mIoU'])
    with pytest.raises(AssertionError, match='read whole'):
        runner_of(scenes, tmp_path / 'whole', **{
            'model.test_cfg.mode': 'whole'}).val_loop.run()


def test_a_label_of_another_class_is_named(scenes, tmp_path, make_scene):
    label = np.full((150, 170), 9, np.uint8)
    make_scene(scenes, 'test', 'b', label=label,
               image=np.zeros((3, 150, 170), np.uint8))
    with pytest.raises(ValueError, match=r'b.tif holds ids \[9\]'):
        runner_of(scenes, tmp_path).test_loop.run()
