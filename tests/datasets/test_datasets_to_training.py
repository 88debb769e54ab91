"""From a raw folder to a tested model, for each data set; and every config.

Real configs on generated data. Only the size is changed: an eighth of the
width, few blocks, small windows. What must fit together is left as it is.
"""
import importlib
import json
import re
import sys
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from small_models import SIDE, small_model
from test_tools import call, log_lines

from relay_seg.structures import label_field

ROOT = Path(__file__).parents[2]
# As tests/converting does: converters are scripts.
for folder in ('data_prep', 'tests/converting'):
    sys.path.insert(0, str(ROOT / folder))
raw_folders = importlib.import_module('raw_folders')

#: Data set, classes, bands and window side, as issue and papers give them.
DATASETS_OF = {
    'archaeoscape': ('ArchaeoscapeDataset', 4, 4, 256),
    'urur': ('URURDataset', 8, 3, 256),
    'gleason': ('GleasonDataset', 4, 3, 256),
    'cityscapes': ('CityscapesSceneDataset', 19, 3, 256),
}
#: Backbone of the plain and of the relay model, and its size: its name, or
#: the blocks of each stage.
MODELS_OF = {
    'vit_s': ('VisionTransformer', 'RelayViT', 'deit-small'),
    'swin2_t': ('SwinTransformerV2', 'RelaySwinV2', 'tiny'),
    'swin2_s': ('SwinTransformerV2', 'RelaySwinV2', 'small'),
    'swin2_b': ('SwinTransformerV2', 'RelaySwinV2', 'base'),
    'swin2_l': ('SwinTransformerV2', 'RelaySwinV2', 'large'),
    'dinov3_s': ('TimmViT', 'RelayTimmViT', 'vit_small_patch16_dinov3'),
    'dinov3_b': ('TimmViT', 'RelayTimmViT', 'vit_base_patch16_dinov3'),
    'dinov2_s': ('TimmViT', 'RelayTimmViT',
                 'vit_small_patch14_reg4_dinov2'),
    'segformer_b1': ('MixVisionTransformer', 'RelayMiT', [2, 2, 2, 2]),
    'segformer_b3': ('MixVisionTransformer', 'RelayMiT', [3, 4, 18, 3]),
}
KINDS = 'relay', 'plain'
EVERY = [(kind, model, data) for kind in KINDS for model in MODELS_OF
         for data in DATASETS_OF]
every_config = pytest.mark.parametrize(
    'kind, model, data', EVERY, ids=['-'.join(x) for x in EVERY])


def config_path(kind, model, data):
    prefix = 'rt_' if kind == 'relay' else ''
    return ROOT / 'configs' / kind / f'{prefix}{model}_{data}.py'


@lru_cache
def parsed(*name):
    return Config.fromfile(config_path(*name))


def read_config(*name):
    return deepcopy(parsed(*name))


# Raw folder -> converter -> training -> test.


@pytest.fixture(scope='module', params=DATASETS_OF)
def converted(request, tmp_path_factory):
    """Name of a data set, its folder as converted, true classes by scene."""
    name = request.param
    raw = tmp_path_factory.mktemp(name) / 'raw'
    out = raw.parent / 'out'
    truth = getattr(raw_folders, f'make_{name}')(raw)
    converter = importlib.import_module(name)
    assert converter.main([str(raw), str(out), '--jobs', '1']) == 0
    return name, out, truth


def run_options(out, **extra):
    """Two iterations of two samples on converted scenes, one epoch."""
    settings = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.sampler.samples_per_epoch': 4,
        'train_dataloader.dataset.pipeline.0.window': f'[{SIDE},{SIDE}]',
        'train_cfg.max_epochs': 1,
        'default_hooks.logger.interval': 1,
    }
    for split in ('train', 'val', 'test'):
        settings[f'{split}_dataloader.dataset.data_root'] = out
        settings[f'{split}_dataloader.num_workers'] = 0
        settings[f'{split}_dataloader.persistent_workers'] = False
    settings |= extra
    return ['--cfg-options', *(f'{k}={v}' for k, v in settings.items())]


