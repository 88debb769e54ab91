"""The bias by place, and what is kept of biases in evaluation."""
from functools import partial

import pytest
import torch
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401
from relay_seg.backbones.kept_bias import FORGET, MOST
from relay_seg.backbones.place import PlaceBias, places

SMALL = {
    'ViT': dict(
        type='RelayViT', img_size=32, patch_size=8, arch=dict(
            embed_dims=16, num_layers=2, num_heads=2,
            feedforward_channels=16)),
    'SwinV2': dict(
        type='RelaySwinV2', window_size=4, out_indices=[0, 1],
        pretrained_window_sizes=[0, 0], arch=dict(
            embed_dims=8, depths=[2, 2], num_heads=[2, 2],
            extra_norm_every_n_blocks=0)),
    'MiT': dict(type='RelayMiT', embed_dims=8, num_heads=[1, 1, 2, 2]),
    'timm': dict(
        type='RelayTimmViT', img_size=32, patch_size=8, timm_cfg=dict(
            embed_dim=16, depth=2, num_heads=2, init_values=1.)),
}
VITS = 'RelayViT', 'RelayTimmViT'
MIT = SMALL['MiT'] | dict(num_layers=[1, 1, 1, 1])
EVERY = pytest.mark.parametrize('cfg', SMALL.values(), ids=SMALL)


def build(cfg, **options):
    torch.manual_seed(0)
    model = MODELS.build(cfg | dict(relay_place='bias') | options)
    model.init_weights()
    return model


def views_of(cfg, batch=1, dtype=torch.float32):
    side = 64 if cfg['type'] == 'RelayMiT' else 32
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(batch, 3, side, side, generator=generator,
                             dtype=dtype) for _ in range(2))


def place_biases(model):
    return [m for m in model.modules() if isinstance(m, PlaceBias)]


def test_places_are_those_of_the_view_whatever_the_map():
    near, far = places((1, 2), 'cpu'), places((2, 4), 'cpu')
    assert near.tolist() == [[0., -0.5], [0., 0.5]]
    assert torch.equal(far.unflatten(0, (1, 2, 2, 2)).mean((1, 3))[0], near)
    added = places((2, 2), 'cpu', (2, 3))
    assert added[2].tolist() == [-0.5, 1.5]  # outside


@pytest.mark.parametrize(
    'cfg', [SMALL['ViT'], SMALL['SwinV2'], MIT, SMALL['timm']], ids=SMALL)
def test_a_block_each_draws_with_the_deviation_it_says(cfg):
    """Also where a backbone draws all of its linear layers anew."""
    found = place_biases(build(cfg))
    assert len(found) == (2 if cfg['type'] in VITS else 4)
    for each in found:
        std = each.logits.weight.detach().std().item()
        assert std == pytest.approx(each.std, rel=0.2)
        assert each.hidden.weight.abs().max() <= 1


@pytest.mark.parametrize('place, told', [('bias', True), ('none', False)])
@pytest.mark.parametrize('name', ['ViT', 'SwinV2'])
def test_relay_tokens_are_told_where(name, place, told):
    """The halves of a global view change places: only a place can tell."""
    model = build(SMALL[name], relay_place=place, **(dict(
        window_size=[4, 2], arch=SMALL[name]['arch'] | dict(depths=[1, 1]))
        if name == 'SwinV2' else {})).eval()
    local, wide = views_of(SMALL[name])
    with torch.no_grad():
        if name == 'ViT':
            model.global_pos_embed[0].zero_()
        one, other = (model((local, x), local_only=True)[0][-1]
                      for x in (wide, wide.roll(16, dims=2)))
    assert ((one - other).abs().max() > 1e-4) == told


@EVERY
def test_every_weight_learns(cfg):
    model = build(cfg).train()
    sum(x.square().sum() for x in model(views_of(cfg), local_only=True)[0]
        ).backward()
    for name, parameter in model.named_parameters():
        if 'relay_place' in name:
            assert parameter.grad.abs().sum() > 0, name


@EVERY
def test_plain_weights_load_and_a_wrong_word_is_refused(cfg):
    with pytest.raises(ValueError, match="relay_place='where'.*'bias'"):
        build(cfg, relay_place='where')
    assert not place_biases(build(cfg, num_relay_tokens=0))
    assert not place_biases(build(cfg, relay_place='none'))


@EVERY
def test_frozen_stages_leave_it_free(cfg):
    model = build(cfg, frozen_stages=1)
    assert all(p.requires_grad for each in place_biases(model)
               for p in each.parameters())


@EVERY
def test_kept_biases_follow_weights_and_are_few(cfg):
    model = build(cfg).eval()
    views = views_of(cfg)
    with torch.no_grad():
        before = model(views)[0][-1]
        assert torch.equal(model(views)[0][-1], before)
        place_biases(model)[0].logits.weight.mul_(2.)
        assert not torch.equal(model(views)[0][-1], before)
        side = views[0].shape[-1]
        for i in range(MOST + 3):
            wider = views[0].new_zeros(1, 3, side, side + 32 * i)
            model((wider, wider))
    kept = [len(m._kept) for m in model.modules() if hasattr(m, '_kept')]
    assert max(kept) <= MOST


@EVERY
def test_training_follows_inference_mode(cfg):
    for forget in FORGET:
        forget()
    model = build(cfg)
    with torch.inference_mode():
        model.eval()(views_of(cfg))
    sum(x.sum() for x in model.train()(views_of(cfg))[0]).backward()


@EVERY
@pytest.mark.parametrize('fusion', ['sequential', 'mean'])
@pytest.mark.parametrize('half', [False, True])
def test_local_only_is_the_same_with_less_work(cfg, fusion, half):
    from relay_seg.analysis import counted_flops
    model = build(cfg, fusion=fusion).eval()
    local, wide = views_of(cfg)
    if half:
        wide = wide[:, :, ::2, ::2]
    with torch.no_grad():
        every = model((local, wide))
        alone, = model((local, wide), local_only=True)
    for ours, same in zip(alone, every[0]):
        torch.testing.assert_close(ours, same, rtol=1e-5, atol=1e-5)
    work = [counted_flops(model, partial(model, (local, wide), local_only))
            for local_only in (False, True)]
    assert work[1] < work[0]
