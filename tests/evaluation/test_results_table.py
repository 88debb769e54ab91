"""The table never mixes protocols or trainings, and says which they are."""
import json
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from relay_seg.evaluation.published import (
    MODELS,
    PUBLISHED,
    differences,
    label_differences,
    training_of,
)
from relay_seg.evaluation.results import (
    changed_settings,
    model_name,
    protocol,
    read_results,
)
from relay_seg.evaluation.table import Table

ROOT = Path(__file__).parents[2]
CELLS = [(dataset, model) for dataset in PUBLISHED for model in MODELS]


def result_of(config, options, scenes, miou=50., sha='a'):
    """What a test of a config would write, its numbers made up."""
    cfg = Config.fromfile(ROOT / config)
    cfg.merge_from_dict(options)
    init_default_scope('mmseg')
    meta = DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO

    class Scenes:
        metainfo = meta

        def __len__(self):
            return scenes

    relay = 'context_factors' in cfg.model
    result = dict(
        schema='relay_seg/results', schema_version=1,
        metrics=dict(mIoU_all=miou, mIoU=miou + 3, mF1=miou + 7, aAcc=80.),
        model=dict(name=model_name(cfg.model), relay=relay,
                   relay_tokens=4 * relay,
                   decode_head=cfg.model.decode_head.type),
        config=dict(file=config, text='', changed=changed_settings(cfg)),
        checkpoint=dict(file='x.pth', bytes=1, sha256=sha * 64),
        protocol=protocol(cfg, Scenes(), 255))
    if result['protocol']['dataset'] == 'GleasonDataset':
        result['protocol']['conversion'] = dict(
            zero='benign', trim=False, votes='released')
    return result


def config_of(dataset, model):
    return f'configs/released/{MODELS[model]}_{PUBLISHED[dataset].name}.py'


def published_result(dataset, model, **kwargs):
    scenes = PUBLISHED[dataset].protocol['num_scenes'] or 40
    return result_of(config_of(dataset, model), {}, scenes, **kwargs)


@pytest.mark.parametrize('dataset, model', CELLS)
def test_released_configs_test_as_the_authors_do(dataset, model):
    result = published_result(dataset, model)
    assert differences(result) == []
    assert training_of(result) == 'released'


def rows(text):
    return [line for line in text.splitlines() if line.startswith('|')]


def test_without_results_the_table_is_empty_and_says_how_to_fill_it():
    text = Table({}).markdown()
    assert len(rows(text)) == 2 + 16
    for published in ('46.5', '57.8', '36.3', '33.2', '75.1'):
        assert f'| {published} |  |' in text
    assert text.count('python tools/reproduce.py') == 1
    assert text in (ROOT / 'docs/results.md').read_text()


def test_result_stands_beside_the_published_number():
    result = published_result(
        'URURDataset', ('SwinV2-S', True), miou=48.25)
    text = Table(dict(r=result)).markdown()
    assert ('| URUR | SwinV2-S + relay | 46.4 | released | 48.2 | +1.9 | 51.2 '
            '| 55.2 | 80.0 |' in rows(text))
    assert '###' not in text


def test_another_training_stands_in_a_row_of_its_own():
    """A UPerNet tested as the authors do is not their training."""
    cell = 'URURDataset', ('SwinV2-S', True)
    same = published_result(*cell, miou=47.)
    test = {'model.test_cfg.blend': 'center',
            'model.test_cfg.stride': (256, 256)}
    own, more = (result_of('configs/relay/rt_swin2_s_urur.py', test, 571,
                           miou=miou, sha=sha)
                 for miou, sha in ((40., 'b'), (44., 'c')))
    tuned = result_of(config_of(*cell), {
        'optim_wrapper.optimizer.lr': 0.5, 'train_dataloader.num_workers': 0,
        'train_dataloader.dataset.data_root': 'elsewhere'},
        571, miou=45., sha='d')
    found = rows(Table(dict(enumerate([own, tuned, same, more]))).markdown())
    mine = [row for row in found if 'URUR | SwinV2-S + relay' in row]
    assert [row.split(' | ')[3] for row in mine] == [
        'released', 'relay/rt_swin2_s_urur (UPerHead)',
        'released/rt_swin2_s_urur (LinearHead) with '
        'optim_wrapper.optimizer.lr=0.5']
    assert [row.split(' | ')[4] for row in mine] == [
        '47.0', '42.0 ± 2.8 (2 runs)', '45.0']
    alone = rows(Table(dict(own=own)).markdown())
    mine = [row for row in alone if 'URUR | SwinV2-S + relay' in row]
    assert '| 46.4 |  |  |' in mine[0] and '| 40.0 | -6.4 |' in mine[1]


