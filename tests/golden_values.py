"""The authors' values (tests/golden), under our parameter names."""
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / 'golden'
VIT = dict(
    arch=dict(
        embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=192),
    img_size=64, out_indices=[0, 1, 2], final_norm=False, fusion='mean')
SWIN = dict(
    arch=dict(
        embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4],
        extra_norm_every_n_blocks=0),
    img_size=128, window_size=4, drop_path_rate=0., out_indices=[0, 1, 2, 3],
    norm_cfg=None, fusion='mean', relay_bias='zero')


def load(name):
    return torch.load(FOLDER / f'{name}.pt', weights_only=True)


def state(golden):
    prefix = 'state_dict/model.'
    return {k[len(prefix):]: v for k, v in golden.items()
            if k.startswith(prefix)}


def head_state(golden):
    return {'upsample.' + k: golden[f'state_dict/seg_head.layers.0.{k}']
            for k in ('weight', 'bias')}


def vit_state(golden):
    """The authors add the global position rows to their relay tokens."""
    out, theirs = {}, state(golden)
    names = {'norm1.0': 'ln1', 'norm2.0': 'ln2', 'norm1': 'ln1',
             'norm2': 'ln2', 'attn.0': 'attn', 'mlp.0.fc1': 'ffn.layers.0.0',
             'mlp.0.fc2': 'ffn.layers.1', 'mlp.fc1': 'ffn.layers.0.0',
             'mlp.fc2': 'ffn.layers.1'}
    num_relay = theirs['reg_token'].shape[1] if 'reg_token' in theirs else 0
    for key, value in theirs.items():
        if key.startswith('blocks.'):
            for old, new in names.items():
                if f'.{old}.' in key:
                    key = key.replace(f'.{old}.', f'.{new}.')
                    break
            out[key.replace('blocks.', 'layers.')] = value
    local, wide = ('.0', '.1') if num_relay else ('', '')
    for k in ('weight', 'bias'):
        local_key = f'patch_embed{local}.proj.{k}'
        if local_key not in theirs:
            local_key = f'patch_embed.0.proj.{k}'
        out[f'patch_embed.projection.{k}'] = theirs[local_key]
    pos = theirs.get('pos_embed', theirs.get('pos_embed.0'))
    out['pos_embed'] = pos[:, num_relay:]
    if num_relay:
        pos = theirs['pos_embed.1']
        out['relay_tokens'] = theirs['reg_token'] + pos[:, :num_relay]
        out['global_pos_embed.0'] = pos[:, num_relay:]
        for k in ('weight', 'bias'):
            out[f'global_patch_embed.0.projection.{k}'] = theirs[
                f'patch_embed{wide}.proj.{k}']
    return out


def swin_state(golden):
    out, theirs = {}, state(golden)
    for key, value in theirs.items():
        key = key.replace('mlp.fc1', 'ffn.layers.0.0')
        key = key.replace('mlp.fc2', 'ffn.layers.1')
        key = key.replace('.attn.', '.attn.w_msa.')
        key = key.replace('cpb_ffn', 'cpb_mlp')
        key = key.replace('layers.', 'stages.', 1) if key.startswith(
            'layers.') else key
        key = key.replace('downsample_token', 'relay_merge')
        if key.startswith('norm.'):
            continue
        if key == 'register_token':
            key = 'relay_tokens'
        key = key.replace('patch_embed.0', 'patch_embed')
        key = key.replace('patch_embed.1', 'global_patch_embed.0')
        key = key.replace('.proj.', '.projection.') if key.startswith(
            ('patch_embed', 'global')) else key
        if 'downsample.reduction' in key:
            # theirs: columns (w, h, C) of the 2 x 2 block; host: (C, h, w)
            value = value.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 1)
            value = value.flatten(1)
        out[key] = value
    return out
