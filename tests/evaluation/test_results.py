"""results.json of a real test run on generated scenes."""
import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.visualization import SegLocalVisualizer

import relay_seg
from relay_seg.engine import build_runner
from relay_seg.evaluation.report import means
from relay_seg.evaluation.results import (
    changed_settings,
    model_name,
    protocol,
    raw_folders,
    read_results,
    strict_json,
    write_results,
)

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/relay/rt_swin2_n_dubai.py'


@pytest.fixture(scope='module')
def tested(module_scenes, tmp_path_factory):
    """Work dir, checkpoint and metrics of a test of an untrained model."""
    work = tmp_path_factory.mktemp('tested')
    SegLocalVisualizer._instance_dict.clear()  # it logs to its first folder
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({
        'model.decode_head.channels': 8,
        'test_dataloader.dataset.data_root': str(module_scenes),
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
        'model.test_cfg.blend': 'center'})
    cfg.work_dir, cfg.launcher = str(work), 'none'
    runner = build_runner(cfg)
    checkpoint = work / 'random.pth'
    torch.save(dict(state_dict=runner.model.state_dict()), checkpoint)
    metrics = runner.test()
    write_results(runner, metrics, checkpoint, 1.5)
    return work, checkpoint, metrics


def test_file_is_strict_json_that_reads_back(tested):
    work, _, metrics = tested

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    text = (work / 'results.json').read_text()
    assert json.loads(text, parse_constant=refuse) == read_results(work)
    # These are for the schedules and for tools/demo.py.
    assert read_results(work)['metrics'] == metrics
    assert {'mIoU', 'mF1', 'aAcc'} < metrics.keys()


def test_numbers_follow_from_the_confusion_matrix(tested, module_scenes):
    results = read_results(tested[0])
    matrix = np.array(results['confusion'])
    assert results['metrics'] == pytest.approx(means(matrix) | {
        f'IoU/{line["class"]}': line['IoU'] for line in results['classes']})
    assert [c['class'] for c in results['classes']] == [
        'building', 'land', 'road', 'vegetation', 'water']
    assert [c['true_pixels'] for c in results['classes']] == (
        matrix.sum(1).tolist())
    scenes = results['scenes']
    assert [s['scene'] for s in scenes] == ['a.tif', 'b.tif']
    # 150 x 170 pixels each, of which 12 x 20 are ignored.
    assert [s['pixels'] for s in scenes] == [150 * 170 - 240] * 2
    right = sum(s['aAcc'] * s['pixels'] for s in scenes)
    assert results['metrics']['aAcc'] == pytest.approx(
        right / matrix.sum())


def test_scenes_stand_in_a_csv_too(tested):
    lines = list(csv.DictReader((tested[0] / 'scenes.csv').open()))
    scenes = read_results(tested[0])['scenes']
    assert [line['scene'] for line in lines] == ['a.tif', 'b.tif']
    for line, scene in zip(lines, scenes):
        for key in ('pixels', 'ignored', 'mIoU', 'mF1', 'aAcc'):
            assert float(line[key]) == pytest.approx(scene[key])


