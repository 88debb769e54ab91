"""One label from the maps of several annotators."""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from labels import IdLabel, open_ids
from sources import open_source
from writing import strips


def majority(votes: np.ndarray) -> np.ndarray:
    """The class with most votes in each pixel.

    Ties go to the lowest class id, as with the usual mode; ignored pixels
    win only with more votes than every class.

    Args:
        votes: Class ids (N, H, W) uint8, 255 for ignored.

    Returns:
        (H, W) uint8.
    """
    candidates = sorted(np.unique(votes).tolist())  # IGNORE comes last
    counts = np.stack([(votes == ident).sum(0) for ident in candidates])
    return np.array(candidates, dtype=np.uint8)[counts.argmax(0)]


@contextmanager
def open_votes(image: Path, maps: Sequence[Path],
               ids: Mapping[int, int]) -> Iterator['Votes']:
    """Open the maps of annotators that are sound.

    A map of another size than the image, damaged or with unknown ids does
    not vote, and the notes say so.

    Args:
        image: The image that the maps belong to.
        maps: A map of each annotator.
        ids: Class id of each id in the maps.

    Raises:
        ValueError: No map is sound.
    """
    with open_source(image) as raster:
        shape = raster.shape
    sound, notes = [], []
    for path in maps:
        try:
            _check(path, shape, ids)
            sound.append(path)
        except (ValueError, OSError) as error:
            notes.append(f'map left out: {error}')
    if not sound:
        raise ValueError(f'{image} has no map that can vote: '
                         f'{" ".join(notes)}')
    with ExitStack() as stack:
        yield Votes([stack.enter_context(open_ids(path, ids))
                     for path in sound],
                    [f'majority of {len(sound)} map(s)', *notes])


class Votes:
    """A label by majority, read in rows.

    Args:
        maps: Open maps of one size.
        notes: Remarks for the manifest.
    """

    def __init__(self, maps: Sequence[IdLabel], notes: list[str]) -> None:
        self.path = maps[0].path
        self.shape = maps[0].shape
        self.notes = notes
        self._maps = maps

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """Class ids (height, width) uint8 from row ``top`` on."""
        return majority(np.stack(
            [votes.rows(top, height, width) for votes in self._maps]))

    def finish(self) -> None:
        """Nothing: the maps were read before they could vote."""


def _check(path: Path, shape: tuple[int, int],
           ids: Mapping[int, int]) -> None:
    with open_ids(path, ids) as votes:
        if votes.shape != shape:
            raise ValueError(
                f'{path} has {votes.shape[0]} x {votes.shape[1]} pixels but '
                f'the image {shape[0]} x {shape[1]} (rows x columns).')
        for top, height in strips(shape[0]):
            votes.rows(top, height, shape[1])
        votes.finish()
