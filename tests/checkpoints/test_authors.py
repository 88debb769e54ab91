"""Files as the authors release them give their values, whoever loads them."""
import re

import golden_values
import lightning_files
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS
from test_tools import ROOT, call, options

from relay_seg.checkpoints import (
    CheckpointError,
    load_weights,
    place_weights,
    read_checkpoint,
    register_loaders,
)
from relay_seg.checkpoints.converting import convert_checkpoint
from relay_seg.engine import RelayRunner
from relay_seg.segmentors import PlainEncoderDecoder, RelayEncoderDecoder

FILES = ('vit_rt', 'swin_rt', 'vit_single_reg0', 'swin_single_reg0')


@pytest.fixture(autouse=True)
def safe_loaders():
    register_loaders()


def timm_names(name):
    """Their plain ViT is that of timm, which has no list of views."""
    for part in ('norm1', 'norm2', 'attn', 'mlp', 'pos_embed'):
        name = name.replace(f'{part}.0', part)
    return name


def names_of(file, state):
    """A golden file's weights as they are named in files of theirs."""
    if file == 'vit_single_reg0':
        state = {timm_names(k).replace('model.', 'ViT.'): v
                 for k, v in state.items()}
        # Made for classes that are of no importance.
        state |= {'ViT.fc_norm.weight': torch.rand(48),
                  'ViT.fc_norm.bias': torch.rand(48),
                  'ViT.head.weight': torch.rand(2, 48),
                  'ViT.head.bias': torch.rand(2)}
    elif file == 'vit_rt':
        state |= {'fc_norm.weight': torch.rand(48),
                  'model.fc_norm.bias': torch.rand(48)}
    elif file == 'swin_rt':
        state |= {'model.layers.0.blocks.1.attn_mask': torch.rand(4, 16, 16)}
    return state


