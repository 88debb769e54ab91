"""Files of timm, DINOv2 and DINOv3 in RelayTimmViT, and what is refused.

The models of DINOv2, DINOv3 and Hugging Face are not installed: their names
and their values are made of timm's here, as their converters do it the other
way round.
"""
import re

import pytest
import timm
import torch
from mmseg.registry import MODELS
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from relay_seg.checkpoints.converting import convert_checkpoint
from relay_seg.checkpoints.pretrained import set_pretrained

SMALL = dict(embed_dim=24, depth=2, num_heads=2)
V3, V3_BIAS = 'vit_small_patch16_dinov3', 'vit_small_patch16_dinov3_qkvb'
V3_GATED = 'vit_small_plus_patch16_dinov3'
V2, V2_PLAIN = 'vit_small_patch14_reg4_dinov2', 'vit_small_patch14_dinov2'
V2_GATED = 'vit_giant_patch14_reg4_dinov2'


def side(arch):
    return 4 * int(re.search(r'patch(\d+)', arch)[1])


def timm_of(arch, size=None, **more):
    model = timm.create_model(
        arch, num_classes=0, global_pool='', dynamic_img_size=True,
        img_size=size or side(arch), **SMALL | more)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def dinov2(state):
    """timm's weights under the names of the DINOv2 repository."""
    dims = state['cls_token'].shape[-1]
    out = dict(state, mask_token=torch.zeros(1, dims))
    if 'reg_token' in out:
        out['register_tokens'] = out.pop('reg_token')
        first = torch.randn(1, 1, dims)
        out['cls_token'] = out['cls_token'] - first
        out['pos_embed'] = torch.cat((first, out['pos_embed']), 1)
    if 'blocks.0.mlp.norm.weight' in out or out[
            'blocks.0.mlp.fc2.weight'].shape[1] != len(
                out['blocks.0.mlp.fc1.weight']):
        out = {k.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'): v
               for k, v in out.items()}
    return out


def dinov3(state):
    """Likewise of the DINOv3 repository."""
    dims = state['cls_token'].shape[-1]
    out = dict(mask_token=torch.zeros(1, dims))
    out['rope_embed.periods'] = torch.ones(3, dtype=torch.bfloat16)
    for key, value in state.items():
        for ours, theirs in (
                ('reg_token', 'storage_tokens'), ('gamma_1', 'ls1.gamma'),
                ('gamma_2', 'ls2.gamma'), ('mlp.fc1_g', 'mlp.w1'),
                ('mlp.fc1_x', 'mlp.w2'),
                *([('mlp.fc2', 'mlp.w3')]
                  if 'blocks.0.mlp.fc1_g.weight' in state else [])):
            key = key.replace(ours, theirs)
        if key.endswith('_bias'):
            continue
        out[key] = value
        if key.endswith('attn.qkv.weight'):
            block = key.removesuffix('qkv.weight')
            q, v = (state.get(f'{block}{x}_bias', torch.zeros(dims))
                    for x in 'qv')
            out[f'{block}qkv.bias'] = torch.cat((q, torch.zeros(dims), v))
            out[f'{block}qkv.bias_mask'] = torch.ones(3 * dims)
    return out


def hugging_v3(state):
    """Likewise of Hugging Face, as its converter makes it of DINOv3's."""
    out = {}
    gated = 'blocks.0.mlp.fc1_g.weight' in state
    for key, value in dinov3(state).items():
        if 'bias_mask' in key or 'rope' in key:
            continue
        for theirs, names in (
                (r'^cls_token', 'embeddings.cls_token'),
                (r'^mask_token', 'embeddings.mask_token'),
                (r'^storage_tokens', 'embeddings.register_tokens'),
                (r'^patch_embed\.proj', 'embeddings.patch_embeddings'),
                (r'^blocks\.', 'layer.'), (r'\.ls(\d)\.gamma',
                                           r'.layer_scale\1.lambda1'),
                (r'\.attn\.proj', '.attention.o_proj'),
                (r'\.attn\.', '.attention.'), (r'mlp\.w1\b', 'mlp.gate_proj'),
                (r'mlp\.w2\b', 'mlp.up_proj'),
                (r'mlp\.(w3|fc2)\b', 'mlp.down_proj'),
                (r'mlp\.fc1\b', 'mlp.up_proj')):
            key = re.sub(theirs, names, key)
        if '.qkv.' in key:
            for part, name in zip(value.chunk(3), 'qkv'):
                if (name, key[-4:]) != ('k', 'bias'):
                    out[key.replace('qkv', f'{name}_proj')] = part.clone()
        else:
            out[key] = value
    assert gated == any('gate_proj' in key for key in out)
    return out


