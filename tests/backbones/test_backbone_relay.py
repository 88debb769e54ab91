"""Of every backbone: what relay tokens do, forwards and backwards."""
from unittest.mock import patch

import pytest
import torch
from backbone_cases import (
    ALL,
    DINO,
    EVERY,
    MIT,
    RELAY,
    SCALED,
    STEMS,
    SWIN,
    TIMM,
    VIT,
    VITS,
    assert_equal,
    build,
    build_random,
    flat,
    make_views,
    randomise,
)


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
