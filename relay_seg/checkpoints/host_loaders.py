"""The host's own ways to load a checkpoint, led through the safe reader.

Whatever loads through the host (``load_from``, ``--resume``, ``init_cfg`` of
any backbone, the host's own tools) asks its ``CheckpointLoader`` for the
loader of a prefix. relay_seg puts its own behind each prefix.
"""
import io

from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from .content import meta_of
from .downloading import URLS, fetch
from .errors import CheckpointError
from .host_types import revive
from .reading import read_checkpoint, read_file

STORES = r'(\S+\:)?s3://', r'(\S+\:)?petrel://'


def register_loaders(trust: bool = False) -> None:
    """Let the host load checkpoints with :func:`read_checkpoint`.

    Args:
        trust: See there; for this process, until the next call.
    """

    def load_from_local(filename: str, map_location=None) -> dict:
        return _for_host(read_checkpoint(filename, trust=trust), trust)

    def load_from_http(filename: str, map_location=None) -> dict:
        fetch(filename)
        return load_from_local(filename)

    def load_from_store(filename: str, map_location=None) -> dict:
        backend = get_file_backend(
            filename, backend_args=dict(backend='petrel'))
        with io.BytesIO(backend.get(filename)) as file:
            return _for_host(read_file(file, filename, trust=trust), trust)

    def load_from_torchvision(filename: str, map_location=None) -> dict:
        name = filename.partition('://')[2]
        return load_from_http(_find(get_torchvision_models(), name))

    def load_from_openmmlab(filename: str, map_location=None) -> dict:
        name = filename.partition('://')[2]
        name = get_deprecated_model_names().get(name, name)
        return load_from_http(_find(get_external_models(), name))

    def load_from_mmcls(filename: str, map_location=None) -> dict:
        name = filename.partition('://')[2]
        return _process_mmcls_checkpoint(
            load_from_http(_find(get_mmcls_models(), name)))

    for prefixes, loader in [
            ('', load_from_local),
            (URLS, load_from_http),
            (STORES, load_from_store),
            (('modelzoo://', 'torchvision://'), load_from_torchvision),
            (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
            ('mmcls://', load_from_mmcls),
            ('pavi://', load_from_pavi)]:
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def load_from_pavi(filename: str, map_location=None) -> dict:
    raise CheckpointError(f'{filename} is not read from here; download the '
                          'file and give its path.')


def _find(urls: dict, name: str) -> str:
    if name not in urls:
        raise CheckpointError(f'the host knows no weights named {name}; give '
                              'a path or a URL.')
    return urls[name]


def _for_host(checkpoint: dict, trust: bool) -> dict:
    """The checkpoint as the host's runner reads it.

    The runner would run ``meta['config']`` as Python to look for a number of
    GPUs. It never writes that key itself (its config is under ``cfg``), so
    only a stranger's file has it.
    """
    meta = meta_of(checkpoint)
    if not trust and 'config' in meta:
        print_log("Left out meta['config'] of the checkpoint: the host "
                  'would run it as Python.', logger='current')
        meta = {k: v for k, v in meta.items() if k != 'config'}
        checkpoint = checkpoint | dict(meta=meta)
    return revive(checkpoint)
