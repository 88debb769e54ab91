"""Each library's model and ours, with its weights, give the same."""
import golden_values
import pytest
import timm
import torch
from mmpretrain.models import SwinTransformerV2, VisionTransformer
from mmseg.registry import WEIGHT_INITIALIZERS
from safetensors.torch import save_file

from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.checkpoints.namings import find_naming
from relay_seg.init_cfg import load_files

ALONE = dict(num_views=1, num_relay_tokens=0)
VITS = {
    # name in timm: LayerScale
    'deit3_small_patch16_224': 1e-4,
    'vit_small_patch16_224': 0.,
    'vit_small_patch16_224.dino': 0.,
}
SWINS = {
    'swinv2_tiny_window8_256': 8,
    'swinv2_tiny_window16_256': [16, 16, 16, 8],
}


def pretrained(path, **more):
    return dict(type='Pretrained', checkpoint=str(path), **more)


def relative(a, b):
    assert a.shape == b.shape
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def with_class_token(model, token, row):
    """Our model with a relay token that is their class token."""
    model.relay_tokens.copy_(token if row is None else token + row)
    return model.eval()


def official_deit3(state):
    names = {'ls1.gamma': 'gamma_1', 'ls2.gamma': 'gamma_2'}
    for theirs, official in names.items():
        state = {k.replace(theirs, official): v for k, v in state.items()}
    return state


def official_swin(state, windows=(8, 8, 8, 8)):
    """timm's weights under the names of the Swin repository."""
    out = {}
    for key, value in state.items():
        parts = key.split('.')
        if parts[2:3] == ['downsample']:
            parts[1] = str(int(parts[1]) - 1)
        out['.'.join(parts).replace('head.fc.', 'head.')] = value
    host = SwinTransformerV2(arch='tiny', window_size=list(windows))
    for key, value in host.named_buffers():
        key = key.replace('stages', 'layers').replace('w_msa.', '')
        out[key] = value
    for stage in range(3):
        out[f'layers.{stage}.blocks.1.attn_mask'] = torch.zeros(4, 64, 64)
    return out


# ViT ------------------------------------------------------------------------


@pytest.mark.parametrize('name', VITS)
def test_vit_of_timm(name, tmp_path, randomise):
    theirs = randomise(timm.create_model(name))
    save_file(theirs.state_dict(), tmp_path / 'timm.safetensors')
    check_vit(theirs, tmp_path / 'timm.safetensors', VITS[name])


def test_vit_of_the_deit3_repository(tmp_path, randomise):
    theirs = randomise(timm.create_model('deit3_small_patch16_224'))
    state = official_deit3(theirs.state_dict())
    assert len(state) == 2 + 2 + 12 * 14 + 2 + 2
    torch.save(dict(model=state), tmp_path / 'deit3.pth')
    check_vit(theirs, tmp_path / 'deit3.pth', 1e-4)


@torch.no_grad()
def check_vit(theirs, path, layer_scale):
    ours = RelayViT(
        'deit-small', 224, layer_scale_init_value=layer_scale, num_views=1,
        num_relay_tokens=1, init_cfg=pretrained(path))
    ours.init_weights()
    has_row = theirs.pos_embed.shape[1] == 197
    row = theirs.pos_embed[:, :1] if has_row else None
    with_class_token(ours, theirs.cls_token, row)
    image = torch.randn(1, 3, 224, 224)
    expected = theirs.forward_features(image)[:, 1:]
    [[found]] = ours((image, ))
    assert relative(found.flatten(2).mT, expected) < 1e-5
    assert expected.std() > 0.1


@torch.no_grad()
def test_vit_of_timm_without_class_token(tmp_path, randomise):
    theirs = randomise(timm.create_model(
        'vit_small_patch16_224', class_token=False, global_pool='avg',
        fc_norm=False, num_classes=0))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    ours = RelayViT('deit-small', 224, **ALONE,
                    init_cfg=pretrained(tmp_path / 'timm.pth'))
    ours.init_weights()
    image = torch.randn(1, 3, 224, 224)
    [[found]] = ours.eval()((image, ))
    expected = theirs.forward_features(image)
    assert relative(found.flatten(2).mT, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize('layer_scale', [0., 1e-4])
def test_vit_of_mmpretrain(layer_scale, tmp_path, randomise):
    theirs = randomise(VisionTransformer(
        arch='deit-small', layer_scale_init_value=layer_scale,
        out_type='featmap'))
    state = {f'backbone.{k}': v for k, v in theirs.state_dict().items()}
    state['head.layers.head.weight'] = torch.randn(1000, 384)
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'mm.pth')
    ours = RelayViT(
        'deit-small', 224, layer_scale_init_value=layer_scale, num_views=1,
        num_relay_tokens=1, init_cfg=pretrained(tmp_path / 'mm.pth'))
    ours.init_weights()
    with_class_token(ours, theirs.cls_token, theirs.pos_embed[:, :1])
    image = torch.randn(1, 3, 224, 224)
    [[found]] = ours((image, ))
    assert relative(found, theirs(image)[0]) < 1e-5


