"""What a training step asks of a device, and how often it waits for it.

Counted without a GPU, on tensors without numbers (``meta``), which are as far
from the host as those on a GPU: whatever needs one of their numbers, or
copies, passes by here. Where a number is asked for it is 1. Precisions need a
device that computes: on the CPU all is seen but copies.
"""
import copy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from small_models import SIDE, small_model
from test_tools import ROOT
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relay_seg.hooks import GatheredInfoHook
from relay_seg.transforms import PackViews
from relay_seg.views import LOCAL, Window

aten = torch.ops.aten
#: What they give, or its size, follows from numbers.
WAITING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select,
           aten._unique2, aten.bincount, aten.equal)
INDEXING = aten.index, aten.index_put, aten.index_put_
NAMES = ('rt_vit_s', 'rt_swin2_t', 'vit_s', 'swin2_t')


class Watch(TorchDispatchMode):
    """Counts what makes a host wait for a device, and copies between them.

    The host waits where a number is asked for, where the size of a result
    depends on numbers (masks as indices), and for copies, unless they are
    told not to block.

    Args:
        device: Its type; 'cpu' sees no copies.
        known: Tensors that are on the host of a GPU, too.
    """

    def __init__(self, device, known=()):
        super().__init__()
        self.device, self.known = device, {x.data_ptr() for x in known}
        self.waits, self.uploads = Counter(), []

    def __enter__(self):
        self.constants = Constants(self.waits)
        self.constants.__enter__()
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        self.constants.__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, op = kwargs or {}, func.overloadpacket
        if op in (aten._to_copy, aten.copy_):
            out = self._copy(op, args, kwargs)
            return func(*args, **kwargs) if out is None else out
        tensors = [x for x in tree_leaves((args, kwargs))
                   if isinstance(x, torch.Tensor)]
        if (op in WAITING + INDEXING
                and any(x.device.type == self.device for x in tensors)
                and self._waits(op, args)):
            self.waits[str(op)] += 1
            if self.device == 'meta':
                return self._make_up(op, args)
        return func(*args, **kwargs)

    def _waits(self, op, args):
        if op in INDEXING:
            masks = [x for x in args[1]
                     if x is not None and x.dtype in (torch.bool, torch.uint8)]
            # One value under a mask is filled in, without counting.
            return masks and (op is aten.index or args[2].numel() > 1)
        return args[0].device.type == 'meta' or (
            args[0].data_ptr() not in self.known)

    def _make_up(self, op, args):
        if op is aten._local_scalar_dense:
            return 1.
        if op is aten.nonzero:
            return args[0].new_empty((1, args[0].ndim), dtype=torch.long)
        if op is aten.index:
            return args[0].new_empty(1)
        raise NotImplementedError(op)

    def _copy(self, op, args, kwargs):
        source = args[0]
        target = torch.device(kwargs.get('device') or source.device).type
        later = kwargs.get('non_blocking', False)
        if op is aten.copy_:
            target, source = args[0].device.type, args[1]
            later = len(args) > 2 and args[2]
        if source.device.type == target:
            return None
        if not later:
            self.waits[f'{op} to {target}'] += 1
        if target == 'meta':
            self.uploads.append(source.numel() * source.element_size())
            return None
        return torch.ones(source.shape, dtype=source.dtype)


class Constants(TorchFunctionMode):
    """Lists that become tensors on a device, which no operation tells."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = (func in (torch.tensor, torch.as_tensor,
                         torch.Tensor.new_tensor)
                and out.device.type == 'meta')
        index = []
        if (func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
                and args[0].device.type == 'meta'):
            index = args[1] if isinstance(args[1], tuple) else args[1:2]
        if made or any(isinstance(x, list) for x in index):
            self.waits['list'] += 1
        return out


def sample(contexts, number=0):
    """As the pipelines of the configs give it: colours are bytes."""
    views = tuple(np.random.randint(0, 256, (3, SIDE, SIDE), np.uint8)
                  for _ in (LOCAL, *contexts))
    labels = tuple(np.random.randint(0, 5, (k * SIDE, k * SIDE), np.uint8)
                   for k, _ in (LOCAL, *contexts))
    return PackViews()(dict(
        views=views, labels=labels, img_path=f'{number}.tif',
        window=Window(number, 4, SIDE, SIDE, number / 2)))


def training(name, device='meta', precision='fp32', **changes):
    """A small model of a config, its optimiser and a batch."""
    init_default_scope('mmseg')
    folder = 'relay' if name.startswith('rt') else 'plain'
    cfg = Config.fromfile(ROOT / f'configs/{folder}/{name}_dubai.py')
    cfg.merge_from_dict(dict(model=small_model(cfg)))
    cfg.merge_from_dict({'optim_wrapper.precision': precision, **changes})
    model = MODELS.build(cfg.model).to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = pseudo_collate([sample(model.contexts) for _ in range(2)])
    return model, wrapper, batch


@pytest.fixture
def meta(monkeypatch):
    """Autocast, which is off, is asked for on a device that it knows."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, 'autocast', lambda device, **kwargs: autocast('cpu', **kwargs))


