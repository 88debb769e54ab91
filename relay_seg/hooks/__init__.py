from .bad_steps import StopAfterBadSteps
from .buffers import BroadcastBuffersHook
from .early_stopping import ResumedEarlyStoppingHook
from .gathered import GatheredInfoHook
from .predictions import WritePredictions
from .progress import ProgressHook

__all__ = [
    'BroadcastBuffersHook', 'GatheredInfoHook', 'ProgressHook',
    'ResumedEarlyStoppingHook', 'StopAfterBadSteps', 'WritePredictions'
]
