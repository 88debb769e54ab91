"""The sixteen released configs: the authors' protocol, line by line.

The table is written down here from their released code. It is compared with
objects that are built, not with the text of configs.
"""
import importlib
import json
import sys
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from small_models import SIDE, small_model
from test_tools import call

from relay_seg.config import load_config
from relay_seg.engine import RelayRunner
from relay_seg.evaluation.published import PUBLISHED
from relay_seg.heads import LinearHead
from relay_seg.views import Context, contexts_of, points_of

ROOT = Path(__file__).parents[1]
for folder in ('data_prep', 'tests/converting'):
    sys.path.insert(0, str(ROOT / folder))
raw_folders = importlib.import_module('raw_folders')

MODELS_OF = 'vit_s', 'rt_vit_s', 'swin2_s', 'rt_swin2_s'
#: By data set: classes, bands, side of a window in pixels, step of a test,
#: samples for each window that fits into the area, share of a window that
#: lies inside, epochs, first epoch of the early stop.
PROTOCOL = dict(
    archaeoscape=dict(classes=4, bands=4, side=256, stride=128, coverage=2,
                      inside=0.2, epochs=50, stop_from=20, labelled=True),
    urur=dict(classes=8, bands=3, side=256, stride=256, coverage=0.5,
              inside=1, epochs=30, stop_from=10, labelled=False),
    gleason=dict(classes=4, bands=3, side=256, stride=256, coverage=0.2,
                 inside=1, epochs=50, stop_from=20, labelled=False),
    cityscapes=dict(classes=19, bands=3, side=256, stride=128, coverage=1,
                    inside=1, epochs=50, stop_from=20, labelled=False))
#: What is taken from pixels and by what that is divided; Archaeoscape's
#: follow from the data.
NORMALISATION = dict(
    urur=([0] * 3, [255] * 3), gleason=([0] * 3, [255] * 3),
    cityscapes=([0.485, 0.456, 0.406], [58.4, 57.1, 57.4]))
EVERY = [(model, data) for data in PROTOCOL for model in MODELS_OF]
every_config = pytest.mark.parametrize(
    'model, data', EVERY, ids=['-'.join(x) for x in EVERY])
every_data = pytest.mark.parametrize('data', PROTOCOL)


@lru_cache
def _config(model, data):
    return load_config(ROOT / f'configs/released/{model}_{data}.py')


def config(model, data):
    init_default_scope('mmseg')
    return deepcopy(_config(model, data))


def small(model, data):
    """The model of a config, an eighth as wide, and its config."""
    cfg = config(model, data)
    cfg.merge_from_dict(dict(model=small_model(cfg)))
    return MODELS.build(cfg.model), cfg


def test_there_are_sixteen_short_ones():
    files = sorted((ROOT / 'configs/released').glob('*.py'))
    assert [f.stem for f in files] == sorted('_'.join(x) for x in EVERY)
    assert max(len(f.read_text().splitlines()) for f in files) < 10


# Optimiser and schedule


