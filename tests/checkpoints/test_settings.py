"""What weights do not tell is compared, and nothing of a file is run."""
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from relay_seg.checkpoints.settings import parse_config, warn_of_settings
from relay_seg.config import load_config

RELAY = Path(__file__).parents[2] / 'configs/relay/rt_swin2_n_dubai.py'


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning',
                        lines.append)
    return lines


@pytest.fixture(scope='module')
def cfg():
    return load_config(RELAY, {'model.data_preprocessor.mean': [1., 2., 3.]})


@pytest.mark.parametrize('changed, message', [
    ({'model.backbone.fusion': 'mean'},
     "model.backbone.fusion='sequential', here 'mean'"),
    ({'model.backbone.relay_place': 'bias'}, "relay_place='none', here 'bias"),
    ({'model.context_factors': (8, )}, 'context_factors=(4,), here (8,)'),
    ({'model.context_reductions': (8, )}, 'context_reductions=(4,), here (8'),
    ({'model.relative_bands': (1, )}, 'relative_bands=(), here (1,)'),
    ({'model.data_preprocessor.mean': (1., 2., 4.)}, 'mean=(1.0, 2.0, 3.0)'),
    ({'model.test_cfg.input_size': (64, 64)}, 'input_size=(128, 128), here'),
    ({'test_dataloader.dataset.pipeline.0.bands': [3, 2, 1]},
     'bands of ReadScene=None, here (3, 2, 1)')])
def test_settings_that_differ_are_said(cfg, said, changed, message):
    before = dict(meta=dict(cfg=cfg.pretty_text))
    now = cfg.copy()
    now.merge_from_dict(changed)
    warn_of_settings(before, now, 'a.pth')
    assert len(said) == 1 and message in said[0] and 'a.pth' in said[0]


@pytest.mark.parametrize('changed', [
    {}, {'model.backbone.fusion': 'sequential',
         'model.context_reductions': [4],
         'model.backbone.drop_path_rate': 0.3, 'optim_wrapper.optimizer.lr': 1,
         'model.test_cfg.stride': (99, 99), 'model.test_cfg.flips': True}])
def test_nothing_is_said_of_what_means_the_same(cfg, said, changed):
    now = cfg.copy()
    now.merge_from_dict(changed)
    warn_of_settings(dict(meta=dict(cfg=cfg.pretty_text)), now, 'a.pth')
    assert not said


def test_plain_models_are_compared(said):
    cfg = load_config(RELAY.parents[1] / 'plain/swin2_n_dubai.py')
    now = cfg.copy()
    now.merge_from_dict({'model.backbone.patch_size': 8})
    for changed in (cfg, now):
        warn_of_settings(dict(meta=dict(cfg=cfg.pretty_text)), changed, 'a')
    assert len(said) == 1 and 'patch_size=4, here 8' in said[0]


@pytest.mark.parametrize('text', [
    None, 7, 'model = (', '(' * 10**5, '-' * 10**5 + '1', 'x\0y', 'a' * 2**21,
    'model = dict(backbone=__import__("os").abort(), context_factors=abort())',
    '__import__("os").abort()', 'model = dict(data_preprocessor=dict(mean='
    '[1., nan, 3.]))', 'model, b = 1, 2', 'model = {**a, [1]: 2}'])
def test_odd_texts_are_passed_over_in_silence(cfg, said, text):
    warn_of_settings(dict(meta=dict(cfg=text)), cfg, 'a.pth')
    assert not said


@pytest.mark.parametrize('text', [
    "model = dict(type='A', **x, backbone=dict(**y, fusion='mean'))",
    "model = {1: 2, 'backbone': {'fusion': 'mean', 3: 4}, **z}",
    'model = dict(test_cfg=3)\ntest_dataloader = dict(dataset=dict('
    'pipeline=steps))',
    'model = dict(test_cfg=3)\ntest_dataloader = dict(dataset=dict('
    'pipeline=7))'])
def test_odd_values_end_nothing(cfg, said, text):
    warn_of_settings(dict(meta=dict(cfg=text)), cfg, 'a.pth')
    assert all('pipeline' not in line for line in said)


def test_a_config_is_read_as_values():
    assert parse_config("a = [1, -2.5, dict(b='c', d=None)]\ne = {'f g': ()}"
                        ) == dict(a=(1, -2.5, dict(b='c', d=None)),
                                  e={'f g': ()})