def theirs(file, prefix='net.'):
    state = names_of(file, golden_values.weights(golden_values.load(file)))
    return {prefix + k: v for k, v in state.items()}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Name of a golden file -> a Lightning file of the same model."""
    folder = tmp_path_factory.mktemp('authors')
    return {file: lightning_files.write(
        lightning_files.content(theirs(file)), folder / f'{file}.ckpt')
        for file in FILES}


def build(file, **changes):
    return MODELS.build(golden_values.segmentor(file, **changes))


def check(model, file):
    found = golden_values.differences(model, golden_values.load(file))
    assert found[torch.float32] < 1e-4 and found[torch.float64] < 1e-6, found


# All ways into a segmentor --------------------------------------------------


def from_init_cfg(file, path):
    model = build(file, init_cfg=dict(type='Pretrained',
                                      checkpoint=str(path)))
    model.init_weights()
    model.decode_head.load_state_dict(
        golden_values.head_state(golden_values.load(file)))
    return model


def from_predict(file, path):
    model = build(file)
    load_weights(model, path)
    return model


def from_load_from(file, path):
    model = build(file)
    place_weights(
        model, CheckpointLoader.load_checkpoint(str(path)), str(path))
    return model


def from_converted(file, path):
    out = path.with_suffix('.pth')
    convert_checkpoint(path, out,
                       'relay' if file.endswith('rt') else 'plain')
    return from_predict(file, out)


WAYS = (from_init_cfg, from_predict, from_load_from, from_converted)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('file', FILES)
def test_logits_are_theirs(file, way, files):
    model = way(file, files[file])
    kind = (RelayEncoderDecoder if file.endswith('rt')
            else PlainEncoderDecoder)
    assert type(model) is kind
    check(model, file)


def test_hooks_see_our_names(files, monkeypatch):
    """A hook that averages weights copies what it is shown."""
    runner = RelayRunner.__new__(RelayRunner)
    runner.model, runner._resume = build('swin_rt'), False
    runner.cfg = Config()
    shown = []
    runner.logger = MMLogger.get_current_instance()
    monkeypatch.setattr(
        RelayRunner, 'call_hook',
        lambda self, name, checkpoint: shown.append(checkpoint['state_dict']))
    runner.load_checkpoint(str(files['swin_rt']))
    twin = build('swin_rt')
    place_weights(twin, dict(state_dict=shown[0]), 'hook')
    check(twin, 'swin_rt')
    check(runner.model, 'swin_rt')


@pytest.mark.parametrize('file', ['vit_single_reg0', 'swin_single_reg0'])
def test_bare_names_and_a_loss_beside_the_net(file, tmp_path):
    """Without Lightning; compiled; and with the class weights of a loss."""
    for prefix in ('', 'net.', 'net._orig_mod.'):
        state = theirs(file, prefix)
        if prefix == 'net.':
            state['criterion.weight'] = torch.rand(4)
        torch.save(state, tmp_path / 'bare.pth')
        check(from_predict(file, tmp_path / 'bare.pth'), file)
        check(from_init_cfg(file, tmp_path / 'bare.pth'), file)


def test_names_of_the_golden_file_for_the_plain_vit(tmp_path):
    """One view of a relay model, whose names have the number of the view."""
    file = 'vit_single_reg0'
    state = golden_values.weights(golden_values.load(file))
    torch.save({f'net.{k}': v for k, v in state.items()}, tmp_path / 'a.pth')
    check(from_predict(file, tmp_path / 'a.pth'), file)


def test_file_without_objects_gives_weights_alone(tmp_path, log):
    state = theirs('vit_rt')
    path = lightning_files.write(
        lightning_files.content(state, objects=False), tmp_path / 'a.ckpt')
    found = read_checkpoint(path)
    assert found.keys() == {'state_dict', 'epoch', 'global_step',
                            'pytorch-lightning_version'}
    assert not log
    check(from_predict('vit_rt', path), 'vit_rt')


def test_what_is_left_out_is_said_once(files, log):
    found = read_checkpoint(files['vit_rt'])
    assert found.keys() == {'state_dict', 'epoch', 'global_step',
                            'pytorch-lightning_version'}
    assert (found['epoch'], found['global_step']) == (12, 3400)
    assert len(log) == 1
    assert log[0].endswith(
        f'left out unread: {", ".join(lightning_files.UNREAD)}.')


def test_what_was_done_is_said(files, log):
    from_predict('vit_rt', files['vit_rt'])
    assert 'is a model of the authors' in log[-1]
    dropped = log[-1].partition('part in their results: ')[2]
    assert dropped == 'fc_norm.weight, model.fc_norm.bias'
    from_init_cfg('vit_rt', files['vit_rt'])
    dropped = ''.join(log).partition('dropped, not of a backbone: ')[2]
    assert 'fc_norm.weight' in dropped and 'seg_head' in dropped
    report = convert_checkpoint(
        files['vit_rt'], files['vit_rt'].with_name('out.pth'), 'plain')
    assert 'fc_norm.weight' in report and 'seg_head' not in report


# Settings of the model ------------------------------------------------------


@pytest.mark.parametrize('file', ['vit_rt', 'vit_single_reg0'])
def test_layer_scale_of_a_config_gets_ones(file, files, log):
    """Theirs has none, which is LayerScale of one."""
    model = build(file, layer_scale_init_value=1e-4)
    load_weights(model, files[file])
    assert 'LayerScale is new: 6 weights of ones' in log[-1]
    check(model, file)


def test_half_a_layer_scale_is_not_filled(tmp_path):
    """The plain ViT may hold it under timm's names."""
    file = 'vit_single_reg0'
    torch.save(theirs(file) | {'net.ViT.blocks.0.ls1.gamma': torch.rand(48)},
               tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='5 weights that the model'):
        load_weights(build(file, layer_scale_init_value=1e-4),
                     tmp_path / 'a.pth')


def refusal(model, path):
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    return str(error.value)


def test_learned_relay_bias_is_another_model(files):
    """16 * sigmoid(b) is never their zero."""
    message = refusal(build('swin_rt', relay_bias='learned'),
                      files['swin_rt'])
    assert "set relay_bias='zero'" in message
    assert 'backbone.stages.0.blocks.0.relay_bias' in message


@pytest.mark.parametrize('file', ['vit_rt', 'vit_single_reg0'])
def test_final_norm_is_another_model(file, files):
    message = refusal(build(file, final_norm=True), files[file])
    assert 'set final_norm=False' in message