@every_config
def test_optimiser(model, data):
    net, cfg = small(model, data)
    wrapper = build_optim_wrapper(net, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    inside = [p for group in wrapper.param_groups for p in group['params']]
    assert {id(p) for p in inside} == {
        id(p) for p in net.parameters() if p.requires_grad}
    for group in wrapper.param_groups:
        assert group['lr'] == 1e-3 and group['weight_decay'] == 0
        assert tuple(group['betas']) == (0.9, 0.999)
    assert not wrapper.clip_grad_kwargs
    assert wrapper.precision == 'fp32'
    assert wrapper.nonfinite_gradient == 'zero'
    assert cfg.train_dataloader.batch_size == 64  # of each GPU
    assert not cfg.auto_scale_lr.enable
    assert cfg.randomness.seed == 42
    assert cfg.sync_bn == 'torch'


def test_products_of_matrices_are_tf32(monkeypatch):
    cfg = config('vit_s', 'urur')
    asked = []
    monkeypatch.setattr(
        torch, 'set_float32_matmul_precision', asked.append)
    monkeypatch.setattr(Runner, 'setup_env', lambda self, env_cfg: None)
    RelayRunner.setup_env(RelayRunner.__new__(RelayRunner), cfg.env_cfg)
    assert asked == ['high']


@every_config
def test_rates_over_a_whole_run(model, data):
    """A tenth of the steps of a run; the accuracy stalls from epoch 6 on."""
    facts, (_, cfg) = PROTOCOL[data], (None, config(model, data))
    steps, epochs = 40, facts['epochs']
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.train_cfg.val_interval == 1
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))],
                                  lr=1e-3)
    schedulers = []
    for settings in cfg.param_scheduler:
        kind = PARAM_SCHEDULERS.get(settings.pop('type'))
        schedulers.append(
            kind.build_iter_from_epoch(
                optimizer, **settings, epoch_length=steps)
            if settings.pop('convert_to_iter_based', False)
            else kind(optimizer, **settings))
    runner = type('Runner', (), dict(param_schedulers=schedulers))()
    twin = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        twin, mode='max', factor=0.2, patience=4, threshold=0.01,
        threshold_mode='rel')
    hook = ParamSchedulerHook()
    warm = int(0.05 * epochs * steps)
    for epoch in range(epochs):
        for i in range(steps):
            rate, at = optimizer.param_groups[0]['lr'], epoch * steps + i
            if at < warm:
                expected = 1e-5 + (1e-3 - 1e-5) * at / (warm - 1)
            else:
                expected = twin.param_groups[0]['lr']
            assert rate == pytest.approx(expected, rel=1e-6), (epoch, i)
            optimizer.step()
            hook.after_train_iter(runner, i)
        hook.after_train_epoch(runner)
        accuracy = min(40. + 3 * epoch, 55.) * (1.005 if epoch > 12 else 1)
        hook.after_val_epoch(runner, dict(aAcc=accuracy, mIoU=epoch))
        theirs.step(accuracy)
    assert twin.param_groups[0]['lr'] < 1e-4  # it did fall


@every_data
def test_early_stop_and_best_checkpoint(data):
    cfg = config('vit_s', data)
    stop = HOOKS.build(dict(cfg.default_hooks.early_stopping))
    assert (stop.monitor, stop.rule, stop.patience) == ('aAcc', 'greater', 10)
    assert stop.min_epochs == PROTOCOL[data]['stop_from']
    assert stop.min_delta == 0
    keep = HOOKS.build(dict(cfg.default_hooks.checkpoint))
    assert keep.save_best == ['aAcc']
    assert cfg.default_hooks.checkpoint.rule == 'greater'
    metric = METRICS.build(dict(cfg.val_evaluator))
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    one = torch.zeros(1, 4, 4)
    metric.process({}, [dict(
        gt_sem_seg=dict(data=one), pred_sem_seg=dict(data=one),
        img_path='a')])
    found = metric.evaluate(1)
    assert found['aAcc'] == 100  # their pixel accuracy
    # Their Jaccard index: mean over all classes, absent ones as zero.
    assert found['mIoU_all'] == pytest.approx(100 / 3)


# Model and losses


