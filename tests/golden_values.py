"""The authors' values (tests/golden), under our parameter names."""
import re
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / 'golden'

VIT = dict(
    arch=dict(
        embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=192),
    img_size=64,
    final_norm=False,
    fusion='mean')
SWIN = dict(
    arch=dict(
        embed_dims=8,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 2, 4],
        extra_norm_every_n_blocks=0),
    img_size=128,
    window_size=4,
    fusion='mean',
    relay_bias='zero')

# Their name (a regular expression) and ours, tried from the top.
VIT_NAMES = (
    (r'patch_embed(\.0)?\.proj', 'patch_embed.projection'),
    (r'patch_embed\.1\.proj', 'global_patch_embed.0.projection'),
    (r'pos_embed\.0', 'pos_embed'),
    (r'pos_embed\.1', 'global_pos_embed.0'),
    (r'reg_token', 'relay_tokens'),
    (r'blocks\.(\d+)\.norm(\d)(\.0)?', r'layers.\1.ln\2'),
    (r'blocks\.(\d+)\.attn\.0', r'layers.\1.attn'),
    (r'blocks\.(\d+)\.mlp(\.0)?\.fc1', r'layers.\1.ffn.layers.0.0'),
    (r'blocks\.(\d+)\.mlp(\.0)?\.fc2', r'layers.\1.ffn.layers.1'),
)
SWIN_NAMES = (
    (r'patch_embed(\.0)?\.proj', 'patch_embed.projection'),
    (r'patch_embed(\.0)?\.norm', 'patch_embed.norm'),
    (r'patch_embed\.1\.proj', 'global_patch_embed.0.projection'),
    (r'patch_embed\.1\.norm', 'global_patch_embed.0.norm'),
    (r'register_token', 'relay_tokens'),
    (r'norm', 'norm3'),
    (r'layers\.(\d)\.downsample_token', r'stages.\1.relay_merge'),
    (r'layers\.(\d\.blocks\.\d)\.attn', r'stages.\1.attn.w_msa'),
    (r'layers\.(\d\.blocks\.\d)\.mlp\.fc1', r'stages.\1.ffn.layers.0.0'),
    (r'layers\.(\d\.blocks\.\d)\.mlp\.fc2', r'stages.\1.ffn.layers.1'),
    (r'layers', 'stages'),
)


def load(name):
    return torch.load(FOLDER / f'{name}.pt', weights_only=True)


def renamed(golden, names):
    """Weights of their model; ``load_state_dict`` tells names left over."""
    out, prefix = {}, 'state_dict/model.'
    for key, value in golden.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            for theirs, ours in names:
                key, found = re.subn(rf'^{theirs}(?=\.|$)', ours, key)
                if found:
                    break
            out[key] = value
    return out


def vit_state(golden):
    out = renamed(golden, VIT_NAMES)
    if 'relay_tokens' in out:
        # Their relay tokens have position rows, first; the global ones count.
        relay = out['relay_tokens']
        num_relay = relay.shape[1]
        rows = out['global_pos_embed.0'][:, :num_relay]
        out['relay_tokens'] = relay + rows
        for key in ('pos_embed', 'global_pos_embed.0'):
            out[key] = out[key][:, num_relay:]
    return out


def swin_state(golden):
    out = renamed(golden, SWIN_NAMES)
    for key in out:
        if key.endswith('downsample.reduction.weight'):
            # Columns of a 2 x 2 block: theirs (x, y, C), the host's (C, y, x)
            blocks = out[key].unflatten(1, (2, 2, -1))
            out[key] = blocks.permute(0, 3, 2, 1).flatten(1)
    return out


def head_state(golden):
    return {
        f'upsample.{key}': golden[f'state_dict/seg_head.layers.0.{key}']
        for key in ('weight', 'bias')
    }
