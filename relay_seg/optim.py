"""A training step that never puts a bad number into the parameters."""
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

#: Precision: what autocast casts to.
DTYPES = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)
NONFINITE_GRADIENT = 'skip', 'zero'


def default_precision() -> str:
    """bf16 where the device computes with it (CPUs do), else fp16."""
    cuda = torch.cuda.is_available()
    if cuda and torch.cuda.get_device_capability() < (8, 0):
        return 'fp16'
    return 'bf16'


@OPTIM_WRAPPERS.register_module()
class CheckedOptimWrapper(OptimWrapper):
    """The host's wrapper in any precision, which skips bad steps openly.

    A step is skipped, and :attr:`skipped` says why, if the loss of any of its
    batches in any process, or the gradient, is not finite. All processes
    decide alike. Parameters, the optimiser's state and running means of batch
    norms stay as they are; what earlier batches of an accumulation gave is
    dropped with the step.

    The device is waited for once in a call, after the backward pass: what
    decides about the step comes in one piece.

    Args:
        precision: 'fp32', 'bf16' or 'fp16'; the last scales the loss, so
            that small gradients do not vanish.
        nonfinite_gradient: What becomes of a gradient that is not finite:
            'skip' drops the step, 'zero' sets the entries that are NaN or
            infinite to zero and takes it (the authors' released code).
        kwargs: Those of the host's ``OptimWrapper``.
    """

    def __init__(self, precision: str = 'fp32',
                 nonfinite_gradient: str = 'skip', **kwargs) -> None:
        super().__init__(**kwargs)
        if precision not in DTYPES:
            raise ValueError(
                f'precision={precision!r}; use one of {list(DTYPES)}.')
        if nonfinite_gradient not in NONFINITE_GRADIENT:
            raise ValueError(
                f'nonfinite_gradient={nonfinite_gradient!r}; use one of '
                f'{list(NONFINITE_GRADIENT)}.')
        if precision == 'fp16' and nonfinite_gradient == 'zero':
            raise ValueError(
                "nonfinite_gradient='zero' hides from precision='fp16' that "
                "its loss scale is too large; use 'skip', or 'bf16' or "
                "'fp32'.")
        self.precision = precision
        self.nonfinite_gradient = nonfinite_gradient
        self.loss_scaler = None
        if precision == 'fp16':
            device = self.param_groups[0]['params'][0].device.type
            self.loss_scaler = torch.amp.GradScaler(device)
        #: Why the last call took no step: None (it did, or accumulates),
        #: 'loss', 'gradient', or 'scale' (fp16 looks for its loss scale).
        self.skipped: str | None = None
        #: Entries of the gradient that the last call set to zero.
        self.zeroed = 0
        self._bad_loss = False  # in this accumulation
        self._means: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        dtype = DTYPES[self.precision]
        # The forward pass changes them before the loss is known.
        self._means = [
            (x, x.clone()) for module in model.modules()
            if isinstance(module, _BatchNorm) for x in module.buffers()]
        with super().optim_context(model), torch.autocast(
                device, dtype=dtype, enabled=dtype is not None):
            yield

    @torch.compiler.disable
    def update_params(self, loss: Tensor, step_kwargs: dict | None = None,
                      zero_kwargs: dict | None = None) -> None:
        finite = loss.detach().isfinite().float()
        all_reduce(finite, op='min')
        # Of a bad loss, too: to know of it now is to wait for the device.
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self._step(finite, **(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))
            self._bad_loss = False
        else:
            self.skipped, self.zeroed = (None if finite else 'loss'), 0
            self._bad_loss = self._bad_loss or self.skipped == 'loss'
        if self.skipped is not None:
            for running, before in self._means:
                running.copy_(before)

    def backward(self, loss: Tensor, **kwargs) -> None:
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        self._step(self.param_groups[0]['params'][0].new_ones(()), **kwargs)

    def _step(self, finite: Tensor, **kwargs) -> None:
        """Take a step, or say why not.

        Args:
            finite: 1 if the loss is, else 0; on the device.
            kwargs: Those of the optimiser's ``step``.
        """
        scaler = self.loss_scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        params = [p for group in self.param_groups for p in group['params']
                  if p.grad is not None]
        zeroed = finite.new_zeros(())
        if self.nonfinite_gradient == 'zero':
            zeroed = _zero_nonfinite([p.grad for p in params])
        norm = self._clip(params)
        finite, norm, zeroed = torch.stack(
            [x.to(norm) for x in (finite, norm, zeroed)]).cpu().tolist()
        self.skipped, self.zeroed = None, 0
        if not finite or self._bad_loss:
            self.skipped = 'loss'
        elif not isfinite(norm):
            self.skipped = 'gradient'
            # A scale that is too large looks the same: the scaler halves it.
            # Below 1 it is no longer to blame.
            if scaler is not None and scaler.get_scale() > 1:
                self.skipped = 'scale'
        else:
            self.zeroed = int(zeroed)
            with few_groups(self.optimizer):
                self.optimizer.step(**kwargs)
            if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
                self.message_hub.update_scalar('train/grad_norm', norm)
        if scaler is not None:
            # A bad loss says nothing about the scale.
            scaler.update(
                scaler.get_scale() if self.skipped == 'loss' else None)

    def _clip(self, params: list[nn.Parameter]) -> Tensor:
        """Clip the gradient; its norm before, the same in all processes.

        They share the gradient by now.
        """
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            return self.clip_func(params, **self.clip_grad_kwargs)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in params if p.grad is not None])
        if self.clip_grad_kwargs:
            self.clip_func(params, **self.clip_grad_kwargs)
        return norm

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.loss_scaler is not None:
            state['loss_scaler'] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        # Also from a run in another precision.
        state = dict(state_dict)
        scale = state.pop('loss_scaler', None)
        if scale and self.loss_scaler is not None:
            self.loss_scaler.load_state_dict(scale)
        super().load_state_dict(state)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(
    name='DefaultOptimWrapperConstructor')
