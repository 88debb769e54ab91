"""The classes of this package, in the registries when they are needed.

Importing all of them takes seconds, most of it in the host. MMSegmentation's
registries import their own classes when first asked for one; they are told
to import those of this package then, too.
"""
from importlib import import_module

from mmseg import registry

MODULE = 'relay_seg.registered'
REGISTRIES = (
    registry.DATASETS, registry.DATA_SAMPLERS, registry.HOOKS,
    registry.LOOPS, registry.METRICS, registry.MODELS, registry.OPTIM_WRAPPERS,
    registry.TRANSFORMS, registry.VISBACKENDS)


def register_when_asked() -> None:
    """Let the registries import this package's classes.

    At once, if one of them has looked for classes before.
    """
    # MMEngine takes locations when a registry is made, and has no public way
    # to add one; without these attributes the classes are imported now.
    if any(getattr(r, '_imported', True) for r in REGISTRIES):
        import_module(MODULE)
        return
    for each in REGISTRIES:
        if MODULE not in each._locations:
            each._locations.insert(0, MODULE)  # first: it checks the host
