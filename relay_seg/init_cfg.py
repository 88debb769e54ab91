"""Files that ``init_cfg`` of a backbone names, and who loads them.

Backbones know no files: MMEngine's registry knows who does.
"""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mmengine.model import BaseModule, PretrainedInit
from mmseg.registry import WEIGHT_INITIALIZERS

PRETRAINED = ('Pretrained', 'PretrainedInit', PretrainedInit)


@contextmanager
def without_pretrained(module: BaseModule) -> Iterator[list[dict]]:
    """Hide the files of ``init_cfg`` from the host, which loads in silence.

    Yields:
        Arguments of :func:`load_files` for each file.
    """
    init_cfg = module.init_cfg
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    files = [dict(c) for c in cfgs if c.get('type') in PRETRAINED]
    known = {'type', 'checkpoint', 'prefix', 'bands', 'patches', 'trust',
             'map_location'}
    for file in files:
        unknown = set(file) - known
        if unknown or 'checkpoint' not in file:
            raise ValueError(
                f'init_cfg={file} needs checkpoint=... and may have prefix, '
                f'bands, patches and trust, but not {sorted(unknown)}.')
        file.pop('type')
        file.pop('map_location', None)  # of the host; weights are copied
    if files:
        rest = [c for c in cfgs if c.get('type') not in PRETRAINED]
        module.init_cfg = rest or None
    try:
        yield files
    finally:
        module.init_cfg = init_cfg


def load_files(module: BaseModule, files: Iterable[dict]) -> None:
    """Load what :func:`without_pretrained` hid, loudly.

    See :func:`relay_seg.checkpoints.pretrained.load_pretrained`.
    """
    for file in files:
        load = WEIGHT_INITIALIZERS.get('load_pretrained')
        if load is None:
            raise ValueError(f'{file["checkpoint"]} of init_cfg is not '
                             'loaded; import relay_seg.registered before.')
        load(module, **file)