def test_final_norm_of_a_file_has_no_part(tmp_path, log):
    """So it is not given to a config that would apply it."""
    state = theirs('vit_rt') | {'net.model.norm.weight': torch.rand(48),
                                'net.model.norm.bias': torch.rand(48)}
    torch.save(state, tmp_path / 'a.pth')
    check(from_predict('vit_rt', tmp_path / 'a.pth'), 'vit_rt')
    assert 'backbone.ln1.weight' in log[-1]
    assert 'final_norm=False' in refusal(
        build('vit_rt', final_norm=True), tmp_path / 'a.pth')


def test_other_decoder_or_classes_or_kind(files):
    config = golden_values.segmentor('vit_rt')
    config['decode_head'] = dict(
        type='FCNHead', in_channels=48, in_index=0, channels=8,
        num_convs=1, num_classes=4)
    message = refusal(MODELS.build(config), files['vit_rt'])
    assert 'use a config with a LinearHead' in message

    config = golden_values.segmentor('vit_rt')
    config['decode_head']['num_classes'] = 9
    assert 'tells 4 classes apart, the model 9' in refusal(
        MODELS.build(config), files['vit_rt'])
    assert '--to relay' in refusal(build('vit_rt'), files['vit_single_reg0'])


def test_other_fusion_is_said(files, log):
    load_weights(build('vit_rt', fusion='sequential'), files['vit_rt'])
    assert "fusion='sequential': results will differ" in log[-1]


def test_unknown_weights_and_backbones_are_refused(tmp_path):
    torch.save(theirs('vit_rt') | {'net.model.strange': torch.ones(2),
                                   'net.other.weight': torch.ones(2)},
               tmp_path / 'a.pth')
    message = refusal(build('vit_rt'), tmp_path / 'a.pth')
    assert '2 weights of the file without a place' in message
    assert 'strange' in message and 'other.weight' in message
    torch.save({'net.model.stem.weight': torch.ones(2),
                'net.seg_head.layers.0.weight': torch.ones(2, 2, 1, 1)},
               tmp_path / 'a.pth')
    assert 'in no way known here' in refusal(
        build('vit_rt'), tmp_path / 'a.pth')


# Their sizes ----------------------------------------------------------------


