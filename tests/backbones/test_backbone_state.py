"""Of every backbone: state, copies, compilation and precision."""
import copy
import pickle

import pytest
import torch
from backbone_cases import (
    ALL,
    EVERY,
    SWIN,
    assert_equal,
    build_random,
    flat,
    host_of,
    make_views,
    projection,
    randomise,
)


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
