"""A training step that never puts a bad number into the parameters."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    decide alike. Parameters, the optimiser's state and, after a bad loss,
    running means of batch norms stay as they are; what earlier batches of an
    accumulation gave is dropped with the step.

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

    def update_params(self, loss: Tensor, step_kwargs: dict | None = None,
                      zero_kwargs: dict | None = None) -> None:
        self.skipped, self.zeroed = None, 0
        finite = loss.detach().isfinite().float()
        all_reduce(finite, op='min')
        if not finite:
            self.skipped, self._bad_loss = 'loss', True
            for running, before in self._means:
                running.copy_(before)
        if self._bad_loss:
            # No backward in any process: none waits for another's gradient.
            self._inner_count += 1
        else:
            self.backward(self.scale_loss(loss))
        if self.should_update():
            if self._bad_loss:
                self.skipped = 'loss'
            else:
                self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))
            self._bad_loss = False

    def backward(self, loss: Tensor, **kwargs) -> None:
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        if self.loss_scaler is None:
            if self.nonfinite_gradient == 'zero':
                self.zeroed = self._zero_nonfinite()
            if not self._finite_gradient():
                self.skipped = 'gradient'
                return
            super().step(**kwargs)
            return
        scaler = self.loss_scaler
        scaler.unscale_(self.optimizer)
        if self._finite_gradient():
            if self.clip_grad_kwargs:
                self._clip_grad()
        else:
            # A scale that is too large looks the same: the scaler halves it.
            # Below 1 it is no longer to blame.
            self.skipped = 'scale' if scaler.get_scale() > 1 else 'gradient'
        scaler.step(self.optimizer, **kwargs)  # does nothing if not finite
        scaler.update()

    def _with_gradient(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group['params']
                if p.grad is not None]

    def _finite_gradient(self) -> bool:
        """The same in all processes, which share the gradient by now."""
        norm = torch.nn.utils.clip_grad_norm_(
            self._with_gradient(), float('inf'))
        return bool(norm.isfinite())

    def _zero_nonfinite(self) -> int:
        """Set what is not finite in the gradient to zero and count it."""
        grads = [p.grad for p in self._with_gradient()]
        count = sum((~grad.isfinite()).sum() for grad in grads)
        for grad in grads:
            grad.nan_to_num_(nan=0., posinf=0., neginf=0.)
        return int(count)

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
