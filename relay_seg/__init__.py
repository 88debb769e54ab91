"""Relay tokens for MMSegmentation: ultra-high-resolution segmentation.

``relay_seg.registered`` puts its classes into MMSegmentation's registries:
name it in ``custom_imports`` of a config, or import it.
"""
from importlib import import_module
from types import ModuleType

from ._host import check_versions

__version__ = '0.1.0'

PACKAGES = (
    'analysis', 'backbones', 'checkpoints', 'data_preprocessor', 'datasets',
    'evaluation', 'heads', 'hooks', 'inference', 'losses', 'optim',
    'scalars', 'segmentors', 'transforms', 'viewing')

check_versions()


def __getattr__(name: str) -> ModuleType:
    """Import a package when it is first looked at: imports stay quick."""
    if name in PACKAGES:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
