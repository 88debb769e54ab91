"""SwinV2's attention bias; evaluation keeps it until a weight changes."""
import copy

import pytest
import torch
from backbone_cases import SWIN, build, build_random, flat, make_views


def bias_of(block, shape):
    """Attention bias of the local view, whose token map is of this shape."""
    return block.attention_bias(shape, block.window_size(shape, shape))


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


def test_training_never_keeps_a_bias():
    block = build_random(SWIN).stages[0].blocks[1]
    for _ in range(2):  # a graph of its own for each step
        bias_of(block.train(), (8, 8)).sum().backward()
    assert not block._kept