def test_what_was_tested_is_said(tested, module_scenes):
    work, checkpoint, _ = tested
    results = read_results(work)
    assert results['checkpoint'] == dict(
        file=str(checkpoint), bytes=checkpoint.stat().st_size,
        sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    assert results['config']['file'] == str(CONFIG)
    again = Config.fromstring(results['config']['text'], '.py')
    assert again.model.test_cfg.blend == 'center'  # overrides are in it
    assert results['config']['changed'] == {'model.decode_head.channels': 8}
    assert results['model'] == dict(
        name=None, relay=True, relay_tokens=4, decode_head='UPerHead')
    protocol = results['protocol']
    assert protocol['data_root'] == str(module_scenes)
    assert {k: protocol[k] for k in (
        'dataset', 'split', 'num_scenes', 'num_classes', 'ignore_index',
        'mode', 'window', 'input_size', 'stride', 'blend',
        'windows_per_batch', 'context_factors',
        'context_reductions')} == dict(
            dataset='DubaiDataset', split='test', num_scenes=2,
            num_classes=5, ignore_index=255, mode='slide',
            window=[128, 128], input_size=[128, 128], stride=[96, 96],
            blend='center',
            windows_per_batch=16, context_factors=[4],
            context_reductions=[4])
    assert results['versions']['relay_seg'] == relay_seg.__version__
    assert results['versions']['torch'] == torch.__version__
    assert results['world_size'] == 1
    assert results['seconds'] == 1.5
    # Importing PyTorch and the host alone takes more than 100 MB.
    assert results['peak_memory']['process_bytes'] > 1e8
    assert results['parameters'] > 5e6
    assert not list(work.glob('.*'))


def test_input_size_is_that_of_the_test_settings():
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({'model.test_cfg.input_size': (96, 96)})

    class Scenes(list):
        metainfo = dict(classes=('a', 'b'))

    found = protocol(cfg, Scenes(), 255)
    assert (found['window'], found['input_size']) == ([128, 128], [96, 96])
    cfg.model.test_cfg.mode = 'whole'
    assert protocol(cfg, Scenes(), 255)['input_size'] is None


def test_changed_settings_are_those_that_train():
    cfg = Config.fromfile(CONFIG)
    assert changed_settings(cfg) == {}
    cfg.merge_from_dict({
        'optim_wrapper.optimizer.lr': 3., 'param_scheduler.1.end': 7,
        'model.loss_global': None, 'model.test_cfg.blend': 'center',
        'train_dataloader.num_workers': 0, 'launcher': 'slurm',
        'train_dataloader.dataset.data_root': 'elsewhere'})
    found = changed_settings(cfg)
    assert found['optim_wrapper.optimizer.lr'] == 3.
    assert found['param_scheduler.1.end'] == 7
    assert [k for k in found if not k.startswith('model.loss_global')] == [
        'optim_wrapper.optimizer.lr', 'param_scheduler.1.end']
    assert changed_settings(Config(dict(model=dict()))) is None


def test_raw_folders_come_from_the_manifest():
    scenes = [dict(sources=[dict(path='Train Imgs/a.jpg'),
                            dict(path=f'Maps{i}_T/Maps{i}_T/a.png')])
              for i in (1, 2)]
    assert raw_folders(dict(scenes=scenes)) == [
        'Maps1_T', 'Maps2_T', 'Train Imgs']
    assert raw_folders(dict(options={})) is None


def test_what_is_undefined_is_null():
    content = dict(a=float('nan'), b=[float('inf'), 1.], c=(2, 'x'))
    assert json.loads(strict_json(content)) == dict(
        a=None, b=[None, 1.], c=[2, 'x'])


@pytest.mark.parametrize('name, expected', [
    ('relay/rt_vit_s_urur', 'ViT-S'), ('plain/vit_s_urur', 'ViT-S'),
    ('relay/rt_swin2_b_gleason', 'SwinV2-B'),
    ('plain/swin2_t_dubai', 'SwinV2-T'), ('plain/swin2_n_dubai', None)])
def test_models_have_short_names(name, expected):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    assert model_name(cfg.model) == expected


@pytest.mark.parametrize('text, message', [
    ('{', 'is no JSON'),
    ('[1]', 'no file of results'),
    ('{"metrics": {}}', 'no file of results'),
    ('{"schema": "relay_seg/results", "schema_version": 99}', 'version 99'),
    ('{"schema": "relay_seg/results", "schema_version": 1, "metrics": {}}',
     "misses .*'checkpoint'"),
])
def test_other_files_are_refused(text, message, tmp_path):
    path = tmp_path / 'results.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(path)
    with pytest.raises(ValueError, match='is no JSON'):
        (tmp_path / 'x.png').write_bytes(b'\x89PNG\xff')
        read_results(tmp_path / 'x.png')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read_results(tmp_path / 'nowhere.json')