def hugging_v2(state):
    out = {}
    for key, value in dinov2(state).items():
        for theirs, names in (
                (r'^(cls_token|mask_token|register_tokens)',
                 r'embeddings.\1'),
                (r'^pos_embed', 'embeddings.position_embeddings'),
                (r'^patch_embed\.proj',
                 'embeddings.patch_embeddings.projection'),
                (r'^blocks\.', 'encoder.layer.'), (r'^norm', 'layernorm'),
                (r'\.ls(\d)\.gamma', r'.layer_scale\1.lambda1'),
                (r'\.attn\.proj', '.attention.output.dense'),
                (r'\.attn\.qkv', '.attention.attention.qkv'),
                (r'w12', 'weights_in'), (r'w3', 'weights_out')):
            key = re.sub(theirs, names, key)
        if '.qkv.' in key:
            for part, name in zip(value.chunk(3), ('query', 'key', 'value')):
                out[key.replace('qkv', name)] = part.clone()
        else:
            out[key] = value
    return out


FILES = [
    (V3, dict, 'timm'), (V3_BIAS, dict, 'timm'), (V2, dict, 'timm'),
    ('deit3_small_patch16_224', dict, 'timm'),
    ('vit_base_patch16_siglip_224', dict, 'timm'),
    ('vit_base_patch16_clip_224', dict, 'timm'),
    (V3, dinov3, 'DINOv3'), (V3_BIAS, dinov3, 'DINOv3'),
    (V3_GATED, dinov3, 'DINOv3'),
    (V2, dinov2, 'DINOv2'), (V2_PLAIN, dinov2, 'timm'),
    (V2_GATED, dinov2, 'DINOv2'),
    (V3, hugging_v3, 'DINOv3 of Hugging Face'),
    (V3_BIAS, hugging_v3, 'DINOv3 of Hugging Face'),
    (V3_GATED, hugging_v3, 'DINOv3 of Hugging Face'),
    (V2, hugging_v2, 'DINOv2 of Hugging Face'),
    (V2_PLAIN, hugging_v2, 'DINOv2 of Hugging Face'),
    (V2_GATED, hugging_v2, 'DINOv2 of Hugging Face'),
]


def load(arch, path, kind='RelayTimmViT', **changes):
    init_cfg = dict(type='Pretrained', checkpoint=str(path)) | changes.pop(
        'init_cfg', {})
    model = MODELS.build(dict(dict(
        type=kind, arch=arch, timm_cfg=SMALL, img_size=side(arch),
        init_cfg=init_cfg), **changes))
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('arch, names, naming', FILES)
def test_file_gives_the_values_of_timm(arch, names, naming, suffix, tmp_path,
                                       log):
    plain, path = timm_of(arch), tmp_path / f'file{suffix}'
    (torch.save if suffix == '.pth' else save_file)(
        names(plain.state_dict()), path)
    one = load(arch, path, 'TimmViT')
    assert f'named as by {naming}\n' in log[-1] + '\n'
    total = sum(p.numel() for p in plain.parameters())
    assert f'{total:,} of {total:,} parameters (100.0 %)' in log[-1]
    x = torch.randn(2, 3, side(arch), side(arch))
    with torch.no_grad():
        expected = plain.forward_features(x)[:, plain.num_prefix_tokens:]
        found = one(x)[-1].flatten(2).mT
    torch.testing.assert_close(found, expected)
    two = load(arch, path, relay_place='bias')
    assert 'relay_tokens' in log[-1] and 'global_patch_embed' in log[-1]
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value), name


