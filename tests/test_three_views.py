"""Three views, from a config to a prediction; and what the widest is for.

In the puzzle, scenes of noise hold one marker, bright or dark, that decides
the class of the middle window. It lies outside of all that two views show,
and inside the third.
"""
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from test_puzzle import CLASSES, FAMILIES, SIDE, accuracy_after
from test_tools import call, check_test_output, log_lines

from relay_seg.relay import relay_step
from relay_seg.views import (
    Window,
    area_mean,
    contexts_of,
    cut_views,
    reader,
)

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/relay/rt3_swin2_t_dubai.py'
FACTORS = (4, 16)

# The puzzle ------------------------------------------------------------------

MARKER = 64  # native pixels: four of the widest view


def scenes_of(size, generator):
    """Scenes that the widest view just holds; the class of their middle."""
    extent, seen = FACTORS[1] * SIDE, FACTORS[0] * SIDE
    label = torch.randint(CLASSES, (size, ), generator=generator)
    # Noise whose means over 16 pixels differ as much as single pixels do:
    # no view is smoother than another.
    scenes = torch.rand(
        size, 1, extent // 16, extent // 16, generator=generator)
    scenes = scenes.repeat_interleave(16, 2).repeat_interleave(16, 3)
    first, last = (extent - seen) // 2, (extent + seen) // 2
    for i in range(size):
        while True:
            y, x = torch.randint(
                extent - MARKER, (2, ), generator=generator).tolist()
            if (y + MARKER <= first or y >= last
                    or x + MARKER <= first or x >= last):
                break
        scenes[i, :, y:y + MARKER, x:x + MARKER] = 3. if label[i] else -2.
    return scenes, label


def cut(scenes, factors):
    middle = (scenes.shape[-1] - SIDE) // 2
    window = Window(middle, middle, SIDE, SIDE)
    return cut_views(reader(scenes, 0.), window, contexts_of(factors))


def puzzle_of(factors):
    def draw(size, generator):
        scenes, label = scenes_of(size, generator)
        return cut(scenes, factors), label
    return draw


def test_widest_view_holds_the_cue_and_the_others_do_not():
    generator = torch.Generator().manual_seed(0)
    scenes, label = scenes_of(64, generator)
    local, middle, widest = cut(scenes, FACTORS)
    for view in (local, middle):
        assert 0 <= view.min() and view.max() <= 1
    bright = widest.flatten(1).amax(1) > 1
    dark = widest.flatten(1).amin(1) < 0
    assert torch.equal(bright, label == 1)
    assert torch.equal(dark, label == 0)


def test_three_views_solve_the_puzzle():
    share, _ = accuracy_after(
        lambda: FAMILIES['vit'](num_views=3), 400, 0.95, puzzle_of(FACTORS))
    assert share >= 0.95


def test_two_views_do_not():
    share, _ = accuracy_after(
        FAMILIES['vit'], 150, 0.95, puzzle_of(FACTORS[:1]))
    assert share < 0.60


def test_relay_tokens_pass_from_the_widest_view_to_the_local_one():
    def block(x, relay, relay_only=False):
        seen.append(x.item())
        return x, relay + x

    seen = []
    branches = tuple(torch.full((1, 1, 1), v) for v in (1., 10., 100.))
    _, relay = relay_step(
        [block] * 3, branches, torch.zeros(1, 1, 1), 'sequential')
    assert seen == [100., 10., 1.]
    assert relay.item() == 111.


# From config to prediction ---------------------------------------------------

WINDOW = 64
SMALL = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=12, depths=[1, 1, 2, 1],
            num_heads=[1, 2, 4, 8], extra_norm_every_n_blocks=0),
        img_size=WINDOW, window_size=2),
    decode_head=dict(in_channels=[12, 24, 48, 96], channels=8),
    test_cfg=dict(crop_size=(WINDOW, WINDOW), stride=(WINDOW, WINDOW)))


def write_config(folder, base=CONFIG):
    """The config with a thin model."""
    path = folder / f'thin_{base.name}'
    path.write_text(f"_base_ = '{base}'\nmodel = {SMALL}\n")
    return path


def test_sample_holds_the_views_of_the_config(module_scenes):
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    cfg.train_dataloader.dataset.data_root = str(module_scenes)
    steps = cfg.train_dataloader.dataset.pipeline
    steps[0].update(window=(WINDOW, WINDOW), scale_prob=0., rotate_prob=0.)
    del steps[2:4]  # neither flips nor colours
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    local, middle, widest = sample['inputs']
    inner = WINDOW // 4
    first = (WINDOW - inner) // 2
    part = slice(first, first + inner)
    for narrow, wide in ((local, middle), (middle, widest)):
        torch.testing.assert_close(
            area_mean(narrow, 4), wide[:, part, part], rtol=0, atol=1.)
    labels = sample['data_samples']
    shapes = [labels.get(key).shape[-1] for key in sorted(labels.keys())]
    assert sorted(shapes) == [WINDOW, 4 * WINDOW, 16 * WINDOW]