# SwinV2 ---------------------------------------------------------------------


@pytest.mark.parametrize('name', SWINS)
def test_swin_of_timm(name, tmp_path, randomise):
    theirs = randomise(timm.create_model(name))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    check_swin(theirs, tmp_path / 'timm.pth', SWINS[name])


def test_swin_of_its_repository(tmp_path, randomise):
    theirs = randomise(timm.create_model('swinv2_tiny_window8_256'))
    state = official_swin(theirs.state_dict())
    assert 'layers.2.downsample.reduction.weight' in state
    assert 'layers.3.downsample.reduction.weight' not in state
    torch.save(dict(model=state), tmp_path / 'swin.pth')
    check_swin(theirs, tmp_path / 'swin.pth', 8)


@torch.no_grad()
def check_swin(theirs, path, window):
    ours = RelaySwinV2('tiny', 256, window_size=window, **ALONE,
                       out_indices=[0, 1, 2, 3], init_cfg=pretrained(path))
    ours.init_weights()
    image = torch.randn(1, 3, 256, 256)
    expected = theirs.forward_features(image).permute(0, 3, 1, 2)
    [pyramid] = ours.eval()((image, ))
    assert relative(pyramid[-1], expected) < 1e-5
    assert expected.std() > 0.1


@torch.no_grad()
def test_swin_of_mmpretrain(tmp_path, randomise):
    theirs = randomise(SwinTransformerV2(arch='tiny', window_size=8))
    state = {f'backbone.{k}': v for k, v in theirs.state_dict().items()}
    state['head.fc.weight'] = torch.randn(1000, 768)
    torch.save(dict(state_dict=state), tmp_path / 'mm.pth')
    ours = RelaySwinV2('tiny', **ALONE,
                       init_cfg=pretrained(tmp_path / 'mm.pth'))
    ours.init_weights()
    image = torch.randn(1, 3, 256, 256)
    [[found]] = ours.eval()((image, ))
    assert relative(found, theirs(image)[0]) < 1e-5


@pytest.mark.parametrize('size', ['tiny', 'small', 'base', 'large'])
def test_swin_of_every_size_has_each_name_and_shape(size):
    """Of timm and of ours; the tests above compare what they compute."""
    window = {'large': '12_192'}.get(size, '8_256')
    with torch.device('meta'):
        theirs = timm.create_model(f'swinv2_{size}_window{window}')
    state = {k: v for k, v in theirs.state_dict().items()
             if not k.startswith('head.')}
    naming = find_naming(state, 'timm')
    found, unknown = naming.to_ours(state)
    ours = RelaySwinV2(size, **ALONE)
    assert not unknown
    assert ({k: v.shape for k, v in found.items()}
            == {k: v.shape for k, v in ours.named_parameters()})


# The authors' relay models --------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('file', ['vit_rt', 'swin_rt', 'vit_single_reg0',
                                  'swin_single_reg0'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_relay_models_of_the_authors(file, prefix, tmp_path, log):
    golden = golden_values.load(file)
    state = {prefix + k: v
             for k, v in golden_values.weights(golden).items()}
    torch.save(dict(state_dict=state), tmp_path / 'authors.ckpt')
    is_vit, is_relay = file.startswith('vit'), file.endswith('rt')
    build = RelayViT if is_vit else RelaySwinV2
    cfg = golden_values.VIT if is_vit else golden_values.SWIN
    ours = build(**cfg, **(dict() if is_relay else ALONE),
                 init_cfg=pretrained(tmp_path / 'authors.ckpt'))
    ours.init_weights()
    views = tuple(golden[f'input/{v}'] for v in ('local', 'global')
                  if is_relay or v == 'local')
    head = golden_values.head_state(golden)
    stride = head['upsample.weight'].shape[-1]
    for name, pyramid in zip(('local', 'global'), ours.eval()(views)):
        logits = torch.nn.functional.conv_transpose2d(
            pyramid[-1], head['upsample.weight'], head['upsample.bias'],
            stride=stride)
        assert relative(logits, golden[f'out/logits_{name}']) < 1e-4
    total = sum(p.numel() for p in ours.parameters())
    assert f'{total:,} of {total:,} parameters (100.0 %)' in log[-1]
    assert 'seg_head.layers.*.weight' in log[-1]


def test_files_without_anybody_who_loads_them_are_an_error(monkeypatch):
    monkeypatch.delitem(WEIGHT_INITIALIZERS.module_dict, 'load_pretrained')
    with pytest.raises(ValueError, match='a.pth .* relay_seg.registered'):
        load_files(torch.nn.Linear(1, 1), [dict(checkpoint='a.pth')])