def test_positions_and_patches_are_resampled_as_timm_does(tmp_path, log):
    plain = timm_of(V2, size=14 * 9)
    path = tmp_path / 'file.pth'
    torch.save(dinov2(plain.state_dict()), path)
    with pytest.raises(ValueError, match="14 pixels.*16.*patches='resample'"):
        load(V2, path, patch_size=16, img_size=64)
    model = load(V2, path, patch_size=16, img_size=64, in_channels=4,
                 init_cfg=dict(patches='resample', bands='rgb+zero'))
    assert 'patches of 14 -> 16 pixels, 3 -> 4 bands (rgb+zero)' in log[-1]
    for name, value in (
            ('pos_embed', resample_abs_pos_embed(
                plain.pos_embed, [4, 4], num_prefix_tokens=0)),
            ('patch_embed.proj.weight', resample_patch_embed(
                plain.patch_embed.proj.weight, [16, 16]))):
        found = model.get_parameter(name)
        if value.ndim == 4:
            assert not found[:, 3:].any()
            found = found[:, :3]
        torch.testing.assert_close(found, value)
    with pytest.raises(ValueError, match="patches='bend'.*resample"):
        load(V2, path, init_cfg=dict(patches='bend'))


@pytest.mark.parametrize('file, arch, message', [
    (V2_PLAIN, 'deit3_small_patch16_224', 'patches of 14 pixels'),
    ('deit_tiny_patch16_224', V3, 'without a place.*pos_embed'),
    (V3_BIAS, V3, 'q_bias.*arch with _qkvb'),
    (V3, V3_BIAS, 'q_bias.*arch without _qkvb'),
    (V2, V2_PLAIN, 'reg_token.*use an arch that has them'),
    (V2_PLAIN, V2, 'reg_token.*without them'),
    ('swinv2_tiny_window8_256', V3, 'holds a SwinV2'),
])
def test_a_file_of_another_kind_is_refused(file, arch, message, tmp_path):
    path = tmp_path / 'file.pth'
    state = (timm.create_model(file, num_classes=0).state_dict()
             if 'swin' in file else timm_of(file).state_dict())
    torch.save(state, path)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        load(arch, path)


def test_biases_of_nothing_need_no_place(tmp_path, log):
    path = tmp_path / 'file.pth'
    torch.save(dinov3(timm_of(V3).state_dict()), path)
    load(V3, path)
    assert 'dropped: ' in log[-1] and 'attn.q_bias' in log[-1]


def test_own_files_load_with_and_without_lora(tmp_path, log):
    path = tmp_path / 'file.pth'
    torch.save(timm_of(V3).state_dict(), path)
    lora = dict(frozen=True, lora_rank=2)
    model = load(V3, path, relay_place='bias', **lora)
    assert 'attn.qkv.lora_a' in log[-1].replace('blocks.*.', '')
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    torch.save(dict(state_dict=model.state_dict()), path)
    again = load(V3, path, relay_place='bias', **lora)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(ValueError, match='(?s)lora_a.*lora_rank'):
        load(V3, path, relay_place='bias')


def test_convert_to_plain_and_to_timm(tmp_path):
    model = load(V2, save(timm_of(V2), tmp_path / 'file.pth'))
    torch.save(dict(state_dict={
        f'backbone.{k}': v for k, v in model.state_dict().items()}),
        tmp_path / 'relay.pth')
    for target in ('plain', 'timm'):
        out = tmp_path / f'{target}.pth'
        convert_checkpoint(str(tmp_path / 'relay.pth'), out, target)
        state = torch.load(out)['state_dict']
        timm_of(V2).load_state_dict(state)
        assert torch.equal(state['blocks.1.mlp.fc2.weight'],
                           model.blocks[1].mlp.fc2.weight)
    out = tmp_path / 'three.pth'
    convert_checkpoint(str(tmp_path / 'relay.pth'), out, 'relay', num_views=3)
    three = MODELS.build(dict(
        type='RelayTimmViT', arch=V2, timm_cfg=SMALL, img_size=56,
        num_views=3))
    three.load_state_dict(torch.load(out)['state_dict'])


def save(model, path):
    torch.save(model.state_dict(), path)
    return path


def test_command_line_keeps_how_patches_fit(tmp_path):
    from mmengine.config import Config
    path = save(timm_of(V2), tmp_path / 'file.pth')
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=dict(
        type='Pretrained', checkpoint='x.pth', patches='resample')))))
    set_pretrained(cfg, str(path))
    assert cfg.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=str(path), patches='resample')
