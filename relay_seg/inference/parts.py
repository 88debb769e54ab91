"""Finished bands on disk, until their scene is whole."""
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger

from relay_seg.rasters.files import locked, write_text
from relay_seg.views import Window

from .plan import Plan

KINDS = ('probabilities', 'damage', 'classes')  # classes come last
STATE = 'state.json'
CHECKED = 4  # bytes that a band begins with, a checksum of the others


class Parts:
    """The folder ``OUT.partial`` beside an output file.

    Each finished band is a file of its own, which appears under its name
    when it is whole: what is there is finished, whoever wrote it. The folder
    serves one signature; what belongs to another is thrown away.

    Args:
        out: The output file.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f'{out.name}.partial')

    def refuse_foreign(self) -> None:
        """Raise a ``ValueError`` if the folder is another's: it is emptied.
        """
        names = {path.name for path in self.folder.glob('[!.]*')} - {'lock'}
        if names and STATE not in names:
            raise ValueError(
                f'{self.folder} is where unfinished bands go, but it holds '
                f'other files ({min(names)}); move them or write elsewhere.')

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Two commands never write one output."""
        with locked(self.folder / 'lock'):
            try:
                yield
            finally:
                if not any(self.folder.glob('*.part')):
                    self.remove()  # nothing to go on from

    def begin(self, signature: dict) -> bool:
        """Keep what belongs to a signature, and nothing else.

        Returns:
            Whether bands of another signature were thrown away.
        """
        stale = any(self.folder.glob('*.part'))
        known = self._state() == signature
        self._remove(known)  # also of a process that was killed
        if not known:
            write_text(self.folder / STATE,
                       json.dumps(signature, indent=2) + '\n')
        return stale and not known

    def _remove(self, keep: bool = False) -> None:
        """Remove all but the lock; what says whose it is goes last.

        Args:
            keep: Keep finished bands, too.
        """
        for path in sorted(self.folder.glob('*'),
                           key=lambda path: path.name == STATE):
            if path.name == 'lock' or keep and (
                    path.name == STATE or path.suffix == '.part'):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _state(self) -> dict | None:
        """The signature of what is there; None if nothing says it."""
        state = self.folder / STATE
        if not state.exists():
            return None
        try:
            return json.loads(state.read_text())
        except (ValueError, RecursionError, IsADirectoryError) as error:
            MMLogger.get_current_instance().warning(
                f'{state} is damaged ({error}): nobody knows what the bands '
                'beside it are of, and the prediction starts anew.')
            return None

    def finished(self) -> set[int]:
        """First rows of the bands that are there."""
        pattern = re.compile(r'classes_(\d+)\.part')
        names = (pattern.fullmatch(p.name) for p in self.folder.iterdir())
        return {int(name[1]) for name in names if name}

    def has(self, top: int) -> bool:
        """Whether the band with this first row is there."""
        return self._path('classes', top).exists()

    def write(self, top: int, classes: np.ndarray,
              probabilities: np.ndarray | None,
              damage: Sequence[Window]) -> None:
        """Keep a band.

        Args:
            top: First row.
            classes: (rows, width) uint8.
            probabilities: (C, rows, width), or None.
            damage: Regions that could not be read, as far as known.
        """
        if probabilities is not None:
            self._write('probabilities', top, probabilities)
        if damage:
            self._write('damage', top, np.array([w[:4] for w in damage]))
        self._write('classes', top, classes)

    def _write(self, kind: str, top: int, array: np.ndarray) -> None:
        # As it is: to compress it twice takes longer than to predict it.
        buffer = io.BytesIO()
        buffer.write(bytes(CHECKED))
        np.save(buffer, array)
        content = buffer.getbuffer()
        content[:CHECKED] = _checksum(content)
        path = self._path(kind, top)
        unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(
                error.errno, f'{path} cannot be written ({error}); is the '
                'disk full? Make room and run the same command again, it '
                'goes on from the last finished band') from error

    def read(self, kind: str, top: int) -> np.ndarray:
        """A band as it was written."""
        path = self._path(kind, top)
        content = memoryview(path.read_bytes())
        if content[:CHECKED] != _checksum(content):
            self._path('classes', top).unlink(missing_ok=True)
            raise OSError(f'{path} is damaged; run the same command again, '
                          'it is made anew.')
        return np.load(io.BytesIO(content[CHECKED:]))

    def damage(self, tops: Sequence[int]) -> list[Window]:
        """Regions that could not be read in any band."""
        found = []
        for top in tops:
            if self._path('damage', top).exists():
                found += [Window(*map(int, row))
                          for row in self.read('damage', top)]
        return sorted(set(found))

    def _path(self, kind: str, top: int) -> Path:
        return self.folder / f'{kind}_{top:09d}.part'

    def remove(self) -> None:
        """Nothing is left when the output is whole."""
        self._remove()
        shutil.rmtree(self.folder, ignore_errors=True)


class PartRows:
    """Any rows of a scene from the bands on disk, the last band at hand."""

    def __init__(self, parts: Parts, kind: str, plan: Plan) -> None:
        self._parts, self._kind, self._plan = parts, kind, plan
        self._band, self._pixels = -1, np.empty(0)

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        found = []
        band = self._band_of(top)
        while top < bottom:
            low, high = self._plan.bands[band]
            if band != self._band:
                pixels = self._parts.read(self._kind, low)
                self._band = band
                self._pixels = pixels[None] if pixels.ndim == 2 else pixels
            stop = min(high, bottom)
            found.append(self._pixels[:, top - low:stop - low])
            top, band = stop, band + 1
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def _band_of(self, row: int) -> int:
        return int(np.searchsorted(self._plan.tops, row, side='right')) - 1


def _checksum(content: memoryview) -> bytes:
    return zlib.crc32(content[CHECKED:]).to_bytes(CHECKED)