@every_config
def test_model(model, data):
    facts = PROTOCOL[data]
    cfg = config(model, data)
    net = MODELS.build(cfg.model)
    vit = 'vit' in model
    assert type(net.decode_head) is LinearHead
    assert net.decode_head.upsample.kernel_size == (
        (16, 16) if vit else (32, 32))
    assert net.decode_head.out_channels == facts['classes']
    assert not net.with_neck and not net.with_auxiliary_head
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
                   for m in net.modules())
    backbone = net.backbone
    drops = {m.drop_prob for m in backbone.modules()
             if type(m).__name__ == 'DropPath'}
    assert max(drops, default=0) == pytest.approx(0 if vit else 0.1)
    names = dict(backbone.named_parameters())
    assert 'ln1.weight' not in names  # no final norm
    assert cfg.model.backbone.get('arch') == ('deit-small' if vit
                                              else 'small')
    if not vit:
        windows = {m.window_size for m in backbone.modules()
                   if type(m).__name__ == 'ShiftWindowMSA'}
        assert windows == {8}
    stem = backbone.patch_embed.projection
    assert stem.in_channels == facts['bands']
    relay = model.startswith('rt')
    assert getattr(backbone, 'num_relay_tokens', 0) == 4 * relay
    assert net.contexts == (((4, 4), ) if relay else ())
    loader = cfg.train_dataloader.dataset
    assert contexts_of(loader.get('context_factors', ())) == net.contexts
    if relay:
        assert backbone.fusion == 'mean'
        assert not any('relay_bias' in name for name in names)
    # The height of the ground counts less its mean in a view.
    assert net.relative_bands == ((3, ) if facts['bands'] == 4 else ())


@every_config
def test_pretraining(model, data):
    cfg = config(model, data)
    files = dict(vit='deit_3_small_224_21k.pth',
                 swin='swinv2_small_patch4_window8_256.pth')
    start = cfg.model.backbone.init_cfg
    assert start.type == 'Pretrained'
    assert start.checkpoint.startswith('https://')
    assert start.checkpoint.endswith(
        f'/{files["vit" if "vit" in model else "swin"]}')
    assert start.get('bands', 'error') == (
        'rgb+normal' if data == 'archaeoscape' else 'error')


@pytest.mark.parametrize('data', PROTOCOL)
@pytest.mark.parametrize('model', ['rt_vit_s', 'rt_swin2_s'])
def test_losses(model, data):
    """CE + 0.1 global, over all cells of the centre, + 0.1 agreement, of all
    cells; restated."""
    net, cfg = small(model, data)
    assert cfg.model.decode_head.loss_decode.get('class_weight') is None
    classes, k = PROTOCOL[data]['classes'], 4
    local, wide = (torch.randn(2, classes, 64, 64) for _ in range(2))
    label = torch.randint(classes, (2, 64, 64))
    label[:, :20, :30] = 255
    found = (
        net.decode_head.loss_decode(local, label, ignore_index=255),
        net.loss_global(wide, label, Context(k, k)),
        net.loss_agree(local, wide, label, Context(k, k)))
    middle = wide[..., 24:40, 24:40]
    shares = F.avg_pool2d(F.one_hot(
        label.where(label != 255, 0), classes).permute(0, 3, 1, 2).float(), k)
    ignored = F.max_pool2d((label == 255).float()[:, None], k).bool()
    expected = (
        F.cross_entropy(local, label, ignore_index=255),
        0.1 * F.cross_entropy(middle.masked_fill(ignored, 0),
                              shares.masked_fill(ignored, 0)),
        0.1 * F.cross_entropy(middle, F.avg_pool2d(local.softmax(1), k)))
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs)


# Data


@pytest.fixture(scope='module', params=PROTOCOL)
def converted(request, tmp_path_factory):
    """Name of a data set and its folder as converted."""
    name = request.param
    raw = tmp_path_factory.mktemp(name) / 'raw'
    out = raw.parent / 'out'
    options = ['--votes', 'released'] if name == 'gleason' else []
    size = dict(archaeoscape=(200, 240)).get(name, (180, 220))
    make = getattr(raw_folders, f'make_{name}')
    extra = dict(majority=False) if name == 'gleason' else {}
    make(raw, size=size, **extra)
    converter = importlib.import_module(name)
    assert converter.main(
        [str(raw), str(out), '--jobs', '1', *options]) == 0
    return name, out


def rooted(cfg, out):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(out)
    return cfg


