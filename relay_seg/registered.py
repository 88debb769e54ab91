"""Puts the classes of this package into MMSegmentation's registries.

Configs import it: ``custom_imports = dict(imports=['relay_seg.registered'])``.
"""
from ._host import check_parts

check_parts()

from . import (  # noqa: E402, F401
    backbones,
    checkpoints,
    data_preprocessor,
    datasets,
    evaluation,
    heads,
    hooks,
    losses,
    optim,
    scalars,
    segmentors,
    training,
    transforms,
)

# From here on the host unpickles nothing that it loads, and writes as a whole.
checkpoints.register_loaders()
checkpoints.register_writer()
