"""What does not fit is said before the first step."""
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from test_tools import PLAIN, RELAY, call, options

from relay_seg.checkpoints import CheckpointError, read_checkpoint
from relay_seg.config import load_config
from relay_seg.engine import build_runner
from relay_seg.evaluation.results import read_results

ROOT = Path(__file__).parents[1]


def run(scenes, work, test=False, config=RELAY, **changed):
    cfg = load_config(ROOT / config, options(scenes, 1)[1:])
    cfg.merge_from_dict(dict(changed, **{
        'work_dir': str(work), 'launcher': 'none',
        'default_hooks.checkpoint.interval': 99,
        'default_hooks.logger': None}))
    runner = build_runner(cfg)
    runner.test() if test else runner.train()
    return runner.message_hub


def log(work):
    return '\n'.join(path.read_text() for path in work.glob('*/*.log'))


@pytest.mark.parametrize('test', [False, True], ids=['train', 'test'])
@pytest.mark.parametrize('classes', [4, 6])
def test_classes_of_head_and_data(scenes, tmp_path, classes, test):
    with pytest.raises(ValueError, match=(
            f'num_classes={classes}.*num_classes=5')):
        run(scenes, tmp_path / 'run', test,
            **{'model.decode_head.num_classes': classes})


def test_classes_of_the_validation(scenes, tmp_path):
    with pytest.raises(ValueError, match='validation.* 2 classes'):
        run(scenes, tmp_path / 'run', **{
            'val_dataloader.dataset.metainfo': dict(
                classes=('building', 'land'), palette=[[0, 0, 0], [1, 1, 1]])})


@pytest.mark.parametrize('changed, message', [
    ({'model.backbone.in_channels': 4}, 'in_channels=4.*of 3 bands'),
    ({'model.backbone.in_channels': 4,
      'model.data_preprocessor.mean': [1.] * 4,
      'model.data_preprocessor.std': [1.] * 4}, 'fill.*3 bands.*4'),
    ({'model.backbone.in_channels': 4,
      'model.data_preprocessor.mean': [1.] * 4,
      'model.data_preprocessor.std': [1.] * 4,
      'train_dataloader.dataset.pipeline.1.fill': [1.] * 4},
     r'a.tif has 3 bands.*takes 4'),
    ({'val_dataloader.dataset.pipeline.0.num_bands': 1},
     'num_bands of ReadScene is for 1')])
def test_bands(scenes, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        run(scenes, tmp_path / 'run', **changed)


@pytest.mark.parametrize('config, changed, message', [
    (RELAY, {'train_dataloader.dataset.context_factors': (8, )},
     r'model.context_factors=\(4,\).*dataset.context_factors=\(8,\)'),
    (RELAY, {'train_dataloader.dataset.context_reductions': (2, )},
     r'model.context_reductions=\(4,\).*context_reductions=\(2,\)'),
    (PLAIN, {'train_dataloader.dataset.context_factors': (4, )},
     r'model.context_factors=\(\).*context_factors=\(4,\)')])
def test_surroundings_of_model_and_data(scenes, tmp_path, config, changed,
                                        message):
    with pytest.raises(ValueError, match=message):
        run(scenes, tmp_path / 'run', config=config, **changed | {
            'model.loss_global': None, 'model.loss_agree': None}
            if config == RELAY else changed)


REPEATED = dict(type='RepeatDataset', times=2)


@pytest.mark.parametrize('changed, message', [
    (dict(sampler=dict(type='DefaultSampler', _delete_=True),
          dataset=dict(class_balanced=True)),
     'class_balanced=True.*sampler is DefaultSampler'),
    (dict(sampler=dict(type='InfiniteSampler', _delete_=True),
          dataset=dict(area='labelled')), "area='labelled'.*InfiniteSampler"),
    (REPEATED, 'RepeatDataset does not pass on the numbers'),
    (dict(type='ConcatDataset', inside=REPEATED), 'RepeatDataset does not')])
def test_samples_that_would_not_be_drawn(scenes, tmp_path, changed, message):
    cfg = load_config(ROOT / RELAY, options(scenes, 1)[1:])
    (scenes / 'manifest.json').write_text(json.dumps(dict(scenes=[
        dict(image=dict(path=f'img_dir/train/{name}.tif'),
             class_pixels=[1] * 5) for name in 'ab'])))
    loader = cfg.train_dataloader
    if 'type' not in changed:
        cfg.merge_from_dict(dict(train_dataloader=changed))
    else:
        repeated = dict(REPEATED, dataset=loader.dataset)
        loader.dataset = repeated if changed is REPEATED else dict(
            type='ConcatDataset', datasets=[loader.dataset, repeated])
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'run'), launcher='none'))
    with pytest.raises(ValueError, match=message):
        build_runner(cfg).train()


