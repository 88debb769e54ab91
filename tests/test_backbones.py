"""One set of questions, asked of every backbone."""
import copy
import logging
import pickle
import re
from unittest.mock import patch

import pytest
import timm
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit
from mmengine.runner import load_checkpoint
from mmpretrain.models import SwinTransformerV2, VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from mmseg.models.backbones import MixVisionTransformer
from mmseg.registry import MODELS
from torch import nn

from relay_seg.backbones import RelayMiT
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


@pytest.fixture(autouse=True)
def quiet():
    """The host logs a line for each parameter it initialises."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


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


def bias_of(block, shape):
    """Attention bias of the local view, whose token map is of this shape."""
    return block.attention_bias(shape, block.window_size(shape, shape))


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


# Shapes ---------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_one_pyramid_for_each_view(cfg, num_views):
    model = build_random(cfg, num_views=num_views)
    pyramids = model(make_views(num_views))
    shapes = [[tuple(x.shape) for x in pyramid] for pyramid in pyramids]
    expected = ([(2, 12, 4, 4)] * 2 if cfg['type'] in VITS else
                [(2, 6, 8, 8), (2, 12, 4, 4)])
    assert shapes == [expected] * num_views


@EVERY
@pytest.mark.parametrize('size', [
    (32, 64),
    (24, 56),  # padded attention windows
    (8, 8),  # smaller than an attention window
    (64, 64),  # other than img_size
])
def test_any_multiple_of_the_patch(cfg, size):
    model = build_random(cfg)
    for pyramid in model(make_views(size=size)):
        first = pyramid[0].shape[-2:]
        patch_size = cfg.get('patch_size', 4)
        assert first == tuple(side // patch_size for side in size)
        assert all(x.isfinite().all() for x in pyramid)


@ALL
@pytest.mark.parametrize('channels', [1, 4, 7])
def test_any_number_of_bands(cfg, channels):
    model = build_random(cfg, in_channels=channels)
    assert model(make_views(channels=channels))[0][0].isfinite().all()


@pytest.mark.parametrize('given, meant', [
    (-1, [2]),
    (1, [1]),
    ([-1], [2]),
    ((0, -2), [0, 1]),
    (range(3), [0, 1, 2]),
    ([2, 0], [0, 2]),
])
def test_vit_out_indices_in_any_form(given, meant):
    model = build_random(VIT, out_indices=given)
    whole = copy.deepcopy(model)
    whole.out_indices = (0, 1, 2)
    views = make_views()
    every = whole(views)[0]
    assert_equal(model(views)[0], [every[i] for i in meant])


@pytest.mark.parametrize('cfg', [SWIN, MIT], ids=['swin', 'mit'])
@pytest.mark.parametrize('given', [[1], (0, 1), range(2)])
def test_out_indices_of_stages_in_any_form(cfg, given):
    model = build_random(cfg, out_indices=given)
    assert len(model(make_views())[0]) == len(given)


@ALL
def test_leaves_the_config_as_it_is(cfg):
    cfg = copy.deepcopy(cfg)
    if cfg['type'] in VITS:
        cfg['out_indices'] = [-1, 0]
    before = copy.deepcopy(cfg)
    MODELS.build(ConfigDict(cfg))
    type(build(cfg))(**{k: v for k, v in cfg.items() if k != 'type'})
    assert cfg == before


# Against the host -----------------------------------------------------------

HOST_CASES = [
    (VIT, dict()),
    (VIT, dict(final_norm=False)),
    (VIT, dict(layer_scale_init_value=1e-4, qkv_bias=False)),
    (VIT, dict(out_indices=-1, patch_cfg=dict(bias=False))),
    (VIT, dict(norm_cfg=dict(type='LN', eps=1e-3))),
    (VIT, dict(img_size=(16, 48), interpolate_mode='bilinear')),
    (SWIN, dict()),
    (SWIN, dict(norm_cfg=None, out_indices=(1, ))),
    (SWIN, dict(window_size=[8, 2], pad_small_map=True)),
    (SWIN, dict(pretrained_window_sizes=[8, 6])),
    (SWIN, dict(arch=SWIN['arch'] | dict(extra_norm_every_n_blocks=2))),
    (MIT, dict()),
    (MIT, dict(out_indices=(1, ), qkv_bias=False, mlp_ratio=2)),
    (MIT, dict(norm_cfg=dict(type='LN', eps=1e-3), sr_ratios=[3, 2])),
    (TIMM, dict()),
    (TIMM, dict(arch='vit_small_patch16_dinov3_qkvb')),
    (TIMM, dict(arch='vit_small_patch16_rope_mixed_224')),
    (DINO, dict()),
    (DINO, dict(img_size=(16, 48))),
    (DINO, dict(arch='vit_small_patch14_dinov2')),
    (DINO, dict(arch='deit3_small_patch16_224')),
    (DINO, dict(arch='vit_base_patch16_clip_224')),
    (DINO, dict(arch='vit_base_patch16_siglip_224')),
]
HOST = pytest.mark.parametrize('cfg, changes', HOST_CASES)


@HOST
@pytest.mark.parametrize('size', [(32, 32), (40, 64)])
def test_without_relay_tokens_equals_the_host(cfg, changes, size):
    host = host_of(cfg, **changes)
    model = build(cfg, num_views=1, num_relay_tokens=0, **changes).eval()
    assert model.state_dict().keys() == host.state_dict().keys()
    assert ([n for n, _ in model.named_parameters()] == [
        n for n, _ in host.named_parameters()
    ])
    model.load_state_dict(host.state_dict())
    x, = make_views(1, size)
    assert_equal(model((x, ))[0], host(x))


@EVERY
def test_without_relay_tokens_local_view_equals_the_host(cfg):
    plain = {k: v for k, v in cfg.items() if k != 'fusion'}
    host = host_of(plain)
    model = build(cfg, num_relay_tokens=0).eval()
    model.load_state_dict(host.state_dict())
    views = make_views()
    ours = model(views)
    if cfg['fusion'] == 'sequential':
        assert_equal(ours[0], host(views[0]))
        assert_equal(ours[1], host(views[1]))  # stems are alike
    else:  # one call on a larger batch, which may round otherwise
        for view, pyramid in zip(views, ours):
            for a, b in zip(pyramid, host(view), strict=True):
                torch.testing.assert_close(a, b)


@ALL
def test_one_view_training_equals_the_host(cfg):
    """Same gradients; dropout and stochastic depth draw the same numbers."""
    changes = dict(drop_rate=0.2, drop_path_rate=0.3)
    if cfg['type'] == 'RelayTimmViT':
        rate = dict(proj_drop_rate=changes.pop('drop_rate'))
        changes['timm_cfg'] = cfg['timm_cfg'] | rate
    host = host_of(cfg, **changes)
    host.train()
    model = build(cfg, num_views=1, num_relay_tokens=0, **changes).train()
    model.load_state_dict(host.state_dict())
    x, = make_views(1)
    torch.manual_seed(1)
    ours = model((x, ))[0]
    torch.manual_seed(1)
    theirs = host(x)
    assert_equal(ours, theirs)
    sum(y.square().sum() for y in ours).backward()
    sum(y.square().sum() for y in theirs).backward()
    for (name, p), q in zip(model.named_parameters(), host.parameters()):
        if cfg['type'] == 'RelayTimmViT':  # its maps add up otherwise
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-3)
        else:
            assert torch.equal(p.grad, q.grad), name


# What relay tokens do -------------------------------------------------------


@EVERY
@pytest.mark.parametrize('num_views', [2, 3])
def test_every_global_view_moves_the_local_output(cfg, num_views):
    model = build_random(cfg, num_views=num_views)
    views = make_views(num_views)
    before = model(views)[0]
    for i in range(1, num_views):
        changed = list(views)
        changed[i] = torch.randn_like(changed[i])
        after = model(tuple(changed))[0]
        assert (after[-1] - before[-1]).abs().max() > 1e-4


@EVERY
def test_without_relay_tokens_views_are_cut_off(cfg):
    model = build_random(cfg, num_relay_tokens=0)
    local, wide = make_views()
    before = model((local, wide))
    after = model((local, torch.randn_like(wide)))
    assert_equal(before[0], after[0])
    assert all((a - b).abs().max() > 1e-4
               for a, b in zip(before[1], after[1]))


@ALL
def test_first_block_sees_the_wide_view_first(cfg):
    model = build_random(cfg)
    local, wide = make_views()
    outputs = []
    # Of the layers of the first block, the last that both kinds of token
    # pass together.
    name = {'RelayViT': 'layers.0', 'RelaySwinV2': 'stages.0.blocks.0',
            'RelayMiT': 'layers.0.1.0.norm2', 'RelayTimmViT': 'blocks.0',
            }[cfg['type']]
    model.get_submodule(name).register_forward_hook(
        lambda module, given, out: outputs.append(out))
    model((local, wide))
    model((torch.randn_like(local), wide))
    outputs = [torch.cat(out, 1) if isinstance(out, tuple) else out
               for out in outputs]  # Swin's give image and relay tokens
    wide_before, local_before, wide_after, local_after = outputs
    assert torch.equal(wide_before, wide_after)
    assert not torch.equal(local_before, local_after)


@pytest.mark.parametrize(
    'cfg', [VIT, SCALED, SWIN, MIT, TIMM, DINO],
    ids=['vit', 'vit-layer-scale', 'swin', 'mit', 'dinov3', 'dinov2'])
@pytest.mark.parametrize('num_views', [2, 3])
def test_every_parameter_gets_a_gradient(cfg, num_views):
    model = build_random(cfg, num_views=num_views).train()
    pyramids = model(make_views(num_views))
    sum((x * torch.randn_like(x)).sum() for x in flat(pyramids)).backward()
    without = [n for n, p in model.named_parameters()
               if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@EVERY
def test_gradients_are_those_of_the_output(cfg):
    """Against a difference quotient: no path is cut on its way back."""
    model = build_random(cfg).double()
    views = make_views(dtype=torch.float64)
    weights = [torch.randn_like(x) for x in flat(model(views))]

    def value():
        outputs = flat(model(views))
        return sum((x * w).sum() for x, w in zip(outputs, weights))

    value().backward()
    for name, p in model.named_parameters():
        if not any(part in name for part in RELAY + STEMS):
            continue
        step, size = torch.randn_like(p), 1e-6
        with torch.no_grad():
            p.add_(step, alpha=size)
            above = value()
            p.sub_(step, alpha=2 * size)
            quotient = (above - value()) / (2 * size)
            p.add_(step, alpha=size)
        expected = (p.grad * step).sum().item()
        assert quotient.item() == pytest.approx(
            expected, rel=1e-4, abs=1e-6), name


@EVERY
def test_local_output_trains_global_stems_and_relay(cfg):
    """What only the local output can learn of the global view."""
    model = build_random(cfg)
    local = model(make_views())[0]
    sum((x * torch.randn_like(x)).sum() for x in local).backward()
    without = [n for n, p in model.named_parameters()
               if n.startswith('global_') or any(r in n for r in RELAY)
               if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@ALL
@pytest.mark.parametrize('num_relay_tokens', [0, 4])
def test_checkpointing_changes_no_gradient(cfg, num_relay_tokens):
    changes = dict(num_relay_tokens=num_relay_tokens, drop_path_rate=0.5)
    if cfg is VIT:  # the host's ViT has no such option itself
        changes |= dict(drop_rate=0.2)
    model = build(cfg, **changes).train()
    other = build(cfg, with_cp=True, **changes).train()
    randomise(model)
    other.load_state_dict(model.state_dict())
    views = make_views()
    for m in (model, other):
        torch.manual_seed(1)
        sum(x.square().sum() for x in flat(m(views))).backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters()):
        assert (p.grad - q.grad).norm() <= 1e-5 * p.grad.norm(), name


@ALL
def test_checkpointing_calls_each_block_again(cfg):
    model = build(cfg, with_cp=True).train()
    views = make_views()
    with patch('torch.utils.checkpoint.checkpoint',
               wraps=torch.utils.checkpoint.checkpoint) as checkpoint:
        model(views)
        blocks = 3 if cfg['type'] in VITS else 4
        assert checkpoint.call_count == 2 * blocks
        model.eval()(views)
        assert checkpoint.call_count == 2 * blocks


# State, copies, precision ---------------------------------------------------


@EVERY
def test_keeps_no_state_between_calls(cfg):
    model = build_random(cfg)
    views = make_views()
    first = flat(model(views))
    model(make_views(size=(24, 40)))
    assert_equal(flat(model(views)), first)


@ALL
def test_leaves_its_views(cfg):
    views = make_views()
    before = [view.clone() for view in views]
    build_random(cfg)(views)
    assert_equal(views, before)


@ALL
def test_pickle_round_trip(cfg):
    model = build_random(cfg)
    again = pickle.loads(pickle.dumps(model))
    views = make_views()
    assert_equal(flat(again(views)), flat(model(views)))


@ALL
def test_deepcopy_is_independent(cfg):
    model = build_random(cfg)
    views = make_views()
    before = flat(model(views))
    other = copy.deepcopy(model)
    assert_equal(flat(other(views)), before)
    randomise(other)
    assert_equal(flat(model(views)), before)
    assert not torch.equal(flat(other(views))[0], before[0])
    # The copy fits weights to itself, not to the original.
    plain = host_of(cfg)
    other.load_state_dict(plain.state_dict(), strict=False)
    name = f'{projection(cfg)}.weight'
    weight = other.state_dict()[f'global_patch_embed.0.{name}']
    local, = (name for name, wide in model.stem.items() if 'patch' in wide)
    assert torch.equal(weight, plain.get_parameter(f'{local}.{name}'))
    assert_equal(flat(model(views)), before)


@EVERY
def test_compiles_whole(cfg):
    if cfg['type'] == 'RelaySwinV2':
        cfg = cfg | dict(arch=cfg['arch'] | dict(depths=[1, 2]))
    model = build_random(cfg)
    views = make_views(size=(72, 64))  # shifts and pads in Swin's last block
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.no_grad():
        for a, b in zip(flat(compiled(views)), flat(model(views))):
            torch.testing.assert_close(a, b)


@EVERY
def test_float64(cfg):
    model = build_random(cfg)
    views = make_views()
    single = flat(model(views))
    double = flat(model.double()(tuple(view.double() for view in views)))
    for a, b in zip(single, double):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


@EVERY
def test_bfloat16_autocast(cfg):
    model = build_random(cfg).train()
    views = make_views()
    full = flat(model(views))
    with torch.autocast('cpu', torch.bfloat16):
        half = flat(model(views))
        sum(x.float().square().sum() for x in half).backward()
    for a, b in zip(full, half):
        assert (a - b).norm() / a.norm() < 0.1
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Options --------------------------------------------------------------------


def drop_probs(model):
    """Of each block: of attention and of the MLP."""
    if isinstance(model, (RelayMiT, MixVisionTransformer)):
        return [(m.attn.dropout_layer.drop_prob,
                 m.ffn.dropout_layer.drop_prob)
                for _, blocks, _ in model.layers for m in blocks]
    if hasattr(model, 'blocks'):
        return [(getattr(m.drop_path1, 'drop_prob', 0.),
                 getattr(m.drop_path2, 'drop_prob', 0.))
                for m in model.blocks]
    if hasattr(model, 'layers'):
        return [(m.attn.out_drop.drop_prob, m.ffn.dropout_layer.drop_prob)
                for m in model.layers]
    return [(m.attn.drop.drop_prob, m.ffn.dropout_layer.drop_prob)
            for stage in model.stages for m in stage.blocks]


@ALL
def test_drop_path_rate_rises_over_the_blocks(cfg):
    model = build(cfg, drop_path_rate=0.6)
    probs = drop_probs(model)
    rates = torch.linspace(0, 0.6, len(probs)).tolist()
    for given, rate in zip(probs, rates):
        assert given == pytest.approx((rate, rate))
    assert drop_probs(host_of(cfg, drop_path_rate=0.6)) == probs


@ALL
def test_drop_path_acts_in_training_only(cfg):
    model = build_random(cfg, drop_path_rate=0.9)
    views = make_views()
    assert_equal(flat(model(views)), flat(model(views)))
    model.train()
    assert not torch.equal(model(views)[0][-1], model(views)[0][-1])


def test_layer_scale_on_and_off():
    on, off = build(SCALED), build(VIT)
    added = on.state_dict().keys() - off.state_dict().keys()
    assert added == {f'layers.{i}.{name}.weight' for i in range(3)
                     for name in ('attn.gamma1', 'ffn.gamma2')}
    assert on.layers[1].attn.gamma1.weight.unique().item() == (
        pytest.approx(1e-4))
    views = make_views()
    on.load_state_dict(off.state_dict(), strict=False)
    assert not torch.equal(on(views)[0][-1], off(views)[0][-1])


def test_vit_final_norm_on_and_off():
    on, off = build_random(VIT), build_random(VIT, final_norm=False)
    off.load_state_dict(on.state_dict(), strict=False)
    views = make_views()
    for with_norm, without in zip(on(views), off(views)):
        assert torch.equal(with_norm[0], without[0])  # not after the last
        x = without[1].permute(0, 2, 3, 1)
        torch.testing.assert_close(on.ln1(x).permute(0, 3, 1, 2),
                                   with_norm[1])


def test_swin_final_norm_on_and_off():
    on, off = build_random(SWIN), build_random(SWIN, norm_cfg=None)
    off.load_state_dict(on.state_dict(), strict=False)
    views = make_views()
    for with_norm, without in zip(on(views), off(views)):
        for i in range(2):
            x = getattr(on, f'norm{i}')(without[i].permute(0, 2, 3, 1))
            torch.testing.assert_close(x.permute(0, 3, 1, 2), with_norm[i])


def test_swin_relay_bias_learned_and_zero():
    learned, zero = (build(SWIN, relay_bias=b) for b in ('learned', 'zero'))
    added = learned.state_dict().keys() - zero.state_dict().keys()
    assert added == {f'stages.{i}.blocks.{j}.relay_bias'
                     for i in range(2) for j in range(2)}
    # Relay tokens start where image tokens do, at 16 * sigmoid(0) = 8.
    block = learned.stages[0].blocks[0]
    with torch.no_grad():
        block.attn.w_msa.cpb_mlp[2].weight.zero_()
        assert (bias_of(block, (8, 8)) == 8).all()


@pytest.mark.parametrize('cfg', [
    dict(type='RelayViT', arch='deit-small', img_size=256),
    dict(type='RelaySwinV2', arch='tiny', img_size=256),
    dict(type='RelaySwinV2', arch='small', img_size=256),
    dict(type='RelayMiT', embed_dims=32, num_layers=[2, 2, 2, 2],
         num_heads=[1, 2, 5, 8]),
    dict(type='RelayTimmViT'),
    dict(type='RelayTimmViT', arch='vit_small_patch14_reg4_dinov2',
         img_size=224),
])
def test_relay_adds_under_two_percent(cfg):
    relay, plain = (
        sum(p.numel() for p in build(cfg, **extra).parameters())
        for extra in (dict(), dict(num_views=1, num_relay_tokens=0)))
    assert 0 < relay - plain < 0.02 * plain


# Freezing -------------------------------------------------------------------

FROZEN = [
    (VIT, 0, STEMS[:2]),  # the host cannot freeze only the stem of its ViT
    (VIT, 2, STEMS[:2] + ('layers.0.', 'layers.1.')),
    (VIT, 3, STEMS[:2] + ('layers.', 'ln1.')),
    (SWIN, 0, ('patch_embed', 'stages.0.', 'norm0')),
    (SWIN, 1, ('patch_embed', 'stages.', 'norm')),
    (MIT, 0, ('layers.0.', )),
    (MIT, 1, ('layers.', )),
    (TIMM, 1, (*STEMS[:2], *TOKENS, 'blocks.0.')),
    (TIMM, 3, (*STEMS[:2], *TOKENS, 'blocks.', 'norm.')),
    (DINO, 2, (*STEMS[:2], *TOKENS, 'blocks.0.', 'blocks.1.')),
]


@pytest.mark.parametrize('cfg, frozen_stages, prefixes', FROZEN)
def test_frozen_stages(cfg, frozen_stages, prefixes):
    model = build(cfg, frozen_stages=frozen_stages)
    for name, p in model.named_parameters():
        frozen = name.startswith(prefixes + ('global_', ))
        frozen = frozen and not any(r in name for r in RELAY)
        assert p.requires_grad != frozen, name
    assert all(p.requires_grad
               for p in build(cfg, frozen_stages=-1).parameters())


@pytest.mark.parametrize(
    'cfg, frozen_stages, prefixes',
    [c for c in FROZEN[1:] if c[0] in (VIT, SWIN)])  # others cannot
def test_freezes_what_the_host_freezes(cfg, frozen_stages, prefixes):
    host = host_of(cfg, frozen_stages=frozen_stages)
    host.train()
    theirs = {n for n, p in host.named_parameters() if not p.requires_grad}
    model = build(cfg, frozen_stages=frozen_stages)
    ours = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n for n in ours if not n.startswith('global_')} == theirs


@pytest.mark.parametrize('cfg, frozen_stages, prefixes', FROZEN)
def test_train_keeps_frozen_parts_in_eval_mode(cfg, frozen_stages, prefixes):
    model = build(cfg, frozen_stages=frozen_stages)
    assert model.train() is model
    assert model.eval() is model
    model.train()
    assert model.training
    for name, m in model.named_modules():
        frozen = (name + '.').startswith(
            prefixes + ('drop_after_pos', 'pos_drop', 'norm_pre'))
        leaf = not any(m.children()) and 'relay' not in name
        if frozen and leaf:
            assert not m.training, name
        elif leaf and not name.startswith('global_'):
            assert m.training, name


@ALL
def test_frozen_parts_do_not_draw(cfg):
    """Frozen stages have no dropout of any kind, for all views."""
    layers = dict(attn_drop_rate=0.5, drop_rate=0.5)
    if cfg is VIT:
        changes = dict(frozen_stages=3, layer_cfgs=layers, drop_rate=0.5)
    elif cfg is MIT:
        changes = dict(frozen_stages=1, drop_path_rate=0.5, **layers)
    elif cfg['type'] == 'RelayTimmViT':
        changes = dict(frozen=True, drop_path_rate=0.5, timm_cfg=dict(
            pos_drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5))
        changes['timm_cfg'] |= cfg['timm_cfg']
    else:
        changes = dict(
            frozen_stages=1, drop_rate=0.5, drop_path_rate=0.5,
            stage_cfgs=dict(block_cfgs=dict(
                attn_cfgs=dict(attn_drop=0.5, proj_drop=0.5),
                ffn_cfgs=dict(ffn_drop=0.5))))
    for num_relay_tokens in (0, 4):
        model = build(cfg, num_relay_tokens=num_relay_tokens, **changes)
        randomise(model).train()
        views = make_views()
        assert_equal(flat(model(views)), flat(model(views)))


@ALL
def test_frozen_model_trains_the_rest(cfg):
    stages = 1 if cfg['type'] in VITS else 0
    model = build_random(cfg, frozen_stages=stages).train()
    sum(x.square().sum() for x in flat(model(make_views()))).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


# Weights --------------------------------------------------------------------


def twins(model):
    """Pairs of a local parameter and that of a global view."""
    parameters = dict(model.named_parameters())
    pairs = []
    local_of = {wide: local for local, wide in model.stem.items()}
    for name, p in parameters.items():
        if name.startswith('global_'):
            stem, _, *rest = name.split('.')
            pairs.append((parameters['.'.join([local_of[stem], *rest])], p))
    assert pairs
    return pairs


def assert_twins_are_copies(model):
    for local, wide in twins(model):
        assert torch.equal(local, wide)
        assert local.data_ptr() != wide.data_ptr()


@ALL
@pytest.mark.parametrize('num_views', [2, 3])
def test_stems_start_as_copies(cfg, num_views):
    model = build(cfg, num_views=num_views)
    assert_twins_are_copies(model)
    model.init_weights()
    assert_twins_are_copies(model)
    assert len(twins(model)) % (num_views - 1) == 0
    with torch.no_grad():
        for local, wide in twins(model):
            local.add_(1)
            assert not torch.equal(local, wide)


@ALL
def test_second_init_weights_changes_nothing(cfg):
    """As in the host, whose runner calls it whoever called it before."""
    model = build(cfg)
    model.init_weights()
    trained = build_random(cfg).state_dict()
    model.load_state_dict(trained)
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[name]), name


@ALL
def test_init_weights_leaves_no_zero_tokens(cfg):
    model = build(cfg)
    model.init_weights()
    names = ['relay_tokens'] + (['pos_embed'] if cfg is VIT else [])
    for name in names:
        value = getattr(model, name)
        assert 0.01 < value.std().item() < 0.03, name


@pytest.mark.parametrize('cfg', [VIT, SWIN, MIT])  # timm draws when it builds
def test_init_weights_starts_where_the_host_does(cfg):
    """Same spread of every parameter that the host has too."""
    model, host = build_random(cfg), host_of(cfg)
    model.load_state_dict(host.state_dict(), strict=False)
    model.init_weights()
    host.init_weights()
    ours = dict(model.named_parameters())
    for name, theirs in host.named_parameters():
        if theirs.numel() > 100:
            spread = pytest.approx(theirs.std().item(), rel=0.5, abs=1e-6)
            assert ours[name].std().item() == spread, name
        elif theirs.unique().numel() == 1:
            assert torch.equal(ours[name], theirs), name


@ALL
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_pretrained_of_the_host(cfg, prefix, num_views, tmp_path):
    host = host_of(cfg)
    path = str(tmp_path / 'host.pth')
    state = {prefix + k: v for k, v in host.state_dict().items()}
    state['head.fc.weight'] = torch.ones(3)
    torch.save(dict(state_dict=state), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    if prefix:
        init_cfg['prefix'] = prefix
    model = build(cfg, num_views=num_views, init_cfg=init_cfg)
    model.init_weights()
    ours = model.state_dict()
    for name, value in host.state_dict().items():
        assert torch.equal(ours[name], value), name
    assert model.relay_tokens.std() > 0.005
    if num_views > 1:
        assert_twins_are_copies(model)


@ALL
def test_pretrained_of_the_host_in_a_list_of_inits(cfg, tmp_path):
    host = host_of(cfg)
    path = str(tmp_path / 'host.pth')
    torch.save(dict(state_dict=host.state_dict()), path)
    model = build(cfg, init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Pretrained', checkpoint=path)])
    model.init_weights()
    ours = model.state_dict()
    for name, value in host.state_dict().items():
        assert torch.equal(ours[name], value), name
    assert_twins_are_copies(model)


@ALL
@pytest.mark.parametrize('init', ['Pretrained', PretrainedInit])
def test_own_checkpoint_keeps_its_global_stems(cfg, init, tmp_path):
    trained = build_random(cfg)
    path = str(tmp_path / 'relay.pth')
    torch.save(dict(state_dict=trained.state_dict()), path)
    model = build(cfg, init_cfg=dict(type=init, checkpoint=path))
    model.init_weights()
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not all(torch.equal(a, b) for a, b in twins(model))
    views = make_views()
    assert_equal(flat(model.eval()(views)), flat(trained(views)))


@ALL
def test_own_checkpoint_loads_strictly(cfg):
    trained = build_random(cfg, num_views=3)
    model = build(cfg, num_views=3)
    model.load_state_dict(trained.state_dict())
    views = make_views(3)
    assert_equal(flat(model.eval()(views)), flat(trained(views)))


@ALL
def test_loading_leaves_the_state_dict(cfg):
    changes = dict() if cfg is MIT else dict(img_size=64)
    state = host_of(cfg, **changes).state_dict()
    before = {name: value.clone() for name, value in state.items()}
    build(cfg).load_state_dict(state, strict=False)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


@ALL
def test_loading_tells_of_missing_and_surplus_keys(cfg):
    state = host_of(cfg).state_dict()
    state['surplus'] = torch.ones(1)
    wide = f'global_patch_embed.0.{projection(cfg)}.weight'
    name = next(k for k in state if k.endswith(
        ('projection.weight', 'patch_embed.proj.weight')))
    lost = state.pop(name)
    missing, surplus = build(cfg).load_state_dict(state, strict=False)
    assert surplus == ['surplus']
    assert {name, wide} <= set(missing)
    state[name] = lost
    missing, _ = build(cfg).load_state_dict(state, strict=False)
    assert missing
    assert all(any(r in name for r in RELAY) for name in missing)


@pytest.mark.parametrize('with_cls_token', [False, True])
@pytest.mark.parametrize('size', [(32, 32), (64, 64), (16, 16), (32, 48)])
def test_vit_position_embedding_fits(with_cls_token, size, tmp_path):
    """A class token's row goes; a square map is resized."""
    plain = host_of(VIT, with_cls_token=with_cls_token)
    path = str(tmp_path / 'host.pth')
    torch.save(dict(state_dict=plain.state_dict()), path)
    model = build(VIT, img_size=size, init_cfg=dict(
        type='Pretrained', checkpoint=path))
    model.init_weights()
    rows = plain.pos_embed[:, int(with_cls_token):]
    grid = size[0] // 8, size[1] // 8
    expected = resize_pos_embed(rows, (4, 4), grid, 'bicubic', 0)
    assert model.pos_embed.shape == (1, grid[0] * grid[1], 12)
    torch.testing.assert_close(model.pos_embed, expected)
    assert_twins_are_copies(model)
    assert model.eval()(make_views(size=size))[0][0].isfinite().all()


