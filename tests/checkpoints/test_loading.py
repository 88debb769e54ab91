"""Weights that do not fit are refused, with what differs and a remedy."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from test_tools import PLAIN, RELAY, call, options

from relay_seg.checkpoints import (
    CheckpointError,
    check_class_order,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from relay_seg.datasets import DubaiDataset
from relay_seg.engine import build_runner
from relay_seg.inference import load_model

ROOT = Path(__file__).parents[2]
VIT = 'configs/plain/vit_s_dubai.py'
LINEAR = dict(_delete_=True, type='LinearHead', stride=32, in_channels=384,
              in_index=3, num_classes=6)


def build(config=RELAY, **settings):
    cfg = Config.fromfile(ROOT / config)
    init_default_scope('mmseg')
    settings = {'decode_head.channels': 8} | settings
    cfg.merge_from_dict({f'model.{k}': v for k, v in settings.items()})
    model = MODELS.build(cfg.model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model


@pytest.fixture(scope='module')
def relay():
    return build()


@pytest.fixture(scope='module')
def relay_file(relay, tmp_path_factory):
    path = tmp_path_factory.mktemp('relay') / 'relay.pth'
    write_checkpoint(dict(state_dict=relay.state_dict(), meta=dict(
        experiment_name='rt_dubai_20260101')), path)
    return path


@pytest.fixture(scope='module')
def plain_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('plain') / 'plain.pth'
    write_checkpoint(dict(state_dict=build(PLAIN).state_dict()), path)
    return path


@pytest.mark.parametrize('change', [
    lambda x: x, lambda x: x['state_dict'],
    lambda x: {f'module.{k}': v for k, v in x['state_dict'].items()},
    lambda x: {k: v for k, v in x['state_dict'].items()
               if 'relative_position_index' not in k}],
    ids=['checkpoint', 'bare', 'several processes', 'published'])
def test_every_weight_finds_its_place(relay, relay_file, tmp_path, change):
    path = tmp_path / 'model.pth'
    write_checkpoint(change(read_checkpoint(relay_file)), path)
    model = build()
    for parameter in model.parameters():
        parameter.data.zero_()
    load_weights(model, path)
    expected = relay.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_wrapped_model_is_loaded(relay_file):
    class Flips(BaseTTAModel):

        def merge_preds(self, data_samples_list):
            return data_samples_list

    model = build()
    load_weights(Flips(model), relay_file)
    expected = read_checkpoint(relay_file)['state_dict']
    assert torch.equal(model.backbone.relay_tokens,
                       expected['backbone.relay_tokens'])


def refusal(model, path):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    return str(error.value), before


def test_other_number_of_classes(relay_file):
    message, _ = refusal(
        build(**{'decode_head.num_classes': 9}), relay_file)
    assert 'relay.pth does not fit' in message
    assert 'written by rt_dubai_20260101' in message
    assert 'tells 5 classes apart, the model 9' in message
    assert 'set num_classes=5 in decode_head' in message
    assert 'decode_head.conv_seg.weight (5, 8, 1, 1) for (9, 8, 1, 1)' in (
        message)
    assert 'bands' not in message and 'another one' not in message


def test_other_number_of_classes_of_the_linear_head(tmp_path):
    """Its weights have classes on another axis."""
    path = tmp_path / 'linear.pth'
    write_checkpoint(build(decode_head=LINEAR).state_dict(), path)
    other = build(decode_head=LINEAR | dict(num_classes=3))
    assert 'tells 6 classes apart, the model 3' in refusal(other, path)[0]


def test_other_number_of_bands(relay_file):
    message, _ = refusal(build(**{'backbone.in_channels': 4}), relay_file)
    assert 'trained on 3 bands, the model takes 4' in message
    assert 'in_channels=3' in message
    assert 'backbone.patch_embed.projection.weight' in message
    assert 'classes' not in message


def test_plain_and_relay_are_not_mixed_up(relay_file, plain_file):
    message, before = refusal(build(RELAY), plain_file)
    assert 'is of a plain model, the config of a relay one' in message
    assert '--to relay' in message
    assert 'backbone.relay_tokens' in message
    model = build(PLAIN)
    message, before = refusal(model, relay_file)
    assert 'is of a relay model, the config of a plain one' in message
    assert '--to plain' in message and 'without a place' in message
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # nothing was loaded


def test_plain_file_does_not_fill_global_views_in_silence(plain_file):
    """Without relay tokens every weight of the model could be made up."""
    model = build(**{'backbone.num_relay_tokens': 0})
    assert 'backbone.global_patch_embed.0' in refusal(model, plain_file)[0]


def test_other_backbone(plain_file, tmp_path):
    message, _ = refusal(build(VIT), plain_file)
    assert 'Its backbone is another one: ' in message
    deeper = build(PLAIN, **{'backbone.arch.depths': [2, 2, 6, 2]})
    assert 'another one' in refusal(deeper, plain_file)[0]


def test_long_lists_are_counted(plain_file, relay_file):
    message, _ = refusal(build(PLAIN), relay_file)
    lines = [x for x in message.splitlines() if 'without a place' in x]
    count = int(lines[0].split()[0])
    assert count > 10 and lines[0].count(', ') == 10
    assert lines[0].endswith(', ...')


@pytest.mark.parametrize('content', [
    {}, dict(state_dict={}), dict(meta=dict(a=1)), dict(epoch=3)])
def test_file_without_weights(tmp_path, content):
    path = tmp_path / 'nothing.pth'
    write_checkpoint(content, path)
    with pytest.raises(CheckpointError, match='holds no weights'):
        load_weights(torch.nn.Linear(1, 1), path)


@pytest.mark.parametrize('tool', ['test', 'train', 'resume'])
def test_tools_are_as_strict(tool, relay_file, plain_file, module_scenes,
                             tmp_path):
    """Where the host's runner goes on with random weights."""
    settings = options(module_scenes, 2, **(
        {} if tool == 'test' else dict(load_from=plain_file)))
    arguments = {'test': [plain_file], 'train': [], 'resume': ['--resume']}
    message = 'nothing to resume' if tool == 'resume' else 'plain model'
    with pytest.raises(CheckpointError, match=message):
        call(f'tools/{"test" if tool == "test" else "train"}.py', RELAY,
             *arguments[tool], '--work-dir', tmp_path, *settings)


@pytest.mark.parametrize('before, now, fits', [
    ('ab', 'ab', True), ('ab', 'ba', False), ('ab', 'xy', True),
    ('', 'ab', True), ('aab', 'aba', False)])
def test_classes_in_another_order(before, now, fits):
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=tuple(before))))
    if fits:
        check_class_order(checkpoint, now, 'x.pth')
        return
    with pytest.raises(CheckpointError, match='x.pth was trained on'):
        check_class_order(checkpoint, now, 'x.pth')


def test_test_and_prediction_refuse_classes_in_another_order(
        relay, tmp_path):
    path = tmp_path / 'turned.pth'
    classes = DubaiDataset.METAINFO['classes'][::-1]
    write_checkpoint(dict(state_dict=relay.state_dict(), meta=dict(
        dataset_meta=dict(classes=classes))), path)
    cfg = Config.fromfile(ROOT / RELAY)
    cfg.model.decode_head.channels = 8
    with pytest.raises(CheckpointError, match='in this order'):
        load_model(cfg, path)
    cfg.work_dir, cfg.launcher = str(tmp_path / 'work'), 'none'
    cfg.load_from = str(path)
    with pytest.raises(CheckpointError, match='in this order'):
        build_runner(cfg).test()