@pytest.mark.parametrize('name', NAMES)
def test_a_step_waits_once(meta, name):
    model, wrapper, batch = training(name)
    for _ in range(2):
        with Watch('meta') as watch:
            model.train_step(batch, wrapper)
        assert watch.waits == {'aten._to_copy to cpu': 1}


@pytest.mark.parametrize('precision', ('fp32', 'bf16', 'fp16'))
@pytest.mark.parametrize('name', NAMES)
def test_no_precision_waits(name, precision):
    """Beside the one copy, which is none here."""
    model, wrapper, batch = training(name, 'cpu', precision)
    if precision == 'fp16':  # from a scale that it need not look for
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1.)
    model.train_step(batch, wrapper)
    steps = [x['step'] for x in wrapper.optimizer.state.values()]
    with Watch('cpu', steps) as watch:
        model.train_step(batch, wrapper)
    assert wrapper.skipped is None and not watch.waits


WEIGHTS = [1., 2., 3., 4., 5.]
AUXILIARY = dict(
    type='FCNHead', in_channels=12, in_index=0, channels=8, num_classes=5,
    loss_decode=dict(type='CheckedCrossEntropyLoss', avg_non_ignore=True))
SETTINGS = {
    'accumulation': {'optim_wrapper.accumulative_counts': 2},
    'zeroed gradients': {'optim_wrapper.nonfinite_gradient': 'zero'},
    'no clipping': {'optim_wrapper.clip_grad': None},
    'clipped values': {'optim_wrapper.clip_grad': dict(
        type='value', clip_value=1., _delete_=True)},
    'class weights': {
        'model.decode_head.loss_decode.class_weight': WEIGHTS,
        'model.loss_global': dict(
            type='GlobalViewLoss', class_weight=WEIGHTS),
        'model.loss_agree': dict(type='AgreementLoss', class_weight=WEIGHTS)},
    'auxiliary heads': {'model.auxiliary_head': [AUXILIARY] * 2},
    'relative bands': {'model.relative_bands': [0, 2]},
}


@pytest.mark.parametrize('setting', SETTINGS)
def test_no_setting_waits_more(meta, setting):
    model, wrapper, batch = training('rt_swin2_t', **SETTINGS[setting])
    for i in range(4):
        with Watch('meta') as watch:
            model.train_step(batch, wrapper)
        assert watch.waits.total() == 1 or i == 0  # weights are copied once


def test_plain_models_have_auxiliary_heads_too(meta):
    model, wrapper, batch = training(
        'swin2_t', **SETTINGS['auxiliary heads'])
    with Watch('meta') as watch:
        losses = model.train_step(batch, wrapper)
    assert {'aux_0.loss_ce', 'aux_1.acc_seg'} < set(losses)
    assert watch.waits.total() == 1


@pytest.mark.parametrize('hook, waits', [
    (GatheredInfoHook(), [0, 0, 1, 0, 0, 1]), (RuntimeInfoHook(), [2] * 6)])
def test_a_line_of_the_log_waits_once(hook, waits):
    """The host waits for each number."""
    runner = SimpleNamespace(
        message_hub=MessageHub('log'), max_iters=9,
        hooks=[hook, LoggerHook(interval=3)], train_dataloader=[0] * 9)
    for i, expected in enumerate(waits):
        runner.iter = i
        with Watch('meta') as watch:
            hook.after_train_iter(runner, i, {}, dict(
                loss=torch.zeros((), device='meta'),
                acc_seg=torch.zeros((), device='meta')))
        assert watch.waits.total() == expected
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 6


# What goes to the device


def test_memory_is_pinned_in_all_configs():
    """Else a copy is waited for, whatever it is told."""
    configs = [path for folder in ('relay', 'plain', 'released')
               for path in (ROOT / 'configs' / folder).glob('*.py')]
    assert len(configs) > 60
    for path in configs:
        cfg = Config.fromfile(path)
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].pin_memory, path


@pytest.mark.parametrize('name', NAMES)
def test_a_batch_is_copied_as_bytes_without_waiting(meta, name):
    model, wrapper, batch = training(name)
    with Watch('meta') as watch:
        model.data_preprocessor(batch, True)
    pixels = SIDE**2
    each = [3 * pixels, pixels]  # view and label
    if name.startswith('rt'):
        each += [3 * pixels, 16 * pixels]
    assert sorted(watch.uploads) == sorted(2 * each)
    assert not watch.waits


