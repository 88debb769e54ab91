"""Steps in every precision, accumulated or not; bad gradients and losses."""
import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from small_models import small_model
from torch import nn

from relay_seg.engine import RelayRunner
from relay_seg.optim import CheckedOptimWrapper, few_groups

ROOT = Path(__file__).parents[1]
NAN = float('nan')


def wrapped(model=None, **kwargs):
    model = model or nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, CheckedOptimWrapper(optimizer=optimizer, **kwargs)


def scale_of(wrapper, scale):
    """Start fp16 at a loss scale, as after some steps of looking for it."""
    if wrapper.loss_scaler is not None:
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)
        wrapper.loss_scaler.scale(torch.ones(()))


def step(model, wrapper, x, factor=1.):
    with wrapper.optim_context(model):
        loss = model(x).float().pow(2).mean() * factor
    wrapper.update_params(loss)
    return loss


def values(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize('precision', ('fp32', 'bf16', 'fp16'))
def test_a_step_lowers_the_loss(precision):
    model, wrapper = wrapped(precision=precision)
    dtypes = set()
    model[0].register_forward_hook(lambda *a: dtypes.add(a[2].dtype))
    x = torch.randn(32, 4)
    losses = [float(step(model, wrapper, x)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert dtypes == {dict(fp32=torch.float32, bf16=torch.bfloat16,
                           fp16=torch.float16)[precision]}
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_unknown_precision_is_said():
    with pytest.raises(ValueError, match="precision='half'; use one of"):
        wrapped(precision='half')


@pytest.mark.parametrize('precision', ('fp32', 'bf16', 'fp16'))
@pytest.mark.parametrize('clip', (None, dict(max_norm=1.),
                                  dict(type='value', clip_value=1.)))
def test_accumulation_is_one_step_on_all(precision, clip):
    """Clipping is of the whole gradient, once, and of its true size."""
    x = torch.randn(8, 4)
    reference, optimizer = wrapped(clip_grad=copy.copy(clip),
                                   precision=precision)
    model = copy.deepcopy(reference)
    _, wrapper = wrapped(model, accumulative_counts=2, precision=precision,
                         clip_grad=copy.copy(clip))
    for each in (optimizer, wrapper):
        scale_of(each, 16.)
    before = values(model)
    step(reference, optimizer, x, 100.)
    step(model, wrapper, x[:4], 100.)
    assert torch.equal(values(model), before)
    step(model, wrapper, x[4:], 100.)
    assert not torch.equal(values(model), before)
    torch.testing.assert_close(
        values(model), values(reference),
        atol=1e-6 if precision == 'fp32' else 2e-2, rtol=0)
    change = (values(model) - before).norm()
    if clip and 'max_norm' in clip:
        assert float(change) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize('precision', ('fp32', 'bf16', 'fp16'))
@pytest.mark.parametrize('bad', (NAN, float('inf')))
def test_bad_loss_leaves_parameters_and_state(precision, bad):
    model, wrapper = wrapped(precision=precision, clip_grad=dict(max_norm=1.))
    wrapper.optimizer = torch.optim.AdamW(model.parameters())
    step(model, wrapper, torch.randn(8, 4))
    before, state = values(model), copy.deepcopy(wrapper.state_dict())
    step(model, wrapper, torch.randn(8, 4), bad)
    assert wrapper.skipped == 'loss'
    assert torch.equal(values(model), before)
    for key, old in state['state'].items():
        new = wrapper.state_dict()['state'][key]
        assert all(torch.equal(new[k], old[k]) for k in old)
    assert state.get('loss_scaler') == wrapper.state_dict().get('loss_scaler')
    step(model, wrapper, torch.randn(8, 4))
    assert wrapper.skipped is None
    assert not torch.equal(values(model), before)


def test_bad_batch_leaves_running_means():
    model, wrapper = wrapped(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)))
    step(model, wrapper, torch.randn(8, 4))
    before = {k: v.clone() for k, v in model[0].state_dict().items()}
    step(model, wrapper, torch.full((8, 4), NAN))
    assert wrapper.skipped == 'loss'
    for key, value in model[0].state_dict().items():
        assert torch.equal(value, before[key]), key
    step(model, wrapper, torch.randn(8, 4))
    assert model[0].num_batches_tracked == 2


def test_bad_gradient_leaves_running_means():
    """Of that batch; what good ones before it gave stays."""
    model, wrapper = wrapped(
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)),
        accumulative_counts=2)
    step(model, wrapper, torch.randn(8, 4))
    before = {k: v.clone() for k, v in model[0].state_dict().items()}
    with wrapper.optim_context(model):
        loss = (model(torch.randn(8, 4)) * 0).sqrt().sum()
    wrapper.update_params(loss)
    assert wrapper.skipped == 'gradient'
    for key, value in model[0].state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model[0].num_batches_tracked == 1