def shapes_of(name):
    """Names and shapes of a model of theirs, written from those of timm."""
    is_vit, is_relay = 'vit' in name, name.startswith('rt')
    with torch.device('meta'):
        model = (timm.models.VisionTransformer(
            256, embed_dim=384, num_heads=6, class_token=False,
            global_pool='avg', num_classes=2) if is_vit else
            timm.create_model('swinv2_small_window8_256', num_classes=0))
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    if is_relay:
        views = {}
        for key, shape in shapes.items():
            key = re.sub(r'^(blocks\.\d+\.\w+)', r'\1.0', key)
            twins = key.startswith(('patch_embed', 'pos_embed'))
            for view in (0, 1) if twins else (None, ):
                views[re.sub(r'^(patch|pos)_embed', rf'\g<0>.{view}', key)
                      if twins else key] = shape
        shapes = views
        width = 384 if is_vit else 96
        shapes['reg_token' if is_vit else 'register_token'] = 1, 4, width
        if is_vit:
            shapes |= {f'pos_embed.{v}': (1, 260, 384) for v in (0, 1)}
            del shapes['head.weight'], shapes['head.bias']
        else:
            shapes |= {f'layers.{i}.downsample_token.{part}': shape
                       for i, c in ((1, 192), (2, 384), (3, 768))
                       for part, shape in (('weight', (c, c // 2)),
                                           ('bias', (c, )))}
    prefix = 'net.ViT.' if is_vit and not is_relay else 'net.model.'
    stride, width = (16, 384) if is_vit else (32, 768)
    return {prefix + k: v for k, v in shapes.items()} | {
        'net.seg_head.layers.0.weight': (width, 5, stride, stride),
        'net.seg_head.layers.0.bias': (5, )}


@pytest.mark.parametrize('name', ['rt_vit_s', 'vit_s', 'rt_swin2_s',
                                  'swin2_s'])
def test_released_config_takes_a_file_of_theirs(name, tmp_path, log):
    cfg = Config.fromfile(ROOT / f'configs/released/{name}_gleason.py')
    init_default_scope('mmseg')
    cfg.model.decode_head.num_classes = 5
    model = MODELS.build(cfg.model)
    state = {k: torch.ones(1).expand(shape) * 3
             for k, shape in shapes_of(name).items()}
    load_weights(model, lightning_files.write(
        lightning_files.content(state), tmp_path / 'a.ckpt'))
    for key, value in model.named_parameters():
        new = 'gamma' in key  # LayerScale, which theirs has not
        # Theirs adds rows of position to the relay tokens.
        both = 6 if key == 'backbone.relay_tokens' and 'vit' in name else 3
        assert torch.all(value == (1 if new else both)), key


# Converting -----------------------------------------------------------------


@pytest.mark.parametrize('prefix', ['net.ViT', 'net.ViT.', 'ViT'])
def test_prefix_of_convert(prefix, files, tmp_path):
    """As in the file, or without what stands before every name."""
    file = 'vit_single_reg0'
    convert_checkpoint(files[file], tmp_path / 'a.pth', 'plain',
                       prefix=prefix)
    check(from_predict(file, tmp_path / 'a.pth'), file)


def test_prefix_chooses_one_of_two(tmp_path, monkeypatch, capsys):
    one, two = (golden_values.weights(golden_values.load('vit_rt'))
                for _ in range(2))
    one = {k: v + 1 for k, v in one.items()}
    state = {k.replace('model', name): v
             for name, part in (('one', one), ('two', two))
             for k, v in part.items() if k.startswith('model')}
    torch.save(state, tmp_path / 'a.pth')
    call('tools/convert_checkpoint.py', tmp_path / 'a.pth',
         tmp_path / 'b.pth', '--to', 'relay', '--prefix', 'two')
    assert 'dropped: one.' in capsys.readouterr().out
    found = read_checkpoint(tmp_path / 'b.pth')['state_dict']
    assert torch.equal(found['layers.1.ln1.weight'],
                       two['model.blocks.1.norm1.0.weight'])
    with pytest.raises(SystemExit):
        call('tools/convert_checkpoint.py', tmp_path / 'a.pth',
             tmp_path / 'c.pth', '--to', 'relay', '--prefix', 'net.three')
    assert "prefix='net.three.' is of no weight" in capsys.readouterr().err


def test_relay_model_to_plain(files, tmp_path):
    convert_checkpoint(files['swin_rt'], tmp_path / 'a.pth', 'plain')
    model = build('swin_single_reg0')
    load_weights(model, tmp_path / 'a.pth')
    golden = golden_values.weights(golden_values.load('swin_rt'))
    assert torch.equal(model.decode_head.upsample.bias,
                       golden['seg_head.layers.0.bias'])


# The commands ---------------------------------------------------------------

CONFIG = """
_base_ = '{root}/configs/relay/rt_vit_s_dubai.py'
model = dict(
    backbone=dict(_delete_=True, type='RelayViT', **{backbone}),
    neck=None,
    decode_head=dict(
        _delete_=True, type='LinearHead', stride=16, in_channels=48,
        in_index=0, num_classes=5),
    test_cfg=dict(crop_size=(64, 64), stride=(64, 64)))
"""


def test_commands(module_scenes, tmp_path):
    """tools/test.py and tools/predict.py take the file as it is."""
    config = tmp_path / 'theirs.py'
    config.write_text(CONFIG.format(root=ROOT, backbone=golden_values.VIT))
    state = theirs('vit_rt') | {
        'net.seg_head.layers.0.weight': torch.randn(48, 5, 16, 16),
        'net.seg_head.layers.0.bias': torch.randn(5)}
    path = lightning_files.write(
        lightning_files.content(state), tmp_path / 'theirs.ckpt')
    call('tools/test.py', config, path, '--work-dir', tmp_path / 'work',
         *options(module_scenes))
    assert (tmp_path / 'work/results.json').is_file()
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert 'is a model of the authors' in log and 'left out unread' in log
    with pytest.raises(SystemExit) as stopped:
        call('tools/predict.py', config, path,
             module_scenes / 'img_dir/test/a.tif', '-o', tmp_path / 'a.tif')
    assert not stopped.value.code and (tmp_path / 'a.tif').is_file()