def test_config_trains_and_tests(module_scenes, tmp_path):
    config = write_config(tmp_path)
    settings = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.0.window': f'[{WINDOW},{WINDOW}]',
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'param_scheduler.0.end': 1,
        'param_scheduler.1.begin': 1,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 2,
    }
    for split in ('train', 'val', 'test'):
        settings[f'{split}_dataloader.dataset.data_root'] = module_scenes
        settings[f'{split}_dataloader.num_workers'] = 0
        settings[f'{split}_dataloader.persistent_workers'] = False
    options = ['--cfg-options', *(f'{k}={v}' for k, v in settings.items())]
    work = tmp_path / 'work'
    call('tools/train.py', config, '--work-dir', work, *options)
    assert [step for step, _, _ in log_lines(work)] == [1, 2]
    log = next(work.glob('*/vis_data/scalars.json')).read_text()
    first = json.loads(log.splitlines()[0])
    for name in ('loss_global_1', 'loss_global_2', 'loss_agree_1',
                 'loss_agree_2'):
        assert first[name] > 0
    call('tools/test.py', config, work / 'iter_2.pth', '--work-dir',
         tmp_path, '--out', tmp_path / 'ids', '--show-dir',
         tmp_path / 'pictures', *options)
    check_test_output(
        tmp_path, tmp_path / 'ids', tmp_path / 'pictures', module_scenes)


def segmentor_of(config):
    init_default_scope('mmseg')
    segmentor = MODELS.build(Config.fromfile(config).model)
    with torch.no_grad():
        for p in segmentor.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return segmentor


@torch.no_grad()
def middle_of_prediction(segmentor, scene):
    """Logits of the window in the middle of a square scene."""
    sample = SegDataSample(metainfo=dict(
        img_shape=scene.shape[1:], ori_shape=scene.shape[1:]))
    result, = segmentor.eval().test_step(
        dict(inputs=[scene], data_samples=[sample]))
    first = (scene.shape[-1] - WINDOW) // 2
    part = slice(first, first + WINDOW)
    return result.seg_logits.data[:, part, part]


@pytest.mark.parametrize('name, sees', [('rt3', True), ('rt', False)])
def test_only_three_views_see_the_far_corner_of_a_scene(
        name, sees, tmp_path):
    base = CONFIG.with_name(CONFIG.name.replace('rt3', name))
    segmentor = segmentor_of(write_config(tmp_path, base))
    scene = 255 * torch.rand(3, 7 * WINDOW, 7 * WINDOW)
    before = middle_of_prediction(segmentor, scene)
    scene[:, :WINDOW, :WINDOW] = 255.
    change = (middle_of_prediction(segmentor, scene) - before).abs().max()
    assert change > 1e-4 if sees else change == 0


def test_every_parameter_learns_from_a_step(module_scenes, tmp_path):
    cfg = Config.fromfile(write_config(tmp_path))
    init_default_scope('mmseg')
    data = cfg.train_dataloader.dataset
    data.data_root = str(module_scenes)
    data.pipeline[0].window = (WINDOW, WINDOW)
    dataset = DATASETS.build(data)
    segmentor = segmentor_of(write_config(tmp_path)).train()
    batch = segmentor.data_preprocessor(
        pseudo_collate([dataset[0], dataset[1]]), training=True)
    loss, _ = segmentor.parse_losses(segmentor(**batch, mode='loss'))
    loss.backward()
    stems = [name for name, _ in segmentor.named_parameters()
             if 'global_patch_embed.1.' in name]
    assert stems
    without = [name for name, p in segmentor.named_parameters()
               if p.grad is None or not p.grad.abs().max() > 0]
    assert not [name for name in without if name in stems]
    assert not [name for name in without if 'relay' in name]


def main():
    """The table of docs/context_puzzle.md."""
    torch.set_num_threads(1)
    print('| model | context factors | steps to 95 % | accuracy |')
    print('|---|---|---|---|')
    for family, build in FAMILIES.items():
        for factors in (FACTORS[:1], FACTORS):
            share, steps = accuracy_after(
                lambda f=factors, b=build: b(num_views=1 + len(f)), 300,
                0.95, puzzle_of(factors))
            steps = steps if share >= 0.95 else 'not in 300'
            print(f'| {family} | {factors} | {steps} | {share:.3f} |',
                  flush=True)


if __name__ == '__main__':
    main()