def check_results(work, ids, truth):
    """Metrics are those of the predictions on disk and the raw labels."""
    metrics = json.loads((work / 'results.json').read_text())['metrics']
    assert set(metrics) >= {'mIoU', 'mF1', 'aAcc'}
    assert {path.stem for path in ids.iterdir()} == set(truth)
    pred, label = [], []
    for name, expected in truth.items():
        with rasterio.open(ids / f'{name}.tif') as raster:
            assert raster.shape == expected.shape
            pred.append(raster.read(1).ravel())
        label.append(expected.ravel())
    pred, label = np.concatenate(pred), np.concatenate(label)
    pred, label = pred[label != 255], label[label != 255]
    pairs = [(pred == i, label == i) for i in np.union1d(pred, label)]
    hits = [(p & t).sum() for p, t in pairs]
    iou = [hit / (p | t).sum() for hit, (p, t) in zip(hits, pairs)]
    f1 = [2 * hit / (p.sum() + t.sum()) for hit, (p, t) in zip(hits, pairs)]
    assert metrics['mIoU'] == pytest.approx(100 * np.mean(iou))
    assert metrics['mF1'] == pytest.approx(100 * np.mean(f1))
    assert metrics['aAcc'] == pytest.approx(100 * (pred == label).mean())


@pytest.mark.parametrize('kind', KINDS)
def test_raw_folder_to_metric(kind, converted, tmp_path):
    name, out, truth = converted
    wanted = kind, 'swin2_t', name
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{config_path(*wanted)}'\n"
                      f'model = {small_model(read_config(*wanted))}\n')
    # The manifest must serve to balance classes, too.
    extra = {'train_dataloader.dataset.class_balanced': kind == 'plain'}
    if name == 'cityscapes':  # choose on other cities than Frankfurt
        extra['val_dataloader.dataset.ann_file'] = 'lindau_munster.txt'
    call('tools/train.py', config, '--work-dir', tmp_path / 'work',
         *run_options(out, **extra))
    lines = log_lines(tmp_path / 'work')
    assert [step for step, _, _ in lines] == [1, 2]
    assert all(np.isfinite(loss) for _, _, loss in lines)
    # 4e-4 is meant for 64 windows a step, here are 2; of one epoch of two
    # steps there is no share for a warm-up.
    assert lines[0][1] == pytest.approx(4e-4 * 2 / 64)
    if kind == 'relay':
        log = next((tmp_path / 'work').glob('*/vis_data/scalars.json'))
        first = json.loads(log.read_text().splitlines()[0])
        assert {'loss_global', 'loss_agree'} <= set(first)

    best = tmp_path / 'work/best_mIoU_epoch_1.pth'
    assert best.is_file()
    split = 'val' if name == 'cityscapes' else 'test'
    lists = {'': ''}
    if name == 'cityscapes':
        lists['frankfurt.txt'] = 'frankfurt'
    for ann_file, start in lists.items():
        work = tmp_path / f'test_{start}'
        call('tools/test.py', config, best, '--work-dir', work, '--out',
             work / 'ids', *run_options(
                 out, **{'test_dataloader.dataset.ann_file': ann_file}))
        check_results(work, work / 'ids', {
            scene: label for (where, scene), label in truth.items()
            if where == split and scene.startswith(start)})
    if name == 'archaeoscape':
        written = next((work / 'ids').iterdir())
        with (rasterio.open(written) as ids, rasterio.open(
                out / 'img_dir/test' / written.name) as scene):
            assert ids.crs == scene.crs == raw_folders.UTM
            assert ids.transform == scene.transform


# Every config: what its name says, its schedule, one step, one scene.


