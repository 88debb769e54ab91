"""The official files, by their names and shapes, find their places here.

The files made here are as large as their names: each weight is one number,
which tells where it went.
"""
import re
from pathlib import Path

import pytest
import timm
import torch
from mmseg.registry import MODELS
from test_pretrained_timm import dinov2, dinov3

from relay_seg.checkpoints.namings.timm_vit import FAMILY
from relay_seg.checkpoints.pretrained import load_pretrained
from relay_seg.positions import TABLES

ROOT = Path(__file__).parents[2]
#: The first of the numbers: none that a model starts from.
FIRST = 1000
IGNORED = re.compile(rf'attn_mask$|{TABLES.pattern}')


# What is in the files -------------------------------------------------------


def deit3(size):
    with torch.device('meta'):
        model = timm.create_model(
            f'deit3_{size}_patch16_224', num_classes=21841)
    names = {'ls1.gamma': 'gamma_1', 'ls2.gamma': 'gamma_2'}
    shapes = {}
    for name, value in model.state_dict().items():
        for of_timm, official in names.items():
            name = name.replace(of_timm, official)
        shapes[name] = value.shape
    assert shapes['pos_embed'] == (1, 196, model.embed_dim)
    assert 'cls_token' in shapes and 'blocks.11.gamma_2' in shapes
    return shapes


