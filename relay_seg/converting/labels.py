"""Labels as they come, by id or by colour, to class ids."""
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import grid_of

from .sources import open_source, read_rows

UNKNOWN = -1
NO_ENTRY = 2**24  # no packed colour is so large

Colour = tuple[int, int, int]
#: Class id of each colour, as pairs: hashable, so that tables are built once.
ColourTable = tuple[tuple[Colour, int], ...]


@lru_cache
def id_lookup(ids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Table of 256 entries from ids in a file to class ids, int16.

    Args:
        ids: Pairs of id and class id; every other id is unknown, -1.
    """
    table = np.full(256, UNKNOWN, dtype=np.int16)
    for old, new in ids:
        table[old] = new
    return table


@lru_cache
def colour_lookup(
        tables: tuple[ColourTable, ...]
) -> tuple[np.ndarray, list[tuple[Colour, int]]]:
    """Table from packed colours to places in a list of known colours.

    Returns:
        2**24 entries uint8, 255 for unknown, and the list of colours with
        their class ids.
    """
    known = list(dict.fromkeys(pair for table in tables for pair in table))
    colours = [colour for colour, _ in known]
    if len(set(colours)) < len(colours):
        raise ValueError('A colour means two classes in these tables.')
    lookup = np.full(2**24, 255, dtype=np.uint8)
    for place, (red, green, blue) in enumerate(colours):
        lookup[red << 16 | green << 8 | blue] = place
    return lookup, known


@contextmanager
def open_ids(path: Path, ids: Mapping[int, int]) -> Iterator['IdLabel']:
    """Open a label file of ids, see :class:`IdLabel`."""
    with open_source(path) as raster:
        yield IdLabel(path, raster, ids)


@contextmanager
def open_colours(
        path: Path, tables: Mapping[str, Mapping[Colour, int]]
) -> Iterator['ColourLabel']:
    """Open a label file of colours, see :class:`ColourLabel`."""
    with open_source(path) as raster:
        yield ColourLabel(path, raster, tables)


class IdLabel:
    """A label file of ids, read in rows.

    Args:
        path: The file, for messages.
        raster: The open file with one band, or three alike.
        ids: Class id of each id.
    """

    def __init__(self, path: Path, raster: rasterio.DatasetReader,
                 ids: Mapping[int, int]) -> None:
        self.path = path
        self.grid = grid_of(raster)
        self._raster = raster
        self._lookup = id_lookup(tuple(ids.items()))
        self._counts = np.zeros(256, dtype=np.int64)
        if (raster.count not in (1, 3) or set(raster.dtypes) != {'uint8'}
                or raster.colorinterp[0] == ColorInterp.palette):
            raise ValueError(
                f'{path} has {describe(raster)}; a label of ids has one band '
                'of 8 bits and no palette. Replace the file.')

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """Class ids (height, width) uint8 from row ``top`` on.

        Unknown ids come as ignored and are an error at :meth:`finish`, which
        then knows all of them.
        """
        pixels = read_rows(self._raster, top, height, width)
        if (pixels != pixels[:1]).any():
            raise ValueError(
                f'{self.path} holds colours; a label of ids has one band, or '
                'three alike. Replace the file.')
        self._counts += np.bincount(pixels[0].ravel(), minlength=256)
        mapped = self._lookup[pixels[0]]
        return np.where(mapped == UNKNOWN, IGNORE, mapped).astype(np.uint8)

    def finish(self) -> None:
        """Check what only the whole file shows.

        Raises:
            ValueError: The file holds an unknown id.
        """
        known = self._lookup != UNKNOWN
        unknown = Counter({
            i: int(self._counts[i])
            for i in np.flatnonzero(~known & (self._counts > 0)).tolist()})
        if unknown:
            known = np.flatnonzero(known).tolist()
            raise ValueError(
                f'{self.path} holds unknown ids: {_listed(unknown)}; known '
                f'are {known}. Correct or replace the file.')


class ColourLabel:
    """A label file of colours, direct or through its own palette.

    Args:
        path: The file, for messages.
        raster: The open file, with a palette or with red, green and blue.
        tables: Colour tables in circulation, by name. A file uses one.
    """

    def __init__(self, path: Path, raster: rasterio.DatasetReader,
                 tables: Mapping[str, Mapping[Colour, int]]) -> None:
        self.path = path
        self.grid = grid_of(raster)
        self._raster = raster
        self._tables = {name: tuple(t.items()) for name, t in tables.items()}
        self._lookup, self._known = colour_lookup(
            tuple(self._tables.values()))
        self._classes = np.full(256, IGNORE, dtype=np.uint8)
        self._classes[:len(self._known)] = [ident for _, ident in self._known]
        self._counts = np.zeros(256, dtype=np.int64)
        self._unknown: Counter[Colour] = Counter()
        if set(raster.dtypes) != {'uint8'} or raster.count > 4:
            raise ValueError(
                f'{path} has {describe(raster)}; a label of colours has 8 '
                'bits a band. Replace the file.')
        self._palette = _palette_codes(raster)

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """Class ids (height, width) uint8 from row ``top`` on.

        Unknown colours come as ignored and are an error at :meth:`finish`.
        """
        pixels = read_rows(self._raster, top, height, width)
        if pixels.shape[0] in (2, 4) and (pixels[-1] != 255).any():
            raise ValueError(
                f'{self.path} is transparent in places; a label is opaque. '
                'Replace the file.')
        if self._palette is not None:
            codes = self._palette[pixels[0]]
            if codes.max() == NO_ENTRY:
                raise ValueError(
                    f'{self.path} uses indices that its palette lacks, up to '
                    f'{pixels[0].max()}. Replace the file.')
        else:
            # Grey without a palette is a colour too: v, v, v.
            red, green, blue = pixels[[0, 0, 0] if len(pixels) < 3
                                      else [0, 1, 2]].astype(np.uint32)
            codes = red << 16 | green << 8 | blue
        places = self._lookup[codes]
        self._counts += np.bincount(places.ravel(), minlength=256)
        unknown = np.unique(codes[places == 255], return_counts=True)
        for code, count in zip(*(x.tolist() for x in unknown)):
            self._unknown[code >> 16, code >> 8 & 255, code & 255] += count
        return self._classes[places]

    def finish(self) -> None:
        """Check what only the whole file shows.

        Raises:
            ValueError: The file holds an unknown colour, or colours of
                several tables.
        """
        if self._unknown:
            raise ValueError(
                f'{self.path} holds unknown colours: '
                f'{_listed(self._unknown)}; known are '
                f'{[colour for colour, _ in self._known]}. Correct or '
                'replace the file.')
        found = {self._known[place] for place in np.flatnonzero(self._counts)}
        fitting = [t for t in self._tables.values() if found <= set(t)]
        if not fitting:
            by_table = '; '.join(
                f'{name}: {sorted(c for c, _ in found & set(table))}'
                for name, table in self._tables.items())
            raise ValueError(
                f'{self.path} mixes colour tables ({by_table}); what they '
                'share cannot be told apart. Replace the file.')


def describe(raster: rasterio.DatasetReader) -> str:
    """Bands and types of a file, for messages."""
    return f'{raster.count} band(s) of {", ".join(set(raster.dtypes))}'


def _palette_codes(raster: rasterio.DatasetReader) -> np.ndarray | None:
    """Packed colour of each index, if the file has a palette."""
    if raster.colorinterp[0] != ColorInterp.palette:
        return None
    codes = np.full(256, NO_ENTRY, dtype=np.uint32)
    for index, (red, green, blue, _) in raster.colormap(1).items():
        codes[index] = red << 16 | green << 8 | blue
    return codes


def _listed(counts: Counter, limit: int = 8) -> str:
    """The most frequent values with their numbers of pixels."""
    listed: Sequence[str] = [
        f'{value} ({count} pixels)'
        for value, count in counts.most_common(limit)]
    more = len(counts) - limit
    return ', '.join(listed) + (f' and {more} more' if more > 0 else '')