def test_vit_own_position_embeddings_are_resized_each():
    trained = build_random(VIT)
    model = build(VIT, img_size=64)
    model.load_state_dict(trained.state_dict())
    for name in ('pos_embed', 'global_pos_embed.0'):
        expected = resize_pos_embed(trained.state_dict()[name], (4, 4),
                                    (8, 8), 'bicubic', 0)
        torch.testing.assert_close(model.state_dict()[name], expected)


def test_swin_loads_weights_of_another_attention_window():
    """Tables of the checkpoint do not replace those of the model."""
    model = build(SWIN, window_size=8)
    tables = {k: v.clone() for k, v in model.named_buffers()}
    assert tables
    model.load_state_dict(build_random(SWIN).state_dict())
    for name, table in model.named_buffers():
        assert torch.equal(table, tables[name])
    assert model.eval()(make_views(size=(64, 64)))[0][0].isfinite().all()


@ALL
def test_loads_inside_a_segmentor_prefix(cfg, tmp_path):
    """Stems are filled in also where the backbone is a part of something."""
    whole = nn.ModuleDict(dict(backbone=build(cfg)))
    host = host_of(cfg)
    path = str(tmp_path / 'segmentor.pth')
    torch.save(dict(state_dict={f'backbone.{k}': v
                                for k, v in host.state_dict().items()}), path)
    load_checkpoint(whole, path, map_location='cpu', logger='silent')
    for name, value in host.state_dict().items():
        assert torch.equal(whole['backbone'].state_dict()[name], value), name
    assert_twins_are_copies(whole['backbone'])


