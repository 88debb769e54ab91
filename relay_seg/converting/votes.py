"""One label from the maps of several annotators."""
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from relay_seg.rasters.writing import strips

from .labels import IdLabel, open_ids
from .sources import open_source


def majority(votes: np.ndarray) -> np.ndarray:
    """The id with most votes in each pixel.

    Ties go to the lowest id, as with the usual mode; so ignored pixels win
    only with more votes than every class.

    Args:
        votes: Ids (N, H, W) uint8, 255 for ignored where they are classes.

    Returns:
        (H, W) uint8.
    """
    candidates = sorted(np.unique(votes).tolist())  # IGNORE comes last
    counts = np.stack([(votes == ident).sum(0) for ident in candidates])
    return np.array(candidates, dtype=np.uint8)[counts.argmax(0)]


@contextmanager
def open_votes(image: Path, maps: Sequence[Path], ids: Mapping[int, int],
               raw: bool = False) -> Iterator['Votes']:
    """Open the maps of annotators that are sound.

    A map of another size than the image, damaged or with unknown ids does
    not vote, and the notes say so.

    Args:
        image: The image that the maps belong to.
        maps: A map of each annotator; one that is listed twice has two votes.
        ids: Class id of each id in the maps.
        raw: Vote on the ids in the maps, and map the winner; else the votes
            are mapped, so that ids of one class vote together.

    Raises:
        ValueError: No map is sound.
    """
    with open_source(image) as raster:
        shape = raster.shape
    votes, notes = Counter(maps), []
    for path in tuple(votes):
        try:
            _check(path, shape, ids)
        except (ValueError, OSError) as error:
            del votes[path]
            notes.append(f'map left out: {error}')
    if not votes:
        raise ValueError(f'{image} has no map that can vote: '
                         f'{" ".join(notes)}')
    before, after = (dict(zip(ids, ids)), ids) if raw else (ids, {})
    told = f'majority of {len(votes)} map(s)'
    if raw:
        told = 'mode of the raw ids of ' + ', '.join(
            path.parent.name for path in votes.elements())
    with ExitStack() as stack:
        yield Votes([stack.enter_context(open_ids(path, before))
                     for path in votes],
                    list(votes.values()), after, [told, *notes])


class Votes:
    """A label by majority, read in rows.

    Args:
        maps: Open maps of one size.
        votes: How many votes each of them has.
        ids: What becomes of the ids that win; others stay as they are.
        notes: Remarks for the manifest.
    """

    def __init__(self, maps: Sequence[IdLabel], votes: Sequence[int],
                 ids: Mapping[int, int], notes: list[str]) -> None:
        self.path = maps[0].path
        self.grid = maps[0].grid
        self.notes = notes
        self._maps = maps
        self._votes = votes
        self._lookup = np.arange(256, dtype=np.uint8)
        self._lookup[list(ids)] = list(ids.values())

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """Class ids (height, width) uint8 from row ``top`` on."""
        seen = np.stack([x.rows(top, height, width) for x in self._maps])
        return self._lookup[majority(seen.repeat(self._votes, axis=0))]

    def finish(self) -> None:
        """Nothing: the maps were read before they could vote."""


def _check(path: Path, shape: tuple[int, int],
           ids: Mapping[int, int]) -> None:
    with open_ids(path, ids) as votes:
        if (votes.grid.height, votes.grid.width) != shape:
            raise ValueError(
                f'{path} has {votes.grid.height} x {votes.grid.width} pixels '
                f'but the image {shape[0]} x {shape[1]} (rows x columns).')
        for top, height in strips(shape[0]):
            votes.rows(top, height, shape[1])
        votes.finish()
