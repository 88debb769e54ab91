from .content import meta_of, model_weights
from .downloading import local_file
from .errors import CheckpointError, UnsafeCheckpointError
from .hook import ResumedEarlyStoppingHook, WholeCheckpointHook
from .host_loaders import register_loaders
from .loading import load_weights, place_weights, with_our_names
from .reading import read_checkpoint, sha256
from .resuming import is_training_state, last_loadable
from .writing import write_checkpoint

# From here on nothing that the host loads is unpickled.
register_loaders()

__all__ = [
    'CheckpointError', 'ResumedEarlyStoppingHook', 'UnsafeCheckpointError',
    'WholeCheckpointHook', 'is_training_state', 'last_loadable',
    'load_weights', 'local_file', 'meta_of', 'model_weights', 'place_weights',
    'read_checkpoint', 'register_loaders', 'sha256', 'with_our_names',
    'write_checkpoint'
]