# Errors ---------------------------------------------------------------------

WRONG = [
    (VIT, dict(arch='deit-smal'), "arch='deit-smal'.*use one of.*deit-small"),
    (SWIN, dict(arch='nano'), "arch='nano'.*use one of.*tiny"),
    (VIT, dict(arch=dict(embed_dims=8)), 'num_heads'),
    (SWIN, dict(arch=dict(embed_dims=8)), 'depths'),
    (VIT, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(relay_bias='none'), "relay_bias='none'.*learned.*zero"),
    (VIT, dict(num_views=0), 'num_views=0.*at least 1'),
    (SWIN, dict(num_relay_tokens=-1), 'num_relay_tokens=-1.*0 tokens'),
    (VIT, dict(out_indices=[3]), r'out_indices=\[3\].*3'),
    (VIT, dict(out_indices=-4), r'out_indices=\[-4\]'),
    (SWIN, dict(out_indices=[2]), 'out_indices.*0 to 1'),
    (MIT, dict(out_indices=[0, 2]), 'out_indices.*0 to 1'),
    (MIT, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(window_size=[4, 4, 4]), 'window_size has 3 values for 2'),
    (TIMM, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (TIMM, dict(out_indices=[3]), r'out_indices=\[3\].*3'),
    (TIMM, dict(arch='vit_small_patch16_dino3'),
     'arch=.*dino3.*unknown.*vit_small_patch16_dinov3'),
    (TIMM, dict(arch='resnet18', timm_cfg={}), 'ResNet.*plain ViT.*dinov3'),
    (TIMM, dict(arch='deit_tiny_distilled_patch16_224'),
     'istil.*plain ViT.*dinov3'),
    (TIMM, dict(timm_cfg=dict(widths=3)), 'widths.*timm_cfg'),
    (TIMM, dict(rotary_scales=[4, 8]), 'rotary_scales.*1 global'),
    (DINO, dict(rotary_scales=[4]), 'no rotary.*leave them out'),
    (TIMM, dict(arch='vit_small_patch16_rope_224', rotary_scales=[4]),
     'rotary_scales=4.*DINOv3.*use 1'),
    (TIMM, dict(lora_rank=2), 'lora_rank=2.*frozen=True'),
    (TIMM, dict(arch='vit_small_patch16_dinov3_qkvb', lora_rank=2,
                frozen=True), 'lora_rank=2.*q_bias.*without'),
]


@pytest.mark.parametrize('cfg, changes, message', WRONG)
def test_wrong_arguments(cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        build(cfg, **changes)


@ALL
@pytest.mark.parametrize('views, message', [
    (make_views(1), 'num_views=2 but got 1 views.*context_factors'),
    (make_views(3), 'num_views=2 but got 3 views.*context_factors'),
    (make_views(size=(33, 32)), '33 x 32.*patch_size.*use 32 x'),
    (make_views(size=(32, 42)), '32 x 42.*patch_size.*use 32 x'),
    (make_views(size=(3, 3)), '3 x 3.*patch_size'),
    ((make_views(1)[0][:1], *make_views(1)), 'differ in windows or bands'),
    (make_views(1) + make_views(1, channels=4), 'differ in windows or bands'),
])
def test_wrong_views(cfg, views, message):
    with pytest.raises(ValueError, match=message):
        build(cfg)(views)


@ALL
def test_remedy_of_a_wrong_window_works(cfg):
    """The window that the error names is one that runs."""
    model = build_random(cfg)
    with pytest.raises(ValueError) as error:
        model(make_views(size=(33, 42)))
    height, width = re.search(
        r'use (\d+) x (\d+)', str(error.value)).groups()
    model(make_views(size=(int(height), int(width))))


def test_kept_bias_follows_the_weights():
    """In evaluation the bias is computed once, until a weight changes."""
    model, other = build_random(SWIN), build_random(SWIN)
    block, views = model.stages[0].blocks[1], make_views()

    def outputs_of(one):
        with torch.no_grad():
            return flat(one(views))

    with torch.no_grad():
        assert bias_of(block, (8, 8)) is bias_of(block, (8, 8))
        assert bias_of(block, (8, 8)).shape != bias_of(block, (4, 4)).shape
    changes = {
        'in place': lambda m: [
            p.mul_(1.5) for p in m.parameters()],
        'loaded': lambda m: m.load_state_dict(other.state_dict()),
        # As averaged weights are put in before a validation.
        'swapped': lambda m: [p.data.mul_(0.5) for p in m.parameters()]
        + [m.eval()],
    }
    for name, change in changes.items():
        before = outputs_of(model)
        with torch.no_grad():
            change(model)
        fresh = copy.deepcopy(model).train().eval()
        after = outputs_of(model)
        assert not torch.equal(before[0], after[0]), name
        for a, b in zip(after, outputs_of(fresh)):
            assert torch.equal(a, b), name


def test_kept_bias_is_that_of_the_precision():
    """Autocast computes it in bf16: nobody else gets that."""
    block = build_random(SWIN).stages[0].blocks[1]
    with torch.no_grad():
        exact = bias_of(block, (8, 8)).clone()
        for _ in range(2):
            with torch.autocast('cpu', torch.bfloat16):
                coarse = bias_of(block, (8, 8)).clone()
            assert torch.equal(bias_of(block, (8, 8)), exact)
        with torch.autocast('cpu', torch.float16):
            finer = bias_of(block, (8, 8)).clone()
    assert 0 < (finer - exact).abs().max() < (coarse - exact).abs().max()


LETTING_GO = {
    'train': lambda m, other: m.train(),
    'eval': lambda m, other: m.eval(),
    'init': lambda m, other: m.init_weights(),
    'load': lambda m, other: m.load_state_dict(other),
    'assign': lambda m, other: m.load_state_dict(other, assign=True),
    'to': lambda m, other: m.to(torch.float64),
    'apply': lambda m, other: m._apply(lambda x: x * 2),
}


@pytest.mark.parametrize('name', LETTING_GO)
def test_kept_bias_goes_with_whatever_changes_weights(name):
    model, other = build_random(SWIN), build_random(SWIN)
    blocks = [block for stage in model.stages for block in stage.blocks]
    with torch.no_grad():
        model(make_views())
    assert all(len(block._kept) == 1 for block in blocks)
    LETTING_GO[name](model, other.state_dict())
    assert not any(block._kept for block in blocks)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_padded_tokens_in_half_precision(dtype):
    """Their keys are 0: no length to divide by."""
    model, views = build_random(SWIN | dict(window_size=3)), make_views()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(('q_bias', 'v_bias')):
                parameter.zero_()
        full = flat(model(views))
    with torch.autocast('cpu', dtype):
        half = flat(model.train()(views))
    for a, b in zip(full, half):
        assert (a - b).norm() / a.norm() < 0.1
    sum(x.float().square().mean() for x in half).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters()
               if p.grad is not None)


def test_training_never_keeps_a_bias():
    block = build_random(SWIN).stages[0].blocks[1]
    for _ in range(2):  # a graph of its own for each step
        bias_of(block.train(), (8, 8)).sum().backward()
    assert not block._kept