def test_bad_batch_spoils_its_accumulation_only():
    model, wrapper = wrapped(accumulative_counts=3)
    before, x = values(model), torch.randn(8, 4)
    reasons = []
    for factor in (1., NAN, 1., 1., 1., 1.):
        step(model, wrapper, x, factor)
        reasons.append(wrapper.skipped)
        if len(reasons) == 3:
            assert torch.equal(values(model), before)
    assert reasons == [None, 'loss', 'loss', None, None, None]
    assert values(model).isfinite().all()
    # Nothing of the spoiled accumulation is in the step that follows.
    expected = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(before, expected.parameters())
    _, single = wrapped(expected)
    step(expected, single, x)
    torch.testing.assert_close(values(model), values(expected))


@pytest.mark.parametrize('clip', (None, dict(max_norm=1.)))
@pytest.mark.parametrize('precision', ('fp32', 'bf16'))
def test_bad_gradient_of_a_good_loss(precision, clip):
    """sqrt(0) is finite, its derivative is not."""
    model, wrapper = wrapped(nn.Linear(4, 1), precision=precision,
                             clip_grad=clip)
    before = values(model)
    loss = (model(torch.ones(1, 4)) * 0).sqrt().sum()
    assert loss == 0
    wrapper.update_params(loss)
    assert wrapper.skipped == 'gradient'
    assert torch.equal(values(model), before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('precision', ('fp32', 'fp16'))
@pytest.mark.parametrize('clip', (
    None, dict(max_norm=0.1), dict(max_norm=0.1, norm_type=1),
    dict(max_norm=1e9), dict(type='value', clip_value=0.01)))
def test_norm_of_a_gradient_is_computed_once(precision, clip, monkeypatch):
    """And is told where the host tells it, of the gradient before."""
    norms, whole = [], torch.nn.utils.clip_grad._get_total_norm

    def counted(*args, **kwargs):
        norms.append(whole(*args, **kwargs))
        return norms[-1]

    monkeypatch.setattr(
        torch.nn.utils.clip_grad, '_get_total_norm', counted)
    monkeypatch.setattr(torch.nn.utils, 'get_total_norm', counted)
    model, wrapper = wrapped(precision=precision, clip_grad=copy.copy(clip))
    scale_of(wrapper, 16.)
    told = wrapper.message_hub = MessageHub('norms')
    reference = copy.deepcopy(model)
    x = torch.randn(8, 4)
    step(model, wrapper, x)
    assert len(norms) == 1 and wrapper.skipped is None
    reference(x).pow(2).mean().backward()
    true = nn.utils.get_total_norm(
        [p.grad for p in reference.parameters()],
        (clip or {}).get('norm_type', 2.))
    torch.testing.assert_close(norms[0], true, rtol=2e-2, atol=0)
    if clip and 'max_norm' in clip:
        history = told.get_scalar('train/grad_norm')
        assert history.current() == float(norms[0])
    else:
        assert not told.log_scalars


def test_a_step_alone_is_checked_too():
    """As benchmarks and loops of one's own call it."""
    model, wrapper = wrapped(nn.Linear(4, 1))
    before = values(model)
    wrapper.backward((model(torch.ones(1, 4)) * 0).sqrt().sum())
    wrapper.step()
    assert wrapper.skipped == 'gradient'
    assert torch.equal(values(model), before)
    wrapper.zero_grad()
    wrapper.backward(model(torch.ones(1, 4)).sum())
    wrapper.step()
    assert wrapper.skipped is None
    assert not torch.equal(values(model), before)


def test_fp16_finds_its_scale_and_says_so():
    """A gradient that only the scale makes infinite is no bad step."""
    model, wrapper = wrapped(nn.Linear(4, 1), precision='fp16')
    before, reasons = values(model), []
    scale = wrapper.loss_scaler.get_scale()
    for _ in range(12):  # the scale may have to fall from 2^16
        with wrapper.optim_context(model):
            loss = model(torch.ones(8, 4) * 100).sum().float()
        wrapper.update_params(loss)
        reasons.append(wrapper.skipped)
        if wrapper.skipped is None:
            break
        assert torch.equal(values(model), before)
    assert set(reasons[:-1]) == {'scale'} and reasons[-1] is None
    assert wrapper.loss_scaler.get_scale() < scale
    assert not torch.equal(values(model), before)


def test_fp16_blames_the_gradient_when_no_scale_helps():
    model, wrapper = wrapped(nn.Linear(4, 1), precision='fp16')
    reasons = []
    for _ in range(20):
        wrapper.update_params((model(torch.ones(1, 4)) * 0).sqrt().sum())
        reasons.append(wrapper.skipped)
    assert reasons[:16] == ['scale'] * 16
    assert set(reasons[17:]) == {'gradient'}
    assert values(model).isfinite().all()


def test_scale_goes_through_a_checkpoint_and_other_precisions():
    model, wrapper = wrapped(precision='fp16')
    scale_of(wrapper, 8.)
    state = wrapper.state_dict()
    _, other = wrapped(model, precision='fp16')
    other.load_state_dict(state)
    assert other.loss_scaler.get_scale() == 8.
    _, plain = wrapped(model, precision='bf16')
    plain.load_state_dict(state)
    assert 'loss_scaler' not in plain.state_dict()
    other.load_state_dict(plain.state_dict())
    assert other.loss_scaler.get_scale() == 8.


# A gradient that is not finite, of a loss that is


class Root(nn.Module):
    """sqrt(0) is finite; its derivative is not, for one entry of three."""

    def __init__(self, third=0.):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1., 2., third]))

    def forward(self, x):
        return (self.weight * x).sqrt()