def swinv2(size, window=8, side=256, classes=1000):
    """Also tables and masks, which are buffers of that code."""
    with torch.device('meta'):
        model = timm.create_model(
            f'swinv2_{size}_window{window}_{side}', num_classes=classes)
    shapes = {}
    for name, value in model.state_dict().items():
        parts = name.replace('head.fc.', 'head.').split('.')
        if parts[2:3] == ['downsample']:  # at the end of a stage, there
            parts[1] = str(int(parts[1]) - 1)
        shapes['.'.join(parts)] = value.shape
    for name in [n for n in shapes if n.endswith('logit_scale')]:
        block = name.removesuffix('attn.logit_scale')
        _, stage, _, number, _ = block.split('.')
        tokens = side // 4 // 2**int(stage)
        m = min(window, tokens)
        shapes[f'{block}attn.relative_coords_table'] = torch.Size(
            (1, 2 * m - 1, 2 * m - 1, 2))
        shapes[f'{block}attn.relative_position_index'] = torch.Size(
            (m * m, m * m))
        if int(number) % 2 and tokens > m:
            shapes[f'{block}attn_mask'] = torch.Size(
                ((tokens // m)**2, m * m, m * m))
    return shapes


def mit(**settings):
    model = MODELS.build(dict(type='MixVisionTransformer', **settings))
    return {k: v.shape for k, v in model.state_dict().items()}


def dino(arch, names, **settings):
    """Shapes of timm's model under the names of the official file."""
    model = timm.create_model(arch, num_classes=0, **settings)
    return {k: v.shape for k, v in names(model.state_dict()).items()}


def table(m):
    """Distances in an attention window of m x m, as SwinV2 scales them."""
    steps = torch.arange(1 - m, m) * 8 / (m - 1)
    steps = steps.sign() * torch.log2(steps.abs() + 1) / 3
    return torch.stack(torch.meshgrid(steps, steps, indexing='ij'), -1)[None]


MIT = dict(num_heads=[1, 2, 5, 8], num_layers=[2, 2, 2, 2])
MIT_B0 = MIT | dict(embed_dims=32)
MIT_B1 = MIT | dict(embed_dims=64)
MIT_B3 = MIT_B1 | dict(num_layers=[3, 4, 18, 3])
VIT = dict(img_size=256, layer_scale_init_value=1e-4)
VIT_M = dict(embed_dims=512, num_layers=12, num_heads=8,
             feedforward_channels=2048)
V3_S, V3_B, V2_S = ('vit_small_patch16_dinov3', 'vit_base_patch16_dinov3',
                    'vit_small_patch14_reg4_dinov2')
SWIN = dict(img_size=256, window_size=8)
SWIN_L = SWIN | dict(arch='large', pretrained_window_sizes=[12, 12, 12, 6])
#: File: family, what is in it, arguments of the backbones.
FILES = {
    'deit_3_small_224_21k.pth': (
        'ViT', lambda: deit3('small'), VIT | dict(arch='deit-small')),
    'deit_3_medium_224_21k.pth': (
        'ViT', lambda: deit3('medium'), VIT | dict(arch=VIT_M)),
    'deit_3_base_224_21k.pth': (
        'ViT', lambda: deit3('base'), VIT | dict(arch='deit-base')),
    'swinv2_tiny_patch4_window8_256.pth': (
        'SwinV2', lambda: swinv2('tiny'), SWIN | dict(arch='tiny')),
    'swinv2_small_patch4_window8_256.pth': (
        'SwinV2', lambda: swinv2('small'), SWIN | dict(arch='small')),
    'swinv2_base_patch4_window8_256.pth': (
        'SwinV2', lambda: swinv2('base'), SWIN | dict(arch='base')),
    'swinv2_large_patch4_window12_192_22k.pth': (
        'SwinV2', lambda: swinv2('large', 12, 192, 21841), SWIN_L),
    'dinov3_vits16_pretrain_lvd1689m-08c60483.pth': (
        FAMILY, lambda: dino(V3_S, dinov3), dict(arch=V3_S)),
    'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth': (
        FAMILY, lambda: dino(V3_B, dinov3), dict(arch=V3_B)),
    'dinov2_vits14_reg4_pretrain.pth': (
        FAMILY, lambda: dino(V2_S, dinov2), dict(arch=V2_S, img_size=224)),
    'mit_b0_20220624-7e0fe6dd.pth': ('MiT', lambda: mit(**MIT_B0), MIT_B0),
    'mit_b1_20220624-02e5a6a1.pth': ('MiT', lambda: mit(**MIT_B1), MIT_B1),
    'mit_b3_20220624-13b1141c.pth': ('MiT', lambda: mit(**MIT_B3), MIT_B3),
}
BACKBONES = {
    'ViT': ('RelayViT', dict(type='mmpretrain.VisionTransformer',
                             with_cls_token=False, out_type='featmap')),
    'SwinV2': ('RelaySwinV2', dict(type='mmpretrain.SwinTransformerV2')),
    FAMILY: ('RelayTimmViT', dict(type='TimmViT')),
    'MiT': ('RelayMiT', dict(type='MixVisionTransformer')),
}


def write(name, folder):
    """A file, and the shape behind each of its numbers."""
    family, shapes, _ = FILES[name]
    state, shape_of = {}, {}
    for number, (key, shape) in enumerate(shapes().items(), FIRST):
        if key.endswith('relative_coords_table'):
            state[key] = table((shape[1] + 1) // 2)
        elif key.endswith('attn.qkv.bias') and 'storage_tokens' in state:
            state[key] = torch.zeros(shape)  # as published
            continue
        else:
            state[key] = torch.tensor([float(number)]).expand(shape)
        if not key.startswith('head.') and not IGNORED.search(key):
            shape_of[number] = shape
    if 'register_tokens' in state:  # a row that is added to the class token
        state['pos_embed'] = state['pos_embed'].clone()
        state['pos_embed'][:, 0] = 0
    bare = family in ('MiT', FAMILY)
    torch.save(state if bare else dict(model=state), folder / name)
    assert (folder / name).stat().st_size < 2**23
    return shape_of


def shares(model, shape_of):
    """Of the file's weights and of the model's parameters, what is placed."""
    found, filled = set(), 0
    for parameter in model.parameters():
        number = round(parameter.flatten()[0].item())
        if number in shape_of and (parameter - number).abs().max() < 0.01:
            found.add(number)
            filled += parameter.numel()
    total = sum(p.numel() for p in model.parameters())
    kept = sum(shape_of[n].numel() for n in found)
    return kept / sum(s.numel() for s in shape_of.values()), filled / total


def percent(part):
    return f'{int(1000 * part) / 10:.1f} %'


def megabytes(file):
    values = sum(shape.numel() * (2 if 'position_index' in name else 1)
                 for name, shape in FILES[file][1]().items())
    return round(4 * values / 1e6)


@pytest.fixture(scope='module')
def rows():
    """File -> row of the table in the documentation."""
    text = (ROOT / 'docs/pretrained.md').read_text()
    return {file: row for row in text.splitlines() for file in FILES
            if row.startswith('|') and f'`{file}`' in row}


@pytest.mark.parametrize('file', FILES)
def test_official_file_loads(file, tmp_path, rows):
    shape_of = write(file, tmp_path)
    family, _, settings = FILES[file]
    relay, plain = BACKBONES[family]
    found = []
    for cfg in (dict(type=relay), plain):
        model = MODELS.build(cfg | settings)
        load_pretrained(model, tmp_path / file)
        of_file, of_model = shares(model, shape_of)
        assert of_file >= 0.98 and of_model >= 0.98
        found.append(of_model)
    assert of_model == 1  # nothing of a plain model starts at random
    # As in the documentation.
    assert f'| {megabytes(file)} MB |' in rows[file]
    assert rows[file].endswith(f'| {percent(of_file)} | {percent(found[0])} |')


def test_every_file_that_a_config_names_is_tested():
    texts = [p.read_text() for p in (ROOT / 'configs').rglob('*.py')]
    named = set(re.findall(r'[\w.-]+\.pth', ' '.join(texts)))
    assert named <= FILES.keys()
