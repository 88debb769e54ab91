"""Names of ViTs that keep timm's: timm's own, and those of the files of
DINOv2 and DINOv3 as Meta and Hugging Face publish them.
"""
from collections.abc import Callable
from functools import partial

import torch

from .naming import Naming, Weights

FAMILY = 'ViT of timm'
_PARTS = ('cls_token', 'reg_token', 'mask_token', 'pos_embed', 'patch_embed',
          'norm_pre', 'rope', 'blocks', 'norm')
PLAIN = Naming(
    'timm', FAMILY, table=tuple((name, name) for name in _PARTS),
    marks=('blocks.0.norm1.weight', 'patch_embed.proj.weight'),
    not_marks=('register_tokens', 'storage_tokens', 'rope_embed'))
RELAY = Naming(
    'relay_seg', FAMILY,
    table=tuple((name, name) for name in (
        *_PARTS, 'relay_tokens', 'relay_places', 'global_patch_embed',
        'global_pos_embed')),
    marks=(*PLAIN.marks, 'global_patch_embed'))


def _dinov2(weights: Weights) -> Weights:
    """With registers, timm adds the class token's position to the token."""
    out = {key.replace('.mlp.w12.', '.mlp.fc1.').replace(
        '.mlp.w3.', '.mlp.fc2.'): value for key, value in weights.items()}
    if 'reg_token' in out:
        pos = out['pos_embed']
        out['cls_token'] = out['cls_token'] + pos[:, :1]
        out['pos_embed'] = pos[:, 1:]
    return out


def _dinov3(weights: Weights) -> Weights:
    """A bias of queries and of values; that of keys is nothing."""
    gated = any('.mlp.fc1_g.' in key for key in weights)
    out: Weights = {}
    for key, value in weights.items():
        if gated:
            key = key.replace('.mlp.fc1.', '.mlp.fc1_x.')
        if key.endswith('.attn.qkv.bias'):
            query, _, values = value.chunk(3)
            at = key.removesuffix('qkv.bias')
            out |= {f'{at}q_bias': query, f'{at}v_bias': values}
        else:
            out[key] = value
    return out


def _joined(weights: Weights, names: tuple[str, str, str],
            then: Callable[[Weights], Weights]) -> Weights:
    """One projection in place of three; keys may have no bias."""
    out = {}
    for key, value in weights.items():
        at, dot, what = key.rpartition('.')
        part = at.rpartition('.')[2]
        if '.attn.' not in key or part not in names:
            out[key] = value
        elif part == names[0]:
            rest = [weights.get(f'{at.removesuffix(part)}{name}.{what}',
                                torch.zeros_like(value))
                    for name in names[1:]]
            out[f'{at.removesuffix(part)}qkv.{what}'] = torch.cat(
                (value, *rest))
    return then(out)


_STEM = (('cls_token', 'cls_token'), ('mask_token', 'mask_token'),
         ('pos_embed', 'pos_embed'), ('patch_embed', 'patch_embed'))
DINOV2 = Naming(
    'DINOv2', FAMILY,
    table=(*_STEM, ('register_tokens', 'reg_token'), ('blocks', 'blocks'),
           ('norm', 'norm')),
    marks=('register_tokens', 'blocks.0.ls1.gamma'), values_to_ours=_dinov2)
DINOV3 = Naming(
    'DINOv3', FAMILY,
    table=(*_STEM, ('storage_tokens', 'reg_token'),
           ('rope_embed', 'rope_embed'),  # follows from the arch
           ('blocks.*.ls1.gamma', 'blocks.*.gamma_1'),
           ('blocks.*.ls2.gamma', 'blocks.*.gamma_2'),
           ('blocks.*.mlp.w1', 'blocks.*.mlp.fc1_g'),
           ('blocks.*.mlp.w2', 'blocks.*.mlp.fc1_x'),
           ('blocks.*.mlp.w3', 'blocks.*.mlp.fc2'),
           ('blocks', 'blocks'), ('norm', 'norm')),
    marks=('storage_tokens', 'blocks.0.ls1.gamma'), values_to_ours=_dinov3)

_HUGGING_STEM = (
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.mask_token', 'mask_token'),
    ('embeddings.register_tokens', 'reg_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('embeddings.patch_embeddings.projection', 'patch_embed.proj'),
    ('embeddings.patch_embeddings', 'patch_embed.proj'))
HUGGING_DINOV2 = Naming(
    'DINOv2 of Hugging Face', FAMILY,
    table=(
        *_HUGGING_STEM,
        ('encoder.layer.*.attention.attention', 'blocks.*.attn'),
        ('encoder.layer.*.attention.output.dense', 'blocks.*.attn.proj'),
        ('encoder.layer.*.layer_scale1.lambda1', 'blocks.*.ls1.gamma'),
        ('encoder.layer.*.layer_scale2.lambda1', 'blocks.*.ls2.gamma'),
        ('encoder.layer.*.mlp.weights_in', 'blocks.*.mlp.fc1'),
        ('encoder.layer.*.mlp.weights_out', 'blocks.*.mlp.fc2'),
        ('encoder.layer', 'blocks'), ('layernorm', 'norm')),
    marks=('embeddings.position_embeddings',
           'encoder.layer.0.layer_scale1.lambda1'),
    values_to_ours=partial(_joined, names=('query', 'key', 'value'),
                           then=_dinov2))
HUGGING_DINOV3 = Naming(
    'DINOv3 of Hugging Face', FAMILY,
    table=(
        *_HUGGING_STEM,
        ('layer.*.attention.o_proj', 'blocks.*.attn.proj'),
        ('layer.*.attention', 'blocks.*.attn'),
        ('layer.*.layer_scale1.lambda1', 'blocks.*.gamma_1'),
        ('layer.*.layer_scale2.lambda1', 'blocks.*.gamma_2'),
        ('layer.*.mlp.gate_proj', 'blocks.*.mlp.fc1_g'),
        ('layer.*.mlp.up_proj', 'blocks.*.mlp.fc1'),
        ('layer.*.mlp.down_proj', 'blocks.*.mlp.fc2'),
        ('layer', 'blocks'), ('norm', 'norm')),
    marks=('embeddings.register_tokens', 'layer.0.attention.q_proj.weight'),
    values_to_ours=partial(_joined, names=('q_proj', 'k_proj', 'v_proj'),
                           then=_dinov3))