def test_files_without_the_newer_keys_are_read(tmp_path):
    result = published_result('URURDataset', ('ViT-S', False), miou=41.)
    for place, key in (('protocol', 'input_size'), ('model', 'decode_head'),
                       ('protocol', 'raw_folders'), ('config', 'changed')):
        del result[place][key]
    (tmp_path / 'results.json').write_text(json.dumps(result))
    text = Table(dict(r=read_results(tmp_path))).markdown()
    assert '| URUR | ViT-S | 36.3 | released | 41.0 |' in text


@pytest.mark.parametrize('change, reason', [
    ({'model.test_cfg.stride': (128, 128)},
     'stride 128x128 (published: 256x256)'),
    ({'model.test_cfg.crop_size': (512, 512)},
     'window 512x512 (published: 256x256)'),
    ({'model.test_cfg.blend': 'gaussian'},
     'blend gaussian (published: center)'),
    ({'test_dataloader.dataset.data_prefix.img_path': 'img_dir/val'},
     'split val (published: test)'),
    ({'model.test_cfg.input_size': (128, 128)},
     'input_size 128x128 (published: 256x256)'),
    ({'model.context_factors': (2, )},
     'context_factors 2 (published: 4)'),
    ({'model.test_cfg.mode': 'whole'}, 'mode whole (published: slide)'),
])
def test_other_protocol_stands_apart(change, reason):
    config = config_of('URURDataset', ('ViT-S', True))
    same = published_result('URURDataset', ('ViT-S', True), miou=41.)
    other = result_of(config, change, 571, miou=99., sha='b')
    text = Table(dict(a=same, b=other)).markdown()
    main, apart = text.split('###')
    assert '| URUR | ViT-S + relay | 40.4 | released | 41.0 |' in main
    assert '99.0' not in main
    assert '99.0' in apart and reason in apart and '41.0' not in apart


def test_other_number_of_scenes_stands_apart():
    config = config_of('URURDataset', ('ViT-S', False))
    text = Table(dict(a=result_of(config, {}, 12))).markdown()
    assert 'num_scenes 12 (published: 571)' in text
    assert '| URUR | ViT-S | 36.3 |  |' in text


def test_converted_otherwise_stands_apart():
    result = published_result('GleasonDataset', ('ViT-S', False))
    result['protocol']['conversion'] = dict(
        zero='ignore', trim=False, votes='classes')
    text = Table(dict(a=result)).markdown()
    assert 'conversion zero=ignore (published: benign)' in text
    assert 'conversion votes=classes (published: released)' in text
    assert '| Gleason | ViT-S | 33.2 |  |' in text


@pytest.mark.parametrize('conversion, folders, same', [
    (dict(votes='released'), ['Maps1_T', 'Train Imgs'], True),
    (dict(votes='majority'), ['Maps_majority', 'Train Imgs'], True),
    (dict(votes='classes'), ['Maps_majority', 'Train Imgs'], True),
    (dict(zero='benign'), ['Maps_majority', 'Train Imgs'], True),
    (dict(zero='benign'), None, False),  # of an older converter
    (dict(votes='classes'), ['Maps1_T', 'Train Imgs'], False),
    (None, None, False),
])
def test_labels_of_gleason_are_the_authors_or_said(conversion, folders, same):
    assert (label_differences(conversion, folders) == []) == same