def zeroing(model, **kwargs):
    wrapper = CheckedOptimWrapper(
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        nonfinite_gradient='zero', **kwargs)
    return model, wrapper


@pytest.mark.parametrize('clip', (None, dict(max_norm=0.01)))
@pytest.mark.parametrize('precision', ('fp32', 'bf16'))
def test_bad_entries_of_the_gradient_become_zero(precision, clip):
    """The others step as in plain AdamW, and as if clipped without them."""
    model, wrapper = zeroing(Root(), precision=precision,
                             clip_grad=copy.copy(clip))
    plain = Root(1.)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1)
    with torch.no_grad():
        plain.weight[2] = 0.
    for _ in range(3):
        wrapper.update_params(model(torch.ones(3)).sum())
        assert (wrapper.skipped, wrapper.zeroed) == (None, 1)
        optimizer.zero_grad()
        plain.weight[:2].sqrt().sum().backward()
        if clip:
            nn.utils.clip_grad_norm_(plain.parameters(), **clip)
        optimizer.step()
        assert torch.equal(model.weight, plain.weight)
    assert model.weight[2] == 0 and model.weight[0] < 0.8


def test_zeroed_entries_are_those_of_the_last_step():
    model, wrapper = zeroing(Root())
    wrapper.update_params(model(torch.ones(3)).sum())
    assert wrapper.zeroed == 1
    wrapper.update_params(model.weight.sum())
    assert wrapper.zeroed == 0
    model.weight.grad = torch.tensor([NAN, float('-inf'), 0.5])
    wrapper.step()
    assert wrapper.zeroed == 2
    assert model.weight.grad.tolist() == [0, 0, 0.5]


def test_bad_entries_are_those_of_the_whole_accumulation():
    model, wrapper = zeroing(Root(), accumulative_counts=2)
    wrapper.update_params(model(torch.ones(3)).sum())
    assert wrapper.zeroed == 0  # no step yet
    wrapper.update_params(model.weight.sum())
    assert (wrapper.skipped, wrapper.zeroed) == (None, 1)