def test_windows_larger_than_scenes_are_said(scenes, tmp_path):
    run(scenes, tmp_path / 'run', **{
        'train_dataloader.dataset.pipeline.0.window': (160, 160),
        'train_dataloader.dataset.pipeline.0.input_size': (128, 128)})
    said = log(tmp_path / 'run')
    assert '2 of 2 training scenes' in said
    assert '150 x 170' in said and '--window' in said


def test_scenes_into_which_no_window_fits(scenes, tmp_path):
    with pytest.raises(ValueError, match='a.tif.*min_inside=0.9.*--window'):
        run(scenes, tmp_path / 'run', **{
            'train_dataloader.dataset.pipeline.0.window': (256, 256),
            'train_dataloader.dataset.pipeline.0.min_inside': 0.9,
            'train_dataloader.dataset.pipeline.0.scale_prob': 0.})


@pytest.mark.parametrize('manifest', [False, True])
def test_classes_that_no_label_has_are_said(tmp_path, make_scene, manifest):
    label = np.zeros((150, 170), np.uint8)
    label[:, 90:] = 3
    for split in ('train', 'val', 'test'):
        make_scene(tmp_path, split, 'a', label=label)
    if manifest:
        (tmp_path / 'manifest.json').write_text(json.dumps(dict(scenes=[dict(
            image=dict(path='img_dir/train/a.tif'),
            class_pixels=[1, 0, 0, 1, 0])])))
    run(tmp_path, tmp_path / 'run')
    assert 'label holds land, road, water:' in log(tmp_path / 'run')


def test_labels_without_a_class_are_refused(tmp_path, make_scene):
    nothing = np.full((150, 170), 255, np.uint8)
    for split in ('train', 'val', 'test'):
        make_scene(tmp_path, split, 'a', label=nothing)
    with pytest.raises(ValueError, match='a.tif.*all are ignored'):
        run(tmp_path, tmp_path / 'run')


# Two classes


def binary(scenes, head):
    """Changes that make a run of building and of all else."""
    metainfo = dict(classes=('land', 'building'),
                    palette=[[0, 0, 0], [255, 0, 0]])
    found = {f'{split}_dataloader.dataset.metainfo': metainfo
             for split in ('train', 'val', 'test')}
    for split in ('train', 'val', 'test'):
        for name in 'ab':
            path = scenes / f'ann_dir/{split}/{name}.tif'
            with rasterio.open(path, 'r+') as file:
                label = file.read()
                file.write(np.where(label == 255, 255, label % 2))
    return found | {f'model.decode_head.{k}': v for k, v in head.items()}


@pytest.mark.parametrize('head', [
    dict(num_classes=2),
    {'num_classes': 2, 'out_channels': 1, 'loss_decode.use_sigmoid': True}],
    ids=['two', 'one'])
def test_two_classes_train_with_two_logits_and_one(scenes, tmp_path, head):
    said = run(scenes, tmp_path / 'run', **binary(scenes, head))
    for loss in ('decode.loss_ce', 'loss_global', 'loss_agree'):
        assert said.get_scalar(f'train/{loss}').current() > 0.01
    assert 0 < said.get_scalar('val/mIoU').current() < 100


def test_one_logit_without_a_sigmoid_is_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match='out_channels=1.*use_sigmoid=True'):
        run(scenes, tmp_path / 'run', **binary(scenes, dict(
            num_classes=2, out_channels=1)))


@pytest.mark.parametrize('classes', [1, 2])
def test_a_validation_of_one_class_chooses_no_model(tmp_path, make_scene,
                                                    classes):
    for split in ('train', 'val', 'test'):
        label = np.zeros((150, 170), np.uint8)
        if split == 'train' or classes == 2:
            label[:, 90:] = 1
        make_scene(tmp_path, split, 'a', label=label)
    work = tmp_path / 'run'
    run(tmp_path, work)
    assert bool([*work.glob('best*')]) == (classes == 2)
    assert ('true pixels of building only' in log(work)) == (classes == 1)


@pytest.mark.parametrize('changed, message', [
    ({'default_hooks.checkpoint.save_best': 'IoU/watr'},
     r"save_best of CheckpointHook='IoU/watr'.*'mIoU'.*'IoU/water'"),
    ({'default_hooks.stop': dict(
        type='EarlyStoppingHook', monitor='mIuO', rule='greater')},
     "monitor of EarlyStoppingHook='mIuO'"),
    ({'param_scheduler': [dict(type='ReduceOnPlateauLR', by_epoch=False)]},
     "monitor of ReduceOnPlateauLR='loss'")])
def test_what_nobody_measures_is_not_looked_at(scenes, tmp_path, changed,
                                               message):
    with pytest.raises(ValueError, match=message):
        run(scenes, tmp_path / 'run', **changed)


