import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

ROOT = Path(__file__).parents[1]
LEAN = sorted((ROOT / 'configs/relay').glob('rt_lean_*.py'))
RELAY = sorted({*(ROOT / 'configs/relay').glob('rt_*.py')} - {*LEAN})
THREE_VIEWS = sorted((ROOT / 'configs/relay').glob('rt3_*.py'))
PLAIN = sorted((ROOT / 'configs/plain').glob('*.py'))
RELEASED = sorted((ROOT / 'configs/released').glob('*.py'))

#: All that a relay config may change of its plain twin: what relay means.
RELAY_MEANS = {
    'model.type', 'model.context_factors', 'model.backbone.type',
    'train_dataloader.dataset.context_factors'
}
#: What the plain ViT of the host needs to give feature maps.
PLAIN_VIT = {'model.backbone.with_cls_token', 'model.backbone.out_type'}


def parameters_of(path):
    """Number of parameters of the backbone of a config."""
    backbone = Config.fromfile(path).model.backbone
    backbone.pop('init_cfg', None)
    return count(json.dumps(backbone.to_dict(), sort_keys=True))


@cache  # data sets of as many bands have one backbone
def count(backbone):
    init_default_scope('mmseg')
    with pytest.MonkeyPatch.context() as patch:
        for draw in ('uniform_', 'normal_'):  # nobody looks at the weights
            patch.setattr(torch.Tensor, draw, lambda tensor, *_, **__: tensor)
        model = MODELS.build(json.loads(backbone))
    return sum(p.numel() for p in model.parameters())


def flatten(cfg, prefix=''):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def test_twins_exist():
    assert {f'rt_{path.name}' for path in PLAIN} == {p.name for p in RELAY}


@pytest.mark.parametrize('path', RELAY, ids=lambda p: p.stem)
def test_twins_differ_only_in_what_relay_means(path):
    relay = dict(flatten(Config.fromfile(path)))
    name = path.name.removeprefix('rt_')
    plain = dict(flatten(Config.fromfile(ROOT / 'configs/plain' / name)))
    differ = {k for k in relay.keys() | plain.keys()
              if relay.get(k) != plain.get(k)}
    assert differ == RELAY_MEANS | (PLAIN_VIT if 'vit' in name else set())


def test_every_config_is_of_one_kind():
    found = set((ROOT / 'configs').glob('[!_]*/*.py'))
    assert found == {*RELAY, *LEAN, *THREE_VIEWS, *PLAIN, *RELEASED}
    assert LEAN and THREE_VIEWS


@pytest.mark.parametrize('path', THREE_VIEWS, ids=lambda p: p.stem)
def test_three_views_differ_only_in_the_views(path):
    three = dict(flatten(Config.fromfile(path)))
    name = path.name.replace('rt3_', 'rt_', 1)
    two = dict(flatten(Config.fromfile(path.with_name(name))))
    differ = {k for k in three.keys() | two.keys()
              if three.get(k) != two.get(k)}
    assert differ == {'model.context_factors', 'model.backbone.num_views',
                      'train_dataloader.dataset.context_factors'}
    factors = three['model.context_factors']
    assert factors == three['train_dataloader.dataset.context_factors']
    assert three['model.backbone.num_views'] == 1 + len(factors) == 3


@pytest.mark.parametrize('path', LEAN, ids=lambda p: p.stem)
def test_lean_differs_only_in_what_lean_means(path):
    lean = dict(flatten(Config.fromfile(path)))
    name = path.name.replace('rt_lean_', 'rt_', 1)
    full = dict(flatten(Config.fromfile(path.with_name(name))))
    nothing = object()
    assert {k: lean.get(k) for k in lean.keys() | full.keys()
            if lean.get(k, nothing) != full.get(k, nothing)} == {
        'model.context_reductions': (8, ), 'model.loss_global': None,
        'model.loss_agree': None,
        'train_dataloader.dataset.context_reductions': (8, )} | (
            {'model.backbone.relay_place': 'bias'} if 'swin' in name else {})


@pytest.mark.parametrize(
    'path', RELAY + LEAN + THREE_VIEWS + PLAIN, ids=lambda p: p.stem)
def test_parts_agree(path):
    cfg = Config.fromfile(path)
    init_default_scope('mmseg')
    crop = cfg.model.test_cfg.crop_size
    steps = {s['type']: s for s in cfg.train_dataloader.dataset.pipeline}
    test_steps = {s['type']: s for s in cfg.test_dataloader.dataset.pipeline}
    assert tuple(steps['SampleWindow'].window) == crop
    side = cfg.model.backbone.get('img_size', crop[0])  # MiT has none
    assert crop == (side, side)
    step = 2 * max(cfg.model.get('context_reductions')
                   or cfg.model.get('context_factors', (1, )))
    assert side % step == 0  # centres of all views on whole pixels
    mean = cfg.model.data_preprocessor.mean
    relative = cfg.model.get('relative_bands', ())
    fill = [None if i in relative else x for i, x in enumerate(mean)]
    assert list(steps['ReadViews'].fill) == fill
    assert test_steps['ReadScene'].num_bands == len(mean)
    assert cfg.model.backbone.get('in_channels', 3) == len(mean)
    dataset = DATASETS.get(cfg.train_dataloader.dataset.type)
    classes = dataset.METAINFO['classes']
    assert cfg.model.decode_head.num_classes == len(classes)
    assert len(dataset.METAINFO['palette']) == len(classes)
    assert cfg.custom_imports.imports == ['relay_seg.registered']
    assert cfg.model.decode_head.loss_decode.avg_non_ignore


@pytest.mark.parametrize('path', RELAY + LEAN, ids=lambda p: p.stem)
def test_relay_adds_under_two_percent(path):
    plain = re.sub('^rt_(lean_)?', '', path.name)
    relay, plain = map(parameters_of, (path, ROOT / 'configs/plain' / plain))
    # A fourth band makes the second patch embedding of ViT-S larger.
    four_bands = any(f'{name}_archaeoscape' in path.stem
                     for name in ('vit_s', 'dinov2_s'))
    assert plain < relay < (1.025 if four_bands else 1.02) * plain