@pytest.mark.parametrize('bad', (NAN, float('inf')))
def test_bad_loss_is_skipped_also_where_gradients_are_zeroed(bad):
    model, wrapper = zeroing(Root())
    wrapper.update_params(model(torch.ones(3)).sum())
    assert wrapper.zeroed == 1
    before = values(model)
    wrapper.update_params(model.weight.sum() * bad)
    assert (wrapper.skipped, wrapper.zeroed) == ('loss', 0)
    assert torch.equal(values(model), before)


def test_a_gradient_whose_norm_overflows_is_skipped():
    """Its squares would stay infinite in AdamW for ever."""
    model, wrapper = zeroing(Root(1.))
    before = values(model)
    wrapper.update_params(model.weight.sum() * 1e30)
    assert (wrapper.skipped, wrapper.zeroed) == ('gradient', 0)
    assert torch.equal(values(model), before)


def test_what_cannot_be_asked_of_gradients_is_said():
    with pytest.raises(ValueError, match="nonfinite_gradient='drop'"):
        wrapped(nonfinite_gradient='drop')
    with pytest.raises(ValueError, match="use 'skip', or 'bf16'"):
        wrapped(nonfinite_gradient='zero', precision='fp16')


# Matrix products


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


class Nothing(BaseModel):

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


def make_runner(folder, **env_cfg):
    return RelayRunner(
        model=Nothing(), work_dir=str(folder), env_cfg=env_cfg,
        default_scope='mmseg',
        experiment_name=f'{folder.name}{len(env_cfg)}', log_level='ERROR')


def test_precision_of_matrix_products_is_a_line_of_a_config(
        tmp_path, matmul_precision):
    for value in ('high', 'medium', 'highest'):
        make_runner(tmp_path / value, matmul_precision=value)
        assert torch.get_float32_matmul_precision() == value
    torch.set_float32_matmul_precision('high')
    make_runner(tmp_path / 'none')
    assert torch.get_float32_matmul_precision() == 'highest'


