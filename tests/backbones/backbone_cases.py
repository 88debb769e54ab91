"""Small models of every family, the host's own, and views for them."""
import copy

import pytest
import timm
import torch
from mmpretrain.models import SwinTransformerV2, VisionTransformer
from mmseg.models.backbones import MixVisionTransformer
from mmseg.registry import MODELS

from relay_seg.relay import FUSIONS

VIT = dict(
    type='RelayViT',
    arch=dict(
        embed_dims=12,
        num_layers=3,
        num_heads=3,
        feedforward_channels=24),
    img_size=32,
    patch_size=8,
    out_indices=[0, 2])
SWIN = dict(
    type='RelaySwinV2',
    arch=dict(
        embed_dims=6,
        depths=[2, 2],
        num_heads=[1, 2],
        extra_norm_every_n_blocks=0),
    img_size=32,
    patch_size=4,
    window_size=4,
    drop_path_rate=0.,
    out_indices=[0, 1])
MIT = dict(
    type='RelayMiT',
    embed_dims=6,
    num_stages=2,
    num_layers=[2, 2],
    num_heads=[1, 2],
    patch_sizes=[7, 3],
    strides=[4, 2],
    sr_ratios=[2, 1],
    out_indices=(0, 1))
TIMM = dict(
    type='RelayTimmViT',
    arch='vit_small_patch16_dinov3',
    timm_cfg=dict(embed_dim=12, depth=3, num_heads=3, init_values=0.1),
    img_size=32,
    patch_size=8,
    out_indices=[0, 2])
DINO = TIMM | dict(arch='vit_small_patch14_reg4_dinov2')
SCALED = VIT | dict(layer_scale_init_value=1e-4)

FAMILIES = dict(vit=VIT, swin=SWIN, mit=MIT, dinov3=TIMM, dinov2=DINO)
VITS = 'RelayViT', 'RelayTimmViT'
ALL = pytest.mark.parametrize('cfg', FAMILIES.values(), ids=FAMILIES)
EVERY = pytest.mark.parametrize(
    'cfg', [c | dict(fusion=f) for c in FAMILIES.values() for f in FUSIONS],
    ids=[f'{name}-{f}' for name in FAMILIES for f in FUSIONS])

# Parameters that no plain model has, and that are not stems.
RELAY = ('relay_tokens', 'relay_bias', 'relay_merge')
STEMS = ('patch_embed', 'pos_embed', 'global_', 'layers.0.0.')
TOKENS = 'cls_token', 'reg_token'


def build(cfg, **changes):
    return MODELS.build(cfg | changes)


def randomise(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def build_random(cfg, **changes):
    return randomise(build(cfg, **changes)).eval()


def make_views(num=2, size=(32, 32), channels=3, **how):
    return tuple(torch.randn(2, channels, *size, **how) for _ in range(num))


def flat(pyramids):
    return [x for pyramid in pyramids for x in pyramid]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def host_of(cfg, **changes):
    """The host's own model of the same configuration, at random."""
    cfg = copy.deepcopy(cfg | changes)  # the host edits lists
    family = cfg.pop('type')
    if family == 'RelaySwinV2':
        model = SwinTransformerV2(**cfg)
    elif family == 'RelayMiT':
        model = MixVisionTransformer(**cfg)
    elif family == 'RelayTimmViT':
        model = timm_of(**cfg)
    else:
        cfg = dict(with_cls_token=False, out_type='featmap') | cfg
        model = VisionTransformer(**cfg)
    randomise(model)
    model.eval()  # gives None, in the host
    return model


def timm_of(arch, out_indices, timm_cfg=dict(), in_channels=3, **cfg):
    """timm's own model, which gives feature maps."""
    plain = timm.create_model(
        arch, num_classes=0, dynamic_img_size=True, in_chans=in_channels,
        global_pool='', **cfg | timm_cfg)

    def maps(x):
        last, found = plain.forward_intermediates(x, indices=out_indices)
        last = last[:, plain.num_prefix_tokens:].mT
        return [*found[:-1], last.unflatten(2, found[0].shape[2:])]

    plain.forward = maps
    return plain


def projection(cfg):
    """Name of the stem's convolution in its module."""
    return 'proj' if cfg['type'] == 'RelayTimmViT' else 'projection'
