"""Names of mmpretrain, which are ours too, and what relay adds to them."""
from .naming import Naming


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


VIT = Naming(
    'mmpretrain', 'ViT',
    table=_same('cls_token', 'dist_token', 'mask_token', 'pos_embed',
                'patch_embed', 'layers', 'ln1'),
    marks=('layers.0.ln1.weight', 'layers.0.attn.qkv.weight'),
    not_marks=('relay_tokens', 'global_patch_embed'))

SWINV2 = Naming(
    'mmpretrain', 'SwinV2',
    table=_same('patch_embed', 'stages', 'norm0', 'norm1', 'norm2', 'norm3'),
    marks=('stages.0.blocks.0.attn.w_msa.logit_scale', ),
    not_marks=('relay_tokens', 'global_patch_embed'))

RELAY_VIT = Naming(
    'relay_seg', 'ViT',
    table=VIT.table + _same(
        'relay_tokens', 'relay_places', 'global_patch_embed',
        'global_pos_embed'),
    marks=VIT.marks)

RELAY_SWINV2 = Naming(
    'relay_seg', 'SwinV2',
    table=SWINV2.table + _same('relay_tokens', 'global_patch_embed'),
    marks=SWINV2.marks)