def test_the_host_still_sets_up_the_rest(
        tmp_path, matmul_precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    make_runner(tmp_path, matmul_precision='high', cudnn_benchmark=True)
    assert torch.backends.cudnn.benchmark


def test_unknown_precision_of_matrix_products_is_said(tmp_path):
    with pytest.raises(ValueError, match="'tf32' in env_cfg"):
        make_runner(tmp_path, matmul_precision='tf32')


# Groups ---------------------------------------------------------------------

def by_parameter(kind, **kwargs):
    """A model and an optimiser with a group for each parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    groups = [dict(params=[p], lr=rate, weight_decay=0.1)
              for p, rate in zip(model.parameters(), (0.1, 0.1, 0.1, 0.02))]
    return model, kind(groups, **kwargs)


def take(model, optimizer):
    optimizer.zero_grad()
    model(torch.arange(8.).view(2, 4)).pow(2).sum().backward()
    optimizer.step()


def test_equal_groups_take_a_step_as_one():
    """Each group costs launches of its own on a GPU."""
    model, optimizer = by_parameter(torch.optim.AdamW, foreach=True)
    apart, other = by_parameter(torch.optim.AdamW, foreach=True)
    groups = optimizer.param_groups
    for _ in range(3):
        with few_groups(optimizer):
            assert [len(g['params']) for g in optimizer.param_groups] == [3, 1]
            take(model, optimizer)
        take(apart, other)
    assert torch.equal(values(model), values(apart))
    assert optimizer.param_groups is groups and len(groups) == 4
    assert str(optimizer.state_dict()) == str(other.state_dict())


def test_a_step_merges_groups(monkeypatch):
    seen = []
    model, optimizer = by_parameter(torch.optim.AdamW)
    monkeypatch.setattr(optimizer, 'step', lambda: seen.append(
        len(optimizer.param_groups)))
    step(model, CheckedOptimWrapper(optimizer=optimizer), torch.ones(2, 4))
    assert seen == [2] and len(optimizer.param_groups) == 4


def test_groups_are_back_after_a_failure():
    _, optimizer = by_parameter(torch.optim.AdamW)
    with pytest.raises(ZeroDivisionError), few_groups(optimizer):
        raise ZeroDivisionError
    assert len(optimizer.param_groups) == 4


def test_optimisers_of_others_keep_their_groups():
    """They may keep numbers in them."""
    class Own(torch.optim.AdamW):
        pass

    _, optimizer = by_parameter(Own)
    with few_groups(optimizer):
        assert len(optimizer.param_groups) == 4


# Settings by parameter


def groups_of(model, **paramwise_cfg):
    """Learning rate and decay of each parameter; 1 and 1 without settings."""
    init_default_scope('mmseg')
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=1., weight_decay=1.),
        paramwise_cfg=paramwise_cfg))
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(g['params'][0])]: (g['lr'], g['weight_decay'])
            for g in wrapper.param_groups
            if id(g['params'][0]) in names}  # the host has one of its own


SCHEDULE = Config.fromfile(
    ROOT / 'configs/_base_/schedules/adamw_20k.py').optim_wrapper


@pytest.fixture(params=['rt_vit_s', 'rt_swin2_t', 'rt_segformer_b0'])
def segmentor(request):
    cfg = Config.fromfile(ROOT / f'configs/relay/{request.param}_dubai.py')
    init_default_scope('mmseg')
    cfg.merge_from_dict(dict(model=small_model(cfg)))
    return MODELS.build(cfg.model)


def test_all_of_a_backbone_obeys_its_rate(segmentor):
    cfg = copy.deepcopy(SCHEDULE.paramwise_cfg)
    before = groups_of(segmentor, **copy.deepcopy(cfg))
    cfg.custom_keys.backbone = dict(lr_mult=0.1)
    for name, (rate, decay) in groups_of(segmentor, **cfg).items():
        slow = name.startswith('backbone.')
        assert rate == pytest.approx(0.1 if slow else 1), name
        assert decay == before[name][1], name
        if any(part in name for part in (
                'relay_tokens', 'relay_bias', 'pos_embed', 'logit_scale')):
            assert decay == 0, name


def test_the_longest_key_decides_about_what_it_names(segmentor):
    found = groups_of(segmentor, custom_keys={
        'backbone': dict(lr_mult=0.1, decay_mult=0.5),
        'backbone.relay_tokens': dict(lr_mult=1.)})
    assert found['backbone.relay_tokens'] == (1., 0.5)


def test_rates_decay_from_block_to_block(segmentor):
    found = groups_of(segmentor, layer_decay_rate=0.5)
    backbone = segmentor.backbone
    blocks = backbone._block_names()
    depths = len(blocks) + 2
    assert all(backbone.get_layer_depth(f'backbone.{n}', 'backbone.')[1]
               == depths for n, _ in backbone.named_parameters())
    assert found['backbone.relay_tokens'][0] == 1
    assert all(rate == 1 for name, (rate, _) in found.items()
               if not name.startswith('backbone.'))
    for i, block in enumerate(blocks):
        rates = {rate for name, (rate, _) in found.items() if name.startswith(
            f'backbone.{block}') and 'relay_' not in name}
        assert rates == {0.5**(len(blocks) - i)}
    stems = {rate for name, (rate, _) in found.items() if name.startswith((
        'backbone.global_', 'backbone.patch_embed', 'backbone.layers.0.0'
        if 'layers.0.1.0.' in blocks else 'backbone.patch_embed'))}
    assert stems == {0.5**(depths - 1)}


def test_depths_are_those_of_the_host():
    ours, host = (MODELS.build(dict(
        type=kind, arch='deit-tiny', img_size=32, patch_size=16, **more))
        for kind, more in (('RelayViT', {}), (
            'mmpretrain.VisionTransformer', dict(out_type='featmap',
                                                 with_cls_token=False))))
    names = [name for name, _ in host.named_parameters()]
    assert names and all(
        ours.get_layer_depth(f'backbone.{name}', 'backbone.')
        == host.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name in names)


def test_a_backbone_without_depths_is_named():
    with pytest.raises(ValueError, match='layer_decay_rate=0.5.*Linear'):
        model = nn.Module()
        model.backbone = nn.Linear(2, 2)
        groups_of(model, layer_decay_rate=0.5)