def test_other_data_set_gets_a_table_for_each_protocol():
    config = 'configs/relay/rt_swin2_t_dubai.py'
    results = [
        result_of(config, {}, 1, 30., 'a'),
        result_of('configs/plain/swin2_t_dubai.py', {}, 1, 31., 'b'),
        result_of(config, {'model.test_cfg.stride': (256, 256)}, 1, 32.,
                  'c')]
    text = Table(dict(enumerate(results))).markdown()
    first, second = text.split('### DubaiDataset: ')[1:]
    assert 'stride 128 x 128' in first and 'stride 256 x 256' in second
    assert '30.0' in first and '31.0' in first and '32.0' in second
    assert 'published: none' in first


def test_several_runs_are_a_mean_with_its_deviation():
    cell = 'CityscapesSceneDataset', ('ViT-S', False)
    runs = {x: published_result(*cell, miou=m, sha=x)
            for x, m in (('a', 50.), ('b', 54.))}
    text = Table(runs).markdown()
    assert ('| Cityscapes | ViT-S | 53.0 | released | 52.0 ± 2.8 (2 runs) '
            '| -1.0 |' in text)


def test_same_checkpoint_twice_is_refused():
    result = published_result('URURDataset', ('ViT-S', False))
    with pytest.raises(ValueError, match='one.json and two.json'):
        Table({'one.json': result, 'two.json': deepcopy(result)})


def test_what_the_authors_do_not_state_must_agree_too():
    """The number of Gleason's cores follows from the download."""
    one = published_result('GleasonDataset', ('ViT-S', False))
    two = published_result('GleasonDataset', ('ViT-S', True), sha='b')
    two['protocol']['num_scenes'] += 1
    with pytest.raises(ValueError, match=r"two.*one.*\['num_scenes'\]"):
        Table(dict(one=one, two=two))


def test_metric_without_value_is_said():
    result = published_result('URURDataset', ('ViT-S', False), miou=1.)
    result['metrics'] = dict(mIoU_all=None, mIoU=None, mF1=None, aAcc=None)
    text = Table(dict(a=result)).markdown()
    assert ('| URUR | ViT-S | 36.3 | released | undefined |  | undefined | '
            'undefined | undefined |' in rows(text))


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['results_table.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/results_table.py'),
                       run_name='__main__')


def blue(path):
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    return (np.abs(picture - (0x2f, 0x6f, 0xb0)).sum(-1) < 10).sum()


@pytest.mark.parametrize('option', ['--out', '--plot'])
def test_tool_does_not_write_over_results(tmp_path, option):
    path = tmp_path / 'results.json'
    path.write_text('{}')
    with pytest.raises(SystemExit):
        call(option, path)
    assert path.read_text() == '{}'


def test_tool_prints_and_writes_table_and_plot(tmp_path, capsys):
    result = published_result('URURDataset', ('ViT-S', False), miou=60.)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/results.json').write_text(json.dumps(result))
    out, plot = tmp_path / 'new/table.md', tmp_path / 'new/table.png'
    call(tmp_path / 'run', '--out', out, '--plot', plot)
    printed = capsys.readouterr().out
    assert '| URUR | ViT-S | 36.3 | released | 60.0 |' in printed
    assert out.read_text() == printed
    call('--plot', tmp_path / 'empty.png')
    # Bars of ours; without results there is only their mark in the legend.
    assert blue(plot) > blue(tmp_path / 'empty.png') + 1000
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == [
        'table.md', 'table.png']


def test_tool_refuses_other_files(tmp_path, capsys):
    path = tmp_path / 'metrics.json'
    path.write_text('{"mIoU": 3}')
    with pytest.raises(SystemExit) as stopped:
        call(path)
    assert stopped.value.code == 2
    assert 'metrics.json is no file of results' in capsys.readouterr().err
