"""Of every backbone: its options, and what they cost."""
import pytest
import torch
from backbone_cases import (
    ALL,
    SCALED,
    SWIN,
    VIT,
    assert_equal,
    build,
    build_random,
    flat,
    host_of,
    make_views,
)
from mmseg.models.backbones import MixVisionTransformer

from relay_seg.backbones import RelayMiT


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
