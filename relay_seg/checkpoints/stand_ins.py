"""What is unpickled in place of the host's types that are no weights.

The host stores its message hub as it is: history buffers of NumPy arrays and
the functions that average them, which asks a reader for ``getattr`` and for
parts of NumPy that can be talked into anything. Here each of these names is
given a stand-in that does the one thing the host needs of it.
"""
from collections.abc import Callable
from pickle import UnpicklingError
from re import fullmatch
from typing import Any, NoReturn

import numpy as np
import torch

STATISTICS = 'min', 'max', 'current', 'mean'
ANNEALING = '_annealing_cos', '_annealing_linear'


class StandIn:
    """What a file asks for by the name of a type of NumPy or of the host."""

    def plain(self) -> Any:
        """Numbers, text, tensors and containers of them."""
        raise NotImplementedError


def plain_history(log: np.ndarray, count: np.ndarray, length: int) -> dict:
    """A history buffer of the host as a dict of tensors."""
    return dict(log_history=torch.from_numpy(np.array(log)),
                count_history=torch.from_numpy(np.array(count)),
                max_length=int(length))


class _Dtype(StandIn):
    """``numpy.dtype`` of numbers; no objects, no fields."""

    def __init__(self, code: str, *flags) -> None:
        if not isinstance(code, str) or not fullmatch('b1|[iuf][1248]', code):
            raise UnpicklingError(f'GLOBAL numpy.dtype({code!r}) refused')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in ('<', '>', '=', '|'):
            raise UnpicklingError(f'GLOBAL numpy.dtype order {order!r}')
        self.dtype = self.dtype.newbyteorder(order)

    def plain(self) -> str:
        return str(self.dtype)


class _Array(StandIn):
    """``numpy.ndarray`` of numbers; built from bytes of the right length."""

    array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if type(dtype) is not _Dtype or not isinstance(data, bytes):
            raise UnpicklingError('GLOBAL numpy.ndarray of objects refused')
        flat = np.frombuffer(data, dtype.dtype)
        self.array = flat.reshape(shape, order='F' if fortran else 'C').copy()

    def plain(self) -> list | float:
        return self.array.tolist()


class _History(StandIn):
    """``HistoryBuffer``: its numbers, without its functions."""

    def __setstate__(self, state: dict) -> None:
        log, count = state['_log_history'], state['_count_history']
        if type(log) is not _Array or type(count) is not _Array:
            raise UnpicklingError('GLOBAL HistoryBuffer without arrays')
        self.history = plain_history(
            log.array, count.array, state['max_length'])

    def plain(self) -> dict:
        return self.history


class _OneCycle:
    """``OneCycleParamScheduler``, only to name its curves."""

    def __new__(cls, *args) -> NoReturn:
        raise UnpicklingError('GLOBAL OneCycleParamScheduler() refused')


def _reconstruct(kind: type, *empty) -> _Array:
    if kind is not _Array:
        raise UnpicklingError(f'GLOBAL numpy _reconstruct of {kind}')
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> bool | int | float:
    if type(dtype) is not _Dtype or not isinstance(data, bytes):
        raise UnpicklingError('GLOBAL numpy scalar of an object refused')
    return np.frombuffer(data, dtype.dtype, count=1)[0].item()


def _empty_bytes() -> bytes:
    return b''


def _getattr(owner: type, name: str) -> str:
    """The name of a function that the host stores, never the function."""
    if owner is _History and name in STATISTICS:
        return name
    if owner is _OneCycle and name in ANNEALING:
        return name
    raise UnpicklingError(
        f'GLOBAL getattr({getattr(owner, "__name__", owner)},{name!r})')


def named(stand_in: Any, name: str) -> Any:
    """Torch knows what it may call by module and name."""
    stand_in.__module__, _, stand_in.__name__ = name.rpartition('.')
    stand_in.__qualname__ = stand_in.__name__
    return stand_in


def _copies(make: Callable[[], Callable], *names: str) -> list[Callable]:
    return [named(make(), name) for name in names]


#: Everything that a checkpoint may ask for beyond what torch allows itself.
#: NumPy 2 moved its core; files have either name.
STAND_INS = [
    named(_Dtype, 'numpy.dtype'),
    named(_Array, 'numpy.ndarray'),
    named(_History, 'mmengine.logging.history_buffer.HistoryBuffer'),
    named(_OneCycle, 'mmengine.optim.scheduler.param_scheduler.'
          'OneCycleParamScheduler'),
    named(_empty_bytes, 'builtins.bytes'),
    named(_getattr, 'builtins.getattr'),
    *_copies(lambda: lambda *args: _reconstruct(*args),
             'numpy.core.multiarray._reconstruct',
             'numpy._core.multiarray._reconstruct'),
    *_copies(lambda: lambda *args: _scalar(*args),
             'numpy.core.multiarray.scalar',
             'numpy._core.multiarray.scalar'),
]