# What is counted


CAUGHT = {
    'item': lambda x: x.sum().item(),
    'bool': lambda x: bool(x.sum()),
    'if': lambda x: 1 if x.sum() else 0,
    'max': lambda x: max(x.sum(), 0.),
    'float': lambda x: float(x.sum()),
    'any': lambda x: not x.isnan().any(),
    'cpu': lambda x: x.cpu(),
    'tolist': lambda x: x.cpu().tolist(),
    'nonzero': lambda x: x.nonzero(),
    'where': lambda x: torch.where(x > 0),
    'mask': lambda x: x[x > 0],
    'upload': lambda x: torch.ones(3).to(x),
    'list': lambda x: x.new_tensor([1., 2.]),
    'list as index': lambda x: x[[0, 1]],
    'copy': lambda x: x.copy_(torch.ones(4)),
}
ALLOWED = {
    'where': lambda x: x.where(x > 0, 0.),
    'fill': lambda x: x.masked_fill(x > 0, 1.),
    'fill by mask': lambda x: x.__setitem__(x > 0, 1.),
    'slice': lambda x: x[1:3].sum() / x.numel(),
    'index': lambda x: x[(x > 0).long()],
    'upload': lambda x: torch.ones(3).to(x, non_blocking=True),
}


@pytest.mark.parametrize('name', CAUGHT)
def test_what_waits_is_caught(name):
    with Watch('meta') as watch:
        CAUGHT[name](torch.zeros(4, device='meta'))
    assert watch.waits.total() == 1


@pytest.mark.parametrize('name', ALLOWED)
def test_what_does_not_wait_is_not_counted(name):
    with Watch('meta') as watch:
        ALLOWED[name](torch.zeros(4, device='meta'))
    assert not watch.waits


def test_losses_of_the_host_would_wait(meta, monkeypatch):
    """In the step that is watched above: the test can fail."""
    host = {'model.decode_head.loss_decode.type': 'CrossEntropyLoss'}
    model, wrapper, batch = training('swin2_t', **host)
    monkeypatch.setattr(
        'relay_seg.segmentors.head_losses.head_losses',
        lambda head, *args: head.loss_by_feat(*args))
    with Watch('meta') as watch:
        model.train_step(batch, wrapper)
    # Pixels that count, twice those that are right, and the step's own.
    assert watch.waits == {
        'aten._local_scalar_dense': 1, 'aten.index': 2,
        'aten._to_copy to cpu': 1}


# Compiled


@pytest.fixture
def dynamo():
    """Forgets what was compiled: other shapes would be general ones."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize('name, precision', [
    ('rt_vit_s', 'fp32'), *(
        pytest.param(*each, marks=pytest.mark.slow) for each in (
            ('rt_swin2_t', 'fp32'), ('rt_swin2_t', 'bf16'),
            ('swin2_t', 'fp32')))])
def test_a_compiled_step_is_one_graph(dynamo, name, precision):
    """From views to losses, for all batches; a second one adds them up."""
    model, wrapper, _ = training(name, 'cpu', precision)
    graphs = []

    def backend(graph, inputs):
        graphs.append(sum(
            node.op.startswith('call') for node in graph.graph.nodes))
        return graph

    step = torch.compile(model.train_step, backend=backend)
    for i in range(3):
        samples = [sample(model.contexts, 2 * i + j) for j in range(2)]
        if i:  # one travels as floats
            samples[0]['inputs'] = tuple(
                view + 0.5 for view in samples[0]['inputs'])
        assert step(pseudo_collate(samples), wrapper)['loss'] > 0
    assert wrapper.skipped is None
    assert len(graphs) == 2 and min(graphs) < 20 < 500 < max(graphs)


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(dynamo):
    before, wrapper, batch = training('rt_vit_s', 'cpu', **{
        'model.backbone.arch.num_layers': 4,
        'model.backbone.out_indices': [0, 1, 2, 3]})
    for module in before.modules():  # draws other numbers
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.
    models = [before, copy.deepcopy(before)]
    losses = []
    for model, compiled in zip(models, (False, True)):
        wrapper.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = model.train_step
        if compiled:
            step = torch.compile(step, backend='aot_eager')
        losses.append([float(step(batch, wrapper)['loss'])
                       for _ in range(3)])
    assert losses[0][0] > losses[0][2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for (name, ours), theirs in zip(models[0].state_dict().items(),
                                    models[1].state_dict().values()):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-3, atol=1e-5, msg=name)
