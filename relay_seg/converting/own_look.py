"""What a look at each file tells before anything is written."""
import hashlib
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import ceil

import numpy as np
import rasterio

from relay_seg.class_ids import IGNORE

from .manifest import SPLITS
from .running import CACHE, Task, told_error
from .writing import strips

#: Side of the small grey copy by which pictures are compared.
SIDE = 32
#: Pictures whose small copies correlate more are taken for one, so that JPEG
#: and other sizes do not hide it. Of 232 unlike tiles of the sample scenes,
#: none reach 0.92; 99 of 100 reach 0.998 with their own JPEG of quality 90.
ALIKE = 0.99
SHOWN = 3


def look(task: Task) -> dict | str:
    """Read all of a scene.

    Returns:
        Pixels by class id (``counts``) and without class (``ignored``),
        ``numbers`` of the image in all bands, ``digest`` of these, None where
        all are alike, ``small`` grey copy, ``seconds``. Or what is wrong.
    """
    start = time.monotonic()
    counts = np.zeros(256, np.int64)
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), task.opening(
                *task.sources, **task.options) as scene:
            digest = hashlib.sha256()
            small = _Small(scene.grid.height, scene.grid.width)
            for top, height in strips(scene.grid.height):
                pixels, ids = scene.rows(top, height)
                digest.update(np.ascontiguousarray(pixels).data)
                small.add(pixels, top)
                counts += np.bincount(ids.ravel(), minlength=256)
            scene.finish()
    except Exception as error:  # all that is wrong is told at once
        return told_error(error, task.sources)
    return dict(
        counts=np.trim_zeros(counts[:IGNORE], 'b').tolist(),
        ignored=int(counts[IGNORE]), numbers=scene.count * int(counts.sum()),
        digest=digest.hexdigest() if small.varied else None,
        small=small.code(), seconds=time.monotonic() - start)


def twins(tasks: Sequence[Task],
          looks: Sequence[Mapping]) -> list[str]:
    """Remarks on pictures that two splits share."""
    by_digest: dict[str, Task] = {}
    found: list[tuple[Task, Task, str]] = []
    for task, one in zip(tasks, looks):
        if one['digest'] is not None:
            other = by_digest.setdefault(one['digest'], task)
            if other.split != task.split:
                found.append((other, task, 'the same picture'))
    same = {(a.image, b.image) for a, b, _ in found}
    sides = {}
    for split in SPLITS:
        some = [(task, np.frombuffer(bytes.fromhex(one['small']), np.int8))
                for task, one in zip(tasks, looks)
                if task.split == split and one['small']]
        if some:
            vectors = np.stack([small for _, small in some]).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            sides[split] = [task for task, _ in some], vectors
    for (one_tasks, one_side), (other_tasks, other_side) in combinations(
            sides.values(), 2):
        for i, small in enumerate(one_side):
            for j in np.flatnonzero(other_side @ small > ALIKE):
                a, b = one_tasks[i], other_tasks[j]
                if not {(a.image, b.image), (b.image, a.image)} & same:
                    found.append((a, b, 'nearly the same picture'))
    if not found:
        return []
    told = '; '.join(f'{one} ({a.split}) and {other} ({b.split}) are {how}'
                     for a, b, how in found[:SHOWN]
                     for one, other in [
                         (a.sources[0], b.sources[0]) if a.sources[0]
                         != b.sources[0] else (a.name, b.name)])
    more = f' and {len(found) - SHOWN} more' * (len(found) > SHOWN)
    return [f'{len(found)} pair(s) of scenes of two splits show one thing: '
            f'{told}{more}. What is tested was seen in training; move them '
            'to one split.']


class _Small:
    """A grey copy of means, made from rows.

    Args:
        height: Rows of the picture.
        width: Its columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self.varied = False
        self._first: float | None = None
        self._rows = np.arange(height) * SIDE // height
        self._edges = [ceil(i * width / SIDE) for i in range(SIDE)]
        self._sums = np.zeros((SIDE, SIDE))
        self._count = np.outer(
            np.bincount(self._rows, minlength=SIDE),
            np.diff(self._edges, append=width))

    def add(self, pixels: np.ndarray, top: int) -> None:
        """Count rows (C, H, W) in."""
        grey = np.nan_to_num(pixels.astype(np.float32)).mean(0)
        if self._first is None:
            self._first = float(grey.flat[0])
        self.varied |= bool((grey != self._first).any())
        if self._count.all():
            np.add.at(self._sums, self._rows[top:top + len(grey)],
                      np.add.reduceat(grey, self._edges, axis=1))

    def code(self) -> str:
        """Its deviations as bytes; nothing for what is small or even."""
        if not self._count.all() or not self.varied:
            return ''
        means = self._sums / self._count
        spread = means.std()
        if not spread > 0:
            return ''
        steps = np.clip((means - means.mean()) / spread * 32, -127, 127)
        return steps.round().astype(np.int8).tobytes().hex()
