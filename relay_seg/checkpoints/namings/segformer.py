"""Names of Mix Transformers: MMSegmentation's, which are ours too, and those
of the SegFormer repository."""
import torch

from .naming import Naming, Weights


def _rows() -> tuple[tuple[str, str], ...]:
    rows = []
    for i in range(4):
        theirs, ours = f'block{i + 1}.*', f'layers.{i}.1.*'
        rows += [
            (f'patch_embed{i + 1}.proj', f'layers.{i}.0.projection'),
            (f'patch_embed{i + 1}.norm', f'layers.{i}.0.norm'),
            (f'norm{i + 1}', f'layers.{i}.2'),
            (f'{theirs}.norm1', f'{ours}.norm1'),
            (f'{theirs}.norm2', f'{ours}.norm2'),
            (f'{theirs}.attn.proj', f'{ours}.attn.attn.out_proj'),
            (f'{theirs}.attn.sr', f'{ours}.attn.sr'),
            (f'{theirs}.attn.norm', f'{ours}.attn.norm'),
            (f'{theirs}.attn.q', f'{ours}.attn.attn.q'),
            (f'{theirs}.attn.kv', f'{ours}.attn.attn.kv'),
            (f'{theirs}.mlp.fc1', f'{ours}.ffn.layers.0'),
            (f'{theirs}.mlp.dwconv.dwconv', f'{ours}.ffn.layers.1'),
            (f'{theirs}.mlp.fc2', f'{ours}.ffn.layers.4'),
        ]
    return tuple(rows)


def _to_ours(weights: Weights) -> Weights:
    """One input projection in place of two; convolutions of one pixel."""
    out = {}
    for key, value in weights.items():
        if '.attn.attn.q.' in key:
            kv = weights[key.replace('.q.', '.kv.')]
            out[key.replace('.q.', '.in_proj_')] = torch.cat((value, kv))
        elif '.attn.attn.kv.' not in key:
            pixel = '.ffn.layers.' in key and value.ndim == 2
            out[key] = value[:, :, None, None] if pixel else value
    return out


def _from_ours(weights: Weights) -> Weights:
    out = {}
    for key, value in weights.items():
        if '.in_proj_' in key:
            dims = len(value) // 3
            out[key.replace('.in_proj_', '.q.')] = value[:dims]
            out[key.replace('.in_proj_', '.kv.')] = value[dims:]
        else:
            pixel = '.ffn.layers.' in key and value.shape[2:] == (1, 1)
            depthwise = '.ffn.layers.1.' in key
            out[key] = value.flatten(1) if pixel and not depthwise else value
    return out


STEMS = (('layers.0.0', 'global_patch_embed'), )

OFFICIAL = Naming(
    'the SegFormer repository', 'MiT', table=_rows(),
    marks=('patch_embed1.proj.weight', 'block1.*.attn.kv.weight'),
    stems=STEMS, values_to_ours=_to_ours, values_from_ours=_from_ours)

MMSEG = Naming(
    'mmseg', 'MiT', table=(('layers', 'layers'), ),
    marks=('layers.0.1.0.attn.attn.in_proj_weight', ),
    not_marks=('relay_tokens', 'global_patch_embed'), stems=STEMS)

RELAY = Naming(
    'relay_seg', 'MiT',
    table=(*((name, name) for name in (
        'layers', 'relay_tokens', 'relay_places', 'global_patch_embed',
        'relay_merge')), ),
    marks=MMSEG.marks, stems=STEMS)