def test_samples_of_an_epoch_and_windows(converted):
    data, out = converted
    facts = PROTOCOL[data]
    cfg = rooted(load_config(
        ROOT / f'configs/released/rt_vit_s_{data}.py', window=['32']), out)
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(
            dataset=dataset, seed=0))
    records = json.loads((out / 'manifest.json').read_text())['scenes']
    train = [r for r in records if r['split'] == 'train']
    area = sum(sum(r['class_pixels']) if facts['labelled']
               else r['height'] * r['width'] for r in train)
    assert len(sampler) == -(-area * facts['coverage'] // 32**2)

    draw = dataset.pipeline.transforms[0]
    scene = dataset.get_data_info(0)
    sides, angles, shares = [], [], []
    for _ in range(600):
        window = draw(dict(scene))['window']
        sides.append(window.height / 32)
        angles.append(window.angle)
        points = points_of(window, 17)
        shares.append(((points >= -1e-6) & (
            points <= np.add(scene['scene_shape'], 1e-6))).all(1).mean())
    sides, angles = np.array(sides), np.array(angles)
    assert abs((sides != 1).mean() - 0.5) < 0.08
    scaled = sides[sides != 1]
    assert 0.5 <= scaled.min() and scaled.max() <= 2
    # Uniform, not logarithmic; the largest do not fit in these scenes.
    assert 1.1 < np.median(scaled) < 1.4
    turned = angles[angles != 0]
    assert abs(len(turned) / 600 - 0.5) < 0.08
    assert set(turned) <= set(map(float, range(90)))
    assert min(shares) >= min(facts['inside'], 1) - 1e-6
    # Nothing else is done to a sample.
    assert [type(t).__name__ for t in dataset.pipeline.transforms] == [
        'SampleWindow', 'ReadViews', 'PackViews']


def test_normalisation(converted):
    data, out = converted
    cfg = load_config(
        ROOT / f'configs/released/rt_vit_s_{data}.py',
        {'train_dataloader.dataset.data_root': str(out)})
    init_default_scope('mmseg')
    scale = MODELS.build(cfg.model.data_preprocessor)
    if data == 'archaeoscape':
        records = [r for r in json.loads(
            (out / 'manifest.json').read_text())['scenes']
            if r['split'] in ('train', 'val')]
        mean, std = [], []
        for band in range(4):
            of = [r['bands'][band] for r in records]
            weights = np.array([b['valid'] for b in of], float)
            weights /= weights.sum()
            mean.append(weights @ [b['mean'] for b in of])
            std.append((weights @ [b['std']**2 for b in of])**0.5)
    else:
        mean, std = NORMALISATION[data]
    torch.testing.assert_close(
        scale.mean.flatten(), torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(
        scale.std.flatten(), torch.tensor(std, dtype=torch.float32))
    # Outside of a scene there is nothing: zero, to the network.
    read = next(s for s in cfg.train_pipeline if s['type'] == 'ReadViews')
    assert [x for x in read['fill'] if x is not None] == pytest.approx(
        [m for i, m in enumerate(mean) if i != 3], rel=1e-6)


@every_config
def test_windows_of_validation_and_test(model, data):
    facts = PROTOCOL[data]
    net = MODELS.build(config(model, data).model)
    side, stride = (facts['side'], ) * 2, (facts['stride'], ) * 2
    test, val = net.slide(), net.slide(validation=True)
    assert test[:4] == (side, stride, side, 'center')
    assert val[:4] == (side, side, side, 'center') and val.every == 1
    published = next(p for p in PUBLISHED.values() if p.name == data)
    assert published.protocol['window'] == list(side)
    assert published.protocol['stride'] == list(stride)
    assert published.protocol['blend'] == 'center'


def test_splits_and_labels(converted):
    data, out = converted
    cfg = rooted(config('vit_s', data), out)
    found = {}
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        found[split] = {Path(dataset.get_data_info(i)['img_path']).stem
                        for i in range(len(dataset))}
    if data == 'cityscapes':  # their test is among their validation
        assert found['test'] < found['val']
        assert all(x.startswith('frankfurt') for x in found['test'])
        assert {x.split('_')[0] for x in found['val']} == {
            'frankfurt', 'lindau', 'munster'}
    else:
        assert not found['val'] & found['test']
    assert not found['train'] & (found['val'] | found['test'])
    if data == 'archaeoscape':
        numbers = {k: {int(x[:2]) for x in v} for k, v in found.items()}
        assert numbers == dict(train=set(range(1, 17)), val={17, 18, 19},
                               test={20, 21, 22, 23})
    if data == 'gleason':
        assert all(x.startswith('slide007') for x in found['test'])
        for loader in ('train', 'val', 'test'):
            assert 'classes' not in cfg[
                f'{loader}_dataloader'].dataset.conversion.votes


# A step, and from raw data to a metric


@pytest.mark.parametrize('file', ['loss_no_ignore', 'loss_ignore'])
def test_a_step_from_golden_gradients(file):
    """AdamW written out, float64."""
    golden = torch.load(ROOT / f'tests/golden/{file}.pt', weights_only=True)
    cfg = config('rt_swin2_s', 'gleason')
    names = 'local', 'global'
    start = {n: golden[f'logits_{n}'].double() for n in names}
    gradient = {n: golden[f'grad_logits_{n}64'] for n in names}
    holder = torch.nn.ParameterDict(
        {n: torch.nn.Parameter(x.clone()) for n, x in start.items()})
    wrapper = build_optim_wrapper(holder, cfg.optim_wrapper)
    moment = {n: (0., 0.) for n in names}
    value = {n: x.clone() for n, x in start.items()}
    for step in (1, 2):
        for n in names:
            holder[n].grad = gradient[n].clone()
            first, second = moment[n]
            first = 0.9 * first + 0.1 * gradient[n]
            second = 0.999 * second + 0.001 * gradient[n]**2
            moment[n] = first, second
            value[n] -= 1e-3 * (first / (1 - 0.9**step)) / (
                (second / (1 - 0.999**step)).sqrt() + 1e-8)
        wrapper.step()
        for n in names:
            torch.testing.assert_close(
                holder[n].detach(), value[n], rtol=0, atol=1e-12)
    assert (value['local'] - start['local']).abs().max() > 1e-4


@pytest.mark.parametrize('model', MODELS_OF)
def test_trains_and_tests_on_raw_data(model, converted, tmp_path):
    data, out = converted
    source = ROOT / f'configs/released/{model}_{data}.py'
    path = tmp_path / 'config.py'
    smaller = small_model(Config.fromfile(source))
    del smaller['test_cfg']  # --window sets it, and these
    for key in ('img_size', 'window_size'):
        smaller['backbone'].pop(key, None)
    path.write_text(f"_base_ = '{source}'\nmodel = {smaller}\n")
    settings = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.sampler.coverage': 1e-9,
        'train_cfg.max_epochs': 1, 'param_scheduler.0.end': 1,
        'default_hooks.logger.interval': 1}
    for split in ('train', 'val', 'test'):
        settings[f'{split}_dataloader.dataset.data_root'] = out
        settings[f'{split}_dataloader.num_workers'] = 0
        settings[f'{split}_dataloader.persistent_workers'] = False
    options = ['--window', SIDE, '--input', SIDE, '--cfg-options',
               *(f'{k}={v}' for k, v in settings.items())]
    call('tools/train.py', path, '--work-dir', tmp_path, '--pretrained',
         'none', *options)
    best = tmp_path / 'best_aAcc_epoch_1.pth'
    call('tools/test.py', path, best, '--work-dir', tmp_path / 'test',
         *options)
    results = json.loads((tmp_path / 'test/results.json').read_text())
    assert np.isfinite(results['metrics']['mIoU_all'])
    protocol = results['protocol']
    assert protocol['window'] == protocol['input_size'] == [SIDE, SIDE]
    stride = SIDE * PROTOCOL[data]['stride'] // 256
    assert protocol['stride'] == [stride, stride]
