from .bad_steps import StopAfterBadSteps
from .buffers import BroadcastBuffersHook
from .gathered import GatheredInfoHook
from .predictions import WritePredictions
from .progress import ProgressHook

__all__ = [
    'BroadcastBuffersHook', 'GatheredInfoHook', 'ProgressHook',
    'StopAfterBadSteps', 'WritePredictions'
]
