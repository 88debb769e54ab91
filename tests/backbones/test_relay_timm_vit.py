"""What only RelayTimmViT has; test_backbone_*.py ask the rest."""
import subprocess
import sys
from functools import partial

import pytest
import torch
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401
from relay_seg.analysis import saved_bytes
from relay_seg.backbones import RelayTimmViT, TimmViT
from relay_seg.backbones.timm_block import LoRALinear, rotary

V3, V2 = 'vit_small_patch16_dinov3', 'vit_small_patch14_reg4_dinov2'
SMALL = dict(
    img_size=32, patch_size=8,
    timm_cfg=dict(embed_dim=16, depth=2, num_heads=2, init_values=0.1))
BOTH = pytest.mark.parametrize('arch', [V3, V2])


def build(arch=V3, **changes):
    torch.manual_seed(0)
    model = RelayTimmViT(arch, **SMALL | changes)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'lora_b' not in name:
                p.add_(0.2 * torch.randn_like(p))
    return model


def views_of(batch=2, side=32):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(batch, 3, side, side, generator=generator)
                 for _ in range(2))


def loss_of(model, views):
    return sum(x.square().sum() for pyramid in model(views) for x in pyramid)


def test_without_timm_it_says_what_to_install():
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c',
         'import sys; sys.modules["timm"] = None\n'
         'import relay_seg.registered\n'
         'from relay_seg.backbones import RelayTimmViT\n'
         'try: RelayTimmViT()\n'
         'except ImportError as error: print(error)'],
        capture_output=True, text=True)
    assert "pip install 'relay-seg[timm]'" in done.stdout, done.stderr


@BOTH
def test_prefix_tokens_are_of_a_branch(arch):
    """The class token of one view tells the other nothing."""
    model, (local, wide) = build(arch, num_relay_tokens=0).eval(), views_of()
    with torch.no_grad():
        assert torch.equal(model((local, wide))[0][0],
                           model((local, -wide))[0][0])
        before = model((local, wide))
        model.reg_token.copy_(torch.randn_like(model.reg_token))
        assert all((a[0] - b[0]).abs().max() > 1e-3
                   for a, b in zip(before, model((local, wide))))


def test_rotary_coordinates_of_the_global_view():
    """Scaled by 4, its middle quarter lies where the local view does."""
    model = build(rotary_scales=[4])
    local = rotary(model.rope, (4, 4)).unflatten(0, (4, 4))
    wide = rotary(model.ropes['1'], (16, 16)).unflatten(0, (16, 16))
    torch.testing.assert_close(wide[6:10, 6:10], local, atol=1e-5, rtol=0)
    halved = model.half()  # a downcast makes periods anew
    again = rotary(halved.ropes['1'], (16, 16)).unflatten(0, (16, 16))
    torch.testing.assert_close(again[6:10, 6:10], local, atol=1e-3, rtol=0)
    views, own = views_of(), build().eval()
    model = build(rotary_scales=[4]).eval()
    with torch.no_grad():
        assert not torch.equal(model(views)[0][0], own(views)[0][0])
        assert torch.equal(  # 1 is the default
            build(rotary_scales=[1]).eval()(views)[0][0], own(views)[0][0])
    assert model.state_dict().keys() == own.state_dict().keys()


def test_relay_tokens_are_not_turned():
    """Where attention only hears relay tokens, all places hear the same."""
    model = build()
    prefix = model.prefix + model.num_relay_tokens
    assert {b.attn.num_prefix_tokens for b in model.blocks} == {prefix}
    plain = build(num_relay_tokens=0)
    assert {b.attn.num_prefix_tokens for b in plain.blocks} == {model.prefix}


@BOTH
def test_frozen_leaves_what_relay_adds(arch):
    model = build(arch, frozen=True, relay_place='bias').train()
    loss_of(model, views_of()).backward()
    for name, p in model.named_parameters():
        ours = name.startswith(('relay_tokens', 'relay_places'))
        assert p.requires_grad == ours, name
        assert not ours or p.grad.abs().max() > 0, name
    assert not any(m.training for block in model.blocks
                   for m in block.modules())


@BOTH
def test_frozen_keeps_less_for_the_backward_pass(arch):
    kept = {}
    for name, changes in dict(
            all=dict(), lora=dict(frozen=True, lora_rank=2),
            frozen=dict(frozen=True),
            plain=dict(frozen=True, num_relay_tokens=0)).items():
        model = build(arch, **changes).train()
        kept[name] = saved_bytes(
            model, partial(loss_of, model, views_of()))
    assert kept['all'] > kept['lora'] > kept['frozen'] > kept['plain']
    maps = 2 * 2 * 16 * 16 * 4  # what the loss itself keeps
    assert kept['plain'] <= 2 * maps


@BOTH
def test_lora_starts_as_nothing_and_learns(arch):
    plain, model = build(arch), build(arch, frozen=True, lora_rank=2)
    assert not model.load_state_dict(
        plain.state_dict(), strict=False).unexpected_keys
    views = views_of()
    with torch.no_grad():
        for a, b in zip(model.eval()(views)[0], plain.eval()(views)[0]):
            torch.testing.assert_close(a, b)
    layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
    assert len(layers) == 4
    for layer in layers:
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    loss_of(model.train(), views).backward()
    for name, p in model.named_parameters():
        learns = '.lora_' in name or name == 'relay_tokens'
        assert p.requires_grad == (p.grad is not None) == learns, name
    layer, x = layers[0], torch.randn(3, 16)
    merged = layer.weight + layer.lora_b @ layer.lora_a
    torch.testing.assert_close(
        layer(x), torch.nn.functional.linear(x, merged, layer.bias))


def test_depth_of_each_parameter():
    model = build(relay_place='bias', frozen=True, lora_rank=2)
    expected = {
        'cls_token': 0, 'reg_token': 0, 'patch_embed.proj.weight': 0,
        'global_patch_embed.0.proj.bias': 0, 'blocks.0.norm1.weight': 1,
        'blocks.1.attn.qkv.weight': 2, 'blocks.1.attn.qkv.lora_a': 3,
        'norm.weight': 3, 'relay_tokens': 3,
        'relay_places.0.hidden.weight': 3}
    names = dict(model.named_parameters())
    for name, depth in expected.items():
        assert name in names
        assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == (
            depth, 4), name


@BOTH
def test_plain_twin_is_it_without_relay(arch):
    twin = MODELS.build(dict(type='TimmViT', arch=arch, **SMALL)).eval()
    assert isinstance(twin, TimmViT)
    relay = build(arch, num_relay_tokens=0).eval()
    twin.load_state_dict({k: v for k, v in relay.state_dict().items()
                          if not k.startswith('global_')})
    local, wide = views_of()
    with torch.no_grad():
        for a, b in zip(twin(local), relay((local, wide))[0]):
            assert torch.equal(a, b)


def test_training_follows_inference_mode():
    model = build()
    with torch.inference_mode():
        model.eval()(views_of(side=40))
    loss_of(model.train(), views_of(side=40)).backward()
