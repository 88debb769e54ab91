"""The few types in the host's checkpoints that are no weights.

The host stores its message hub as it is: history buffers of NumPy arrays and
the functions that average them, which asks a reader for ``getattr`` and for
parts of NumPy that can be talked into anything. Here each of these names is
given a stand-in that does the one thing the host needs of it. What comes out
are plain values; :func:`plain` and :func:`revive` go from the host's objects
to them and back.
"""
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import PurePath
from pickle import UnpicklingError
from re import fullmatch
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

LENGTH = 'max_length'
HISTORY = {'log_history', 'count_history', LENGTH}
STATISTICS = 'min', 'max', 'current', 'mean'
ANNEALING = '_annealing_cos', '_annealing_linear'
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.Tensor,
         torch.dtype, torch.device, torch.Size)


class _Dtype:
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


class _Array:
    """``numpy.ndarray`` of numbers; built from bytes of the right length."""

    array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if type(dtype) is not _Dtype or not isinstance(data, bytes):
            raise UnpicklingError('GLOBAL numpy.ndarray of objects refused')
        flat = np.frombuffer(data, dtype.dtype)
        self.array = flat.reshape(shape, order='F' if fortran else 'C').copy()


class _History:
    """``HistoryBuffer``: its numbers, without its functions."""

    def __setstate__(self, state: dict) -> None:
        log, count = state['_log_history'], state['_count_history']
        if type(log) is not _Array or type(count) is not _Array:
            raise UnpicklingError('GLOBAL HistoryBuffer without arrays')
        self.plain = _plain_history(
            log.array, count.array, state['max_length'])


class _OneCycle:
    """``OneCycleParamScheduler``, only to name its curves."""

    def __new__(cls, *args) -> None:
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


def _plain_history(log: np.ndarray, count: np.ndarray, length: int) -> dict:
    return dict(log_history=torch.from_numpy(np.array(log)),
                count_history=torch.from_numpy(np.array(count)),
                max_length=int(length))


def plain(value: Any, where: str = '', foreign: list | None = None) -> Any:
    """Values that any weights-only reader takes, for those of the host.

    What a container holds twice is looked at once, and the result holds it
    twice: lists of lists would else take time that doubles with each.

    Args:
        value: Content of a checkpoint; not changed.
        where: Name of ``value`` in the checkpoint, for ``foreign``.
        foreign: Collects 'where: type' of what has no plain form and is
            left as it is.
    """
    return _plain(value, where, foreign, {})


def _plain(value: Any, where: str, foreign: list | None,
           known: dict[int, Any]) -> Any:
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype != object:
        return value.tolist()
    if isinstance(value, ATOMS):
        return value
    if isinstance(value, HistoryBuffer):
        return _plain_history(*value.data, value.max_length)
    if isinstance(value, _History):
        return value.plain
    if isinstance(value, _Array):
        return value.array.tolist()
    if isinstance(value, _Dtype):
        return str(value.dtype)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
        if id(value) not in known:
            known[id(value)] = _plain_container(value, where, foreign, known)
        return known[id(value)]
    for name in ANNEALING:
        if value is getattr(OneCycleParamScheduler, name):
            return name
    if foreign is not None:
        foreign.append(f'{where.lstrip(".")}: {type(value).__name__}')
    return value


def _plain_container(value: Any, where: str, foreign: list | None,
                     known: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        result = kind((k, _plain(v, f'{where}.{k}', foreign, known))
                      for k, v in value.items())
        if hasattr(value, '_metadata'):  # versions of modules
            result._metadata = value._metadata
        return result
    kind = {tuple: tuple, set: set, frozenset: set}.get(type(value), list)
    return kind(_plain(v, f'{where}.{i}', foreign, known)
                for i, v in enumerate(value))


def revive(checkpoint: dict) -> dict:
    """The checkpoint with the objects of the host that :func:`plain` took.

    Args:
        checkpoint: As :func:`relay_seg.checkpoints.read_checkpoint` gives it.
    """
    result = dict(checkpoint)
    hub = checkpoint.get('message_hub')
    if isinstance(hub, dict) and isinstance(hub.get('log_scalars'), dict):
        result['message_hub'] = hub | dict(
            log_scalars={k: _revive_history(v)
                         for k, v in hub['log_scalars'].items()})
    schedules = checkpoint.get('param_schedulers')
    if isinstance(schedules, dict):  # of several optimisers
        result['param_schedulers'] = {
            k: [_revive_curve(x) for x in v] if isinstance(v, list) else v
            for k, v in schedules.items()}
    elif isinstance(schedules, list):
        result['param_schedulers'] = [_revive_curve(x) for x in schedules]
    return result


def _revive_history(value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() != HISTORY or not all(
            isinstance(value[k], torch.Tensor) for k in HISTORY - {LENGTH}):
        return value
    return HistoryBuffer(value['log_history'].numpy(),
                         value['count_history'].numpy(), value['max_length'])


def _revive_curve(state: Any) -> Any:
    if not isinstance(state, dict) or state.get(
            'anneal_func') not in ANNEALING:
        return state
    return state | dict(anneal_func=getattr(
        OneCycleParamScheduler, state['anneal_func']))
