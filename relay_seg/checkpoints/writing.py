"""Checkpoints that any weights-only reader takes, written as a whole."""
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend

from relay_seg.rasters.files import replacing

from .host_types import plain


def write_checkpoint(content: dict, path: str | Path) -> None:
    """Write a ``.pth`` file that any weights-only reader takes.

    Args:
        content: Tensors, numbers, text, and containers of them; values of
            NumPy and of the host's message hub become such.
        path: Appears when it is whole.
    """
    foreign: list[str] = []
    content = plain(content, foreign=foreign)
    if foreign:
        raise ValueError(
            f'{path} was not written: a safe reader would refuse '
            f'{"; ".join(foreign[:10])}. Leave it out, or turn it into '
            'tensors, numbers or text.')
    with replacing(path) as unfinished:
        torch.save(content, unfinished)


class WholeFileBackend(LocalBackend):
    """The host's local files, with :func:`replacing` around each write.

    Everything that the host saves passes here, whichever runner or hook it
    comes from.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        with replacing(filepath) as unfinished:
            super().put(obj, unfinished)

    def put_text(self, obj: str, filepath: str | Path,
                 encoding: str = 'utf-8') -> None:
        with replacing(filepath) as unfinished:
            super().put_text(obj, unfinished, encoding)


def register_writer() -> None:
    """Let the host write local files as a whole."""
    register_backend('local', WholeFileBackend, force=True, prefixes='')