@every_config
def test_config_is_what_its_name_says(kind, model, data):
    cfg = read_config(kind, model, data)
    init_default_scope('mmseg')
    dataset, classes, bands, side = DATASETS_OF[data]
    plain, relay, arch = MODELS_OF[model]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader'].dataset
        assert loader.type == dataset
        assert loader.data_root == f'data/{data}'
        shown = split
        if (data, split) == ('cityscapes', 'test'):
            shown = 'val'  # labels of test are blank
        assert loader.data_prefix == dict(
            img_path=f'img_dir/{shown}', seg_map_path=f'ann_dir/{shown}')
    assert len(DATASETS.get(dataset).METAINFO['classes']) == classes
    assert cfg.model.decode_head.num_classes == classes
    assert len(cfg.model.data_preprocessor.mean) == bands
    assert cfg.model.backbone.get('in_channels', 3) == bands
    assert cfg.model.test_cfg.crop_size == (side, side)
    assert cfg.model.test_cfg.mode == 'slide'
    found = cfg.model.backbone.type.split('.')[-1]
    assert found == (relay if kind == 'relay' else plain)
    size = 'num_layers' if 'segformer' in model else 'arch'
    assert cfg.model.backbone[size] == arch
    factors = (4, ) if kind == 'relay' else ()
    assert tuple(cfg.model.get('context_factors', ())) == factors
    shown = cfg.train_dataloader.dataset.get('context_factors', ())
    assert tuple(shown) == factors
    # At every stage the token map is a multiple of the attention window.
    if 'swin2' in model:
        assert side == 32 * cfg.model.backbone.window_size


@every_config
def test_schedule_falls_when_mIoU_stalls(kind, model, data):
    cfg = read_config(kind, model, data)
    epochs = 30 if data == 'urur' else 50
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_cfg.val_interval == 1
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=64)
    warm_up, plateau = cfg.param_scheduler
    assert warm_up.type == 'LinearLR'
    assert warm_up.end == pytest.approx(0.05 * epochs)
    assert warm_up.convert_to_iter_based
    assert plateau.type == 'ReduceOnPlateauLR'
    assert (plateau.factor, plateau.patience) == (0.2, 4)
    hooks = cfg.default_hooks
    assert hooks.checkpoint.save_best == 'mIoU'
    assert hooks.early_stopping.type == 'EarlyStoppingHook'
    assert hooks.early_stopping.patience > plateau.patience
    for part in (plateau, hooks.early_stopping):
        assert (part.monitor, part.rule) == ('mIoU', 'greater')


@pytest.mark.parametrize('data', ('gleason', 'urur'))
def test_learning_rate_warms_up_and_falls_when_mIoU_stalls(data):
    """Schedulers of a config through the host's hook, 10 steps an epoch."""
    cfg = read_config('relay', 'swin2_t', data)
    steps, best_epoch = 10, 4
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    schedulers = []
    for settings in cfg.param_scheduler:
        cls = PARAM_SCHEDULERS.get(settings.pop('type'))
        if settings.pop('convert_to_iter_based', False):
            schedulers.append(cls.build_iter_from_epoch(
                optimizer, **settings, epoch_length=steps))
        else:
            schedulers.append(cls(optimizer, **settings))
    runner = SimpleNamespace(param_schedulers=schedulers)
    hook = ParamSchedulerHook()
    rates, ends = [], []
    for epoch in range(1, 16):
        for i in range(steps):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            hook.after_train_iter(runner, i)
        hook.after_train_epoch(runner)
        hook.after_val_epoch(runner, dict(mIoU=10. * min(epoch, best_epoch)))
        ends.append(optimizer.param_groups[0]['lr'])
    rates = np.array(rates)
    warm = int(0.05 * cfg.train_cfg.max_epochs * steps)
    assert rates[0] == pytest.approx(0.01)
    assert (np.diff(rates[:warm]) > 0).all()
    assert rates[warm - 1:best_epoch * steps] == pytest.approx(1.)
    # Four epochs without a better mIoU are borne, the fifth is not.
    falls = [epoch for epoch in range(2, 16) if ends[epoch - 1]
             < ends[epoch - 2] - 1e-9]
    assert falls == [best_epoch + 5, best_epoch + 10]
    assert ends[best_epoch + 4] == pytest.approx(0.2)
    assert ends[best_epoch + 9] == pytest.approx(0.04)