class ParamwiseConstructor(DefaultOptimWrapperConstructor):
    """The host's constructor, where a key says what it names and no more.

    In the host the longest of ``custom_keys`` in a parameter's name decides
    about everything: the ``lr_mult`` of the backbone would miss its relay
    tokens, whose key names a ``decay_mult``, and norms below a key would
    decay. Here the longest key that has a setting decides about it, and the
    rules for norms and biases hold unless a key has ``decay_mult``.

    ``paramwise_cfg`` also takes ``layer_decay_rate``: the learning rate of
    each block of the backbone is so many times that of the next one.
    """

    paramwise_cfg: dict

    def add_params(self, params: list[dict], module: nn.Module,
                   prefix: str = '', is_dcn_module=None) -> None:
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        settings = self.paramwise_cfg
        self.paramwise_cfg = {
            k: v for k, v in settings.items() if k != 'custom_keys'}
        super().add_params(params, module)
        self.paramwise_cfg = settings
        names = {id(p): name for name, p in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            found: dict = {}
            keys = settings.get('custom_keys', {})
            for key in sorted(sorted(keys), key=len):
                if key in name:
                    found.update(keys[key])
            group.update(found)
            if 'decay_mult' in found and self.base_wd is not None:
                group['weight_decay'] = self.base_wd * found['decay_mult']
            scale = found.get('lr_mult', 1.) * self._of_layer(module, name)
            if scale != 1:
                group['lr'] = group.get('lr', self.base_lr) * scale

    def _of_layer(self, model: nn.Module, name: str) -> float:
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not rate:
            return 1.
        backbone: Any = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                f'layer_decay_rate={rate}, but {type(backbone).__name__} does '
                'not say how deep its layers lie (get_layer_depth); use a '
                'relay backbone, which without relay tokens and with one view '
                'is a plain one.')
        depth, depths = backbone.get_layer_depth(name, 'backbone.')
        return rate**(depths - 1 - depth)


@contextmanager
def few_groups(optimizer: Optimizer) -> Iterator[None]:
    """Groups with equal settings are one while a step is taken.

    Settings by parameter (``paramwise_cfg``) make a group of each, and each
    group costs launches of its own: a thousand a step. Optimisers other than
    PyTorch's, which may keep numbers in their groups, are left alone.

    Args:
        optimizer: Its groups, and the state it saves, stay what they are.
    """
    groups = optimizer.param_groups
    if type(optimizer).__module__.split('.')[0] == 'torch':
        merged: dict[frozenset, dict] = {}
        for group in groups:
            settings = dict(dict.items(group))  # a config's takes long
            params = settings.pop('params')
            key = frozenset(
                (name, tuple(value) if isinstance(value, list) else value)
                for name, value in settings.items())
            merged.setdefault(key, dict(settings, params=[]))[
                'params'] += params
        optimizer.param_groups = [*merged.values()]
    try:
        yield
    finally:
        optimizer.param_groups = groups


def _zero_nonfinite(grads: list[Tensor]) -> Tensor:
    """Set what is not finite in a gradient to zero and count it."""
    counts = [(~grad.isfinite()).sum() for grad in grads]
    for grad in grads:
        grad.nan_to_num_(nan=0., posinf=0., neginf=0.)
    return torch.stack(counts).sum()
