"""From the host's objects in a checkpoint to plain values, and back."""
from collections import OrderedDict, deque
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from .stand_ins import ANNEALING, StandIn, plain_history

LENGTH = 'max_length'
HISTORY = {'log_history', 'count_history', LENGTH}
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.Tensor,
         torch.dtype, torch.device, torch.Size)


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
        log, count = value.data
        return plain_history(log, count, value.max_length)
    if isinstance(value, StandIn):
        return value.plain()
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
        mapping: type = (
            OrderedDict if isinstance(value, OrderedDict) else dict)
        result = mapping((k, _plain(v, f'{where}.{k}', foreign, known))
                         for k, v in value.items())
        if hasattr(value, '_metadata'):  # versions of modules
            result._metadata = value._metadata
        return result
    kinds: dict[type, type] = {tuple: tuple, set: set, frozenset: set}
    kind = kinds.get(type(value), list)
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