def no_data(image, band):
    """A hole in the last band."""
    image[band, :SIDE // 3, SIDE // 4:] = torch.nan
    return image


def training_batch(cfg, bands, classes):
    """Two samples as ``PackViews`` makes them, with holes and ignored."""
    factors = cfg.train_dataloader.dataset.get('context_factors', ())
    relative = cfg.model.get('relative_bands', ())
    items = []
    for _ in range(2):
        views = tuple(torch.rand(bands, SIDE, SIDE) * 255
                      for _ in (1, *factors))
        for band in relative:
            views = tuple(no_data(view, band) for view in views)
        sample = SegDataSample()
        for i, k in enumerate((1, *factors)):
            label = torch.randint(classes, (1, k * SIDE, k * SIDE))
            label[:, :k * SIDE // 4] = 255
            label = label if i == 0 else label.byte()
            sample.set_data({label_field(i): PixelData(data=label)})
        items.append(dict(inputs=views, data_samples=sample))
    for band in relative:
        for view in items[0]['inputs']:
            view[band] = torch.nan  # a window outside of the elevation
    return pseudo_collate(items)


@every_config
def test_config_trains_a_step_and_segments_a_scene(kind, model, data):
    cfg = read_config(kind, model, data)
    init_default_scope('mmseg')
    _, classes, bands, _ = DATASETS_OF[data]
    cfg.merge_from_dict(dict(model=small_model(cfg)))
    segmentor = MODELS.build(cfg.model)
    segmentor.init_weights()

    segmentor.train()
    batch = training_batch(cfg, bands, classes)
    batch = segmentor.data_preprocessor(batch, training=True)
    loss, logs = segmentor.parse_losses(segmentor(**batch, mode='loss'))
    assert all(torch.isfinite(value) for value in logs.values()), logs
    assert ('loss_global' in logs) == (kind == 'relay')
    loss.backward()
    grads = {key: x.grad for key, x in segmentor.named_parameters()}
    assert [key for key, grad in grads.items() if grad is None] == []
    assert [key for key, grad in grads.items()
            if not torch.isfinite(grad).all()] == []
    assert any(grad.any() for key, grad in grads.items()
               if 'backbone.' in key and (
                   'projection' in key or 'patch_embed.proj' in key))

    segmentor.eval()
    scene = torch.rand(bands, 71, 93) * 255
    for band in cfg.model.get('relative_bands', ()):
        scene = no_data(scene, band)
    result = predict(segmentor, scene)
    assert result.seg_logits.data.isfinite().all()
    labels = result.pred_sem_seg.data
    assert labels.shape == (1, 71, 93)
    assert 0 <= labels.min() and labels.max() < classes
    # Each band is looked at, in spite of holes; of elevation the relief.
    for band in range(bands):
        other = scene.clone()
        other[band] = other[band].flip(0)
        change = predict(segmentor, other).seg_logits.data
        change -= result.seg_logits.data
        assert change.abs().max() > 1e-4
    for band in cfg.model.get('relative_bands', ()):
        lifted = scene.clone()
        lifted[band] += 1000
        torch.testing.assert_close(
            predict(segmentor, lifted).seg_logits.data,
            result.seg_logits.data, rtol=0, atol=2e-3)


@torch.no_grad()
def predict(segmentor, scene):
    """Through the data preprocessor and slide inference."""
    sample = SegDataSample(metainfo=dict(
        img_shape=scene.shape[1:], ori_shape=scene.shape[1:]))
    result, = segmentor.test_step(
        dict(inputs=[scene], data_samples=[sample]))
    return result


@pytest.mark.parametrize('data', DATASETS_OF)
def test_poly_schedule_may_take_the_place(data, tmp_path):
    """One word of a config names the schedule; nothing of another is left."""
    text = config_path('plain', 'swin2_t', data).read_text()
    text = re.sub(r'adamw_plateau_\d+e', 'adamw_20k', text)
    path = tmp_path / 'config.py'
    path.write_text(text.replace("'../_base_", f"'{ROOT}/configs/_base_"))
    cfg = Config.fromfile(path)
    assert [x.type for x in cfg.param_scheduler] == ['LinearLR', 'PolyLR']
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert not cfg.default_hooks.checkpoint.by_epoch
    assert 'early_stopping' not in cfg.default_hooks
