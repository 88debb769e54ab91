from .content import meta_of, model_weights
from .downloading import local_file
from .errors import CheckpointError, UnsafeCheckpointError
from .hook import WholeCheckpointHook
from .host_loaders import register_loaders
from .loading import (
    check_class_order,
    load_weights,
    place_weights,
    with_our_names,
    with_own_classifier,
)
from .pretrained import load_pretrained
from .reading import read_checkpoint, sha256
from .resuming import (
    check_optimizer,
    is_training_state,
    last_loadable,
    trained_weights,
)
from .settings import warn_of_settings
from .writing import register_writer, write_checkpoint

__all__ = [
    'CheckpointError', 'UnsafeCheckpointError', 'WholeCheckpointHook',
    'check_class_order', 'check_optimizer', 'is_training_state',
    'last_loadable', 'load_pretrained', 'load_weights', 'local_file',
    'meta_of', 'model_weights', 'place_weights', 'read_checkpoint',
    'register_loaders', 'register_writer', 'sha256', 'trained_weights',
    'warn_of_settings', 'with_our_names', 'with_own_classifier',
    'write_checkpoint'
]