@pytest.mark.parametrize('name, message', [
    ('model.test_cfg.flip', r"test_cfg has \['flip'\].*'flips'"),
    ('env_cfg.matmul_precison', r"matmul_precison'\].*'matmul_precision'")])
def test_settings_that_nothing_reads_are_refused(scenes, tmp_path, name,
                                                 message):
    with pytest.raises(ValueError, match=message):
        run(scenes, tmp_path / 'run', **{name: True})


# Fine-tuning


def test_a_model_of_other_classes_is_trained_on(scenes, tmp_path):
    run(scenes, tmp_path / 'first')
    first = tmp_path / 'first/best.pth'
    next((tmp_path / 'first').glob('best*.pth')).rename(first)
    two = binary(scenes, dict(num_classes=2)) | {
        'load_from': str(first), 'optim_wrapper.optimizer.lr': 0.,
        'optim_wrapper.optimizer.weight_decay': 0.}
    run(scenes, tmp_path / 'second', **two)
    said = log(tmp_path / 'second')
    assert 'other classes' in said and 'decode_head.conv_seg.weight' in said
    before, after = (
        read_checkpoint(next(folder.glob('best*.pth')))['state_dict']
        for folder in (tmp_path / 'first', tmp_path / 'second'))
    for key in dict(before):
        if 'num_batches' in key or 'running' in key:
            continue
        if 'conv_seg' not in key:
            assert torch.equal(before[key], after[key]), key
    assert len(after['decode_head.conv_seg.weight']) == 2
    with pytest.raises(CheckpointError, match='tells 5 classes.*load_from'):
        run(scenes, tmp_path / 'third', test=True, **two)


# Batch norms, scores of classes, pictures


@pytest.mark.parametrize('changed, message', [
    ({'train_dataloader.batch_size': 1}, 'batch_size=1.*GN'),
    ({'train_dataloader.batch_size': 2,
      'train_dataloader.sampler.samples_per_epoch': 5},
     'last batch.*5 windows.*drop_last')])
def test_a_batch_of_one_is_too_few_for_batch_norms(scenes, tmp_path, changed,
                                                   message):
    with pytest.raises(ValueError, match=message):
        run(scenes, tmp_path / 'run', config=PLAIN, **changed)


def test_batch_norms_of_a_batch_of_one_are_said(scenes, tmp_path):
    run(scenes, tmp_path / 'run', **{'train_dataloader.batch_size': 1})
    assert 'Batch norms learn from a batch of one' in log(tmp_path / 'run')


def test_a_model_is_chosen_by_one_class(scenes, tmp_path):
    work = tmp_path / 'run'
    said = run(scenes, work, **{
        'default_hooks.checkpoint.save_best': 'IoU/road'})
    assert [*work.glob('best_IoU_road_iter_1.pth')]
    mean = np.mean([said.get_scalar(f'val/IoU/{name}').current() for name in (
        'building', 'land', 'road', 'vegetation', 'water')])
    assert mean == pytest.approx(said.get_scalar('val/mIoU').current())


def test_a_seed_leaves_the_rest_and_pictures_are_drawn(scenes, tmp_path):
    call('tools/train.py', RELAY, '--work-dir', tmp_path, '--seed', 3,
         *options(scenes, 2, **{'randomness.diff_rank_seed': True}))
    assert load_config(tmp_path / Path(RELAY).name).randomness == dict(
        seed=3, diff_rank_seed=True)
    assert 'IoU/road,' in (tmp_path / 'scalars.csv').read_text()
    assert Image.open(tmp_path / 'curves.png').size == (900, 900)
    results = []
    for flips in ((), ('--tta', )):
        call('tools/test.py', RELAY, tmp_path / 'iter_2.pth', '--work-dir',
             tmp_path / 'test', *flips, *options(scenes))
        results.append(read_results(tmp_path / 'test'))
    assert [x['protocol']['flips'] for x in results] == [False, True]
    assert results[0]['confusion'] != results[1]['confusion']
    picture = np.asarray(Image.open(tmp_path / 'test/confusion.png'))
    assert picture.std() > 0


@pytest.mark.parametrize('fusion', ['sequential', 'mean'])
def test_a_test_says_what_training_had_otherwise(scenes, tmp_path, capsys,
                                                 fusion):
    run(scenes, tmp_path / 'run')
    run(scenes, tmp_path / 'test', True, **{
        'load_from': str(tmp_path / 'run/iter_1.pth'),
        'model.backbone.fusion': fusion})
    said = ''.join(capsys.readouterr())
    assert ("fusion='sequential', here 'mean'" in said) == (fusion == 'mean')
    assert ('other settings' in said) == (fusion == 'mean')
