"""Labels of one's own as images: ids, colours, palettes, transparency.

Every pixel is a code: its id; or its colour, red << 16 | green << 8 | blue; or
``TRANSPARENT``.
"""
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from PIL import ImageColor
from rasterio.enums import ColorInterp, Resampling

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import Grid, grid_of, same_grid

from .aligning import laid_on
from .labels import describe
from .legend import Legend
from .sources import open_source, read_rows
from .writing import strips

TRANSPARENT = -1
WORD = 'transparent'
#: So many values stand in a message.
SHOWN = 12


@dataclass(frozen=True)
class Reading:
    """What the pixels of labels mean.

    Args:
        table: Class id of each code.
        colours: Whether codes are colours; else they are ids.
        nearest: Whether other codes mean the nearest known one.
    """

    table: Mapping[int, int]
    colours: bool
    nearest: bool


@dataclass(frozen=True)
class Census:
    """Codes in a label.

    Args:
        pixels: Pixels of each code.
        colours: Whether codes are colours.
        entries: Colour of each id of its palette that occurs.
    """

    pixels: Counter[int]
    colours: bool
    entries: Mapping[int, int]


def reading_of(legend: Legend, nearest: bool) -> Reading:
    """How values of classes are to be read: #rrggbb is a colour, 7 an id.

    Raises:
        ValueError: A value is neither, some are each, or two are one.
    """
    kinds, table = set(), {}
    for value, ident in legend.values.items():
        if value.isdecimal():
            code, kind = int(value), 'id'
        elif value.startswith('#'):
            try:
                red, green, blue = ImageColor.getrgb(value)[:3]
            except ValueError as error:
                raise ValueError(f'{value!r} is no colour; write '
                                 '#rrggbb.') from error
            code, kind = red << 16 | green << 8 | blue, 'colour'
        elif value == WORD:
            code, kind = TRANSPARENT, ''
        else:
            raise ValueError(
                f'{value!r} is no id and no colour of a label; write such '
                'as --classes field:1 water:2,3, or soil:#000000, or '
                f'void:{WORD}.')
        if code in table:
            raise ValueError(f'the value {value!r} would have two meanings; '
                             'name it once in --classes and --ignore.')
        table[code] = ident
        kinds.add(kind)
    kinds.discard('')
    if len(kinds) > 1:
        raise ValueError('--classes names ids and colours; labels are read '
                         'by one of them.')
    colours = kinds == {'colour'}
    if not nearest and not colours:
        table.setdefault(IGNORE, IGNORE)
    table.setdefault(TRANSPARENT, IGNORE)
    return Reading(table, colours, nearest)


def census(path: Path, colours: bool | None) -> Census:
    """Count the codes of a label.

    Args:
        path: The file.
        colours: Whether it is read by colours; None if by its kind.

    Raises:
        ValueError: It cannot be read, or not that way.
    """
    counts: Counter[int] = Counter()
    with open_source(path) as raster:
        if colours is None:
            colours = raster.count > 2 or _has_palette(raster)
        codes = Codes(path, raster, colours)
        for top, height in strips(raster.height):
            values, _, _, pixels = _runs(
                codes.rows(raster, top, height, raster.width))
            counts.update(dict(zip(values.tolist(), pixels.tolist())))
        entries = {} if codes.palette is None else {
            code: int(codes.palette[code]) for code in counts
            if 0 <= code < 256} if not colours else {}
    return Census(counts, colours, entries)


class Codes:
    """Codes of a label's pixels.

    Args:
        path: The file, for messages.
        raster: The open file; it may be read on another grid later.
        colours: Whether codes are colours.

    Raises:
        ValueError: It cannot be read so.
    """

    def __init__(self, path: Path, raster: rasterio.DatasetReader,
                 colours: bool) -> None:
        self.path, self.colours = path, colours
        self.palette = _palette(raster) if _has_palette(raster) else None
        kind = np.dtype(raster.dtypes[0]).kind
        count = raster.count - _has_alpha(raster)
        if (count not in (1, 3) or len(set(raster.dtypes)) > 1
                or kind not in 'uif'
                or colours and raster.dtypes[0] != 'uint8'):
            raise ValueError(
                f'{path} has {describe(raster)}; a label has one band of '
                'ids, or red, green and blue of 8 bits, and perhaps one that '
                'is marked as alpha. Replace the file.')

    def rows(self, raster: rasterio.DatasetReader, top: int, height: int,
             width: int, left: int = 0) -> np.ndarray:
        """Codes (height, width) int64 from row ``top`` on."""
        pixels = read_rows(raster, top, height, width, left)
        alpha = pixels[-1] if _has_alpha(raster) else None
        bands = pixels if alpha is None else pixels[:-1]
        if self.colours:
            if self.palette is not None:
                codes = self.palette[bands[0]]
            else:
                red, green, blue = bands[[0, 0, 0] if len(bands) < 3 else
                                         [0, 1, 2]].astype(np.int64)
                codes = red << 16 | green << 8 | blue
        else:
            if (bands != bands[:1]).any():
                raise ValueError(
                    f'{self.path} holds colours; name them with --classes, '
                    'such as soil:#000000.')
            codes = bands[0].astype(np.int64)
            if (codes != bands[0]).any():
                raise ValueError(f'{self.path} holds numbers that are not '
                                 'whole; ids are. Replace the file.')
            if (codes < 0).any():
                raise ValueError(f'{self.path} holds {codes.min()}; ids '
                                 'start at 0. Replace the file.')
        if alpha is not None:
            full = 255 if pixels.dtype == np.uint8 else 1
            codes[alpha < full] = TRANSPARENT
        return codes


class MaskLabel:
    """Class ids of a label, read in rows.

    Args:
        codes: Its codes.
        raster: The file, on the grid of its image.
        reading: What they mean.
        notes: Remarks; more are appended.
    """

    def __init__(self, codes: Codes, raster: rasterio.DatasetReader,
                 reading: Reading, notes: list[str]) -> None:
        self._codes, self._raster = codes, raster
        self._reading, self._notes = reading, notes
        self._known = np.array(sorted(set(reading.table) - {TRANSPARENT}))
        self._unknown: Counter[int] = Counter()

    def rows(self, top: int, height: int, width: int,
             left: int) -> np.ndarray:
        """Class ids (height, width) uint8 from row ``top`` on."""
        codes = self._codes.rows(self._raster, top, height, width, left)
        values, place, lengths, pixels = _runs(codes)
        table, ids = self._reading.table, []
        for value, count in zip(values.tolist(), pixels.tolist()):
            if value not in table:
                self._unknown[value] += count
            ids.append(table.get(value, self._nearest(value)))
        return np.repeat(np.array(ids, np.uint8)[place], lengths).reshape(
            codes.shape)

    def finish(self) -> None:
        """Check what only the whole label shows.

        Raises:
            ValueError: It holds a value of no class.
        """
        if not self._unknown:
            return
        told = listed(self._unknown, self._reading.colours)
        if not self._reading.nearest:
            raise ValueError(f'{self._codes.path} holds {told}, which no '
                             'class takes; add them to --classes.')
        self._notes.append(f'{self._unknown.total()} pixels take the class '
                           'of the nearest value')

    def _nearest(self, code: int) -> int:
        if not self._reading.nearest or code == TRANSPARENT:
            return IGNORE
        apart = np.abs(self._known - code)
        if self._reading.colours:
            apart = sum(((self._known >> bits & 255) - (code >> bits & 255))**2
                        for bits in (16, 8, 0))
        return self._reading.table[int(self._known[np.argmin(apart)])]


@contextmanager
def open_mask(path: Path, reading: Reading, grid: Grid, image: Path,
              notes: list[str]) -> Iterator[MaskLabel]:
    """A label on the grid of its image.

    Args:
        path: The file.
        reading: What its pixels mean.
        grid: Of the image.
        image: File of the image, for messages.
        notes: Remarks; more are appended.

    Raises:
        ValueError: It cannot be read, or does not lie on the image.
    """
    with open_source(path) as raster:
        codes = Codes(path, raster, reading.colours)
        options: dict[str, bool | None] = {}
        if not same_grid(grid_of(raster), grid):
            if reading.table[TRANSPARENT] != IGNORE:
                raise ValueError(
                    f'{path} lies on another grid than {image}, so what is '
                    f'{WORD} and what lies beyond it cannot be told apart; '
                    'bring it to the grid of the image.')
            # Beyond it nothing is known; no id has to stand for that.
            options = dict(src_nodata=None)
            if ColorInterp.alpha not in raster.colorinterp:
                options.update(add_alpha=True)
        with laid_on(raster, grid, image, Resampling.nearest, notes,
                     **options) as laid:
            yield MaskLabel(codes, laid, reading, notes)


def told_census(found: Mapping[Path, Census]) -> str:
    """Values of labels with their pixels, and how to name them."""
    total: Counter[int] = Counter()
    for one in found.values():
        total.update(one.pixels)
    colours = any(one.colours for one in found.values())
    if colours and all(one.colours for one in found.values()) and all(
            code in (TRANSPARENT, code & 255 | (code & 255) << 8
                     | (code & 255) << 16) for code in total):
        total = Counter({code & 255 if code >= 0 else code: pixels
                         for code, pixels in total.items()})
        colours = False
    names = [f'NAME{i}:{told_code(code, colours)}'
             for i, (code, _) in enumerate(total.most_common(SHOWN), 1)]
    return (f'{len(found)} label(s) hold {listed(total, colours)}. Name them, '
            f'such as --classes {" ".join(names)}; those that belong to no '
            'class with --ignore.')


def unknown_values(found: Mapping[Path, Census],
                   reading: Reading) -> list[str]:
    """What no class takes, over all labels, in words."""
    unknown: Counter[int] = Counter()
    where: dict[int, Path] = {}
    for path, one in found.items():
        for code, pixels in one.pixels.items():
            if code not in reading.table:
                unknown[code] += pixels
                where.setdefault(code, path)
    if not unknown or reading.nearest:
        return []
    files = sum(not one.pixels.keys() <= reading.table.keys()
                for one in found.values())
    first = where[unknown.most_common(1)[0][0]]
    lossy = first.suffix.lower() in ('.jpg', '.jpeg') or len(unknown) > 50
    remedy = ('Values between those of classes come from JPEG or from '
              'scaling: get the labels as they were, or use --nearest to '
              'take the nearest value' if lossy else
              'Add them to --classes, or to --ignore')
    return [f'{files} label(s), e.g. {first}, hold '
            f'{listed(unknown, reading.colours)}, which no class takes. '
            f'{remedy}.']


def clashing_palettes(found: Mapping[Path, Census]) -> list[str]:
    """An id that palettes give several colours means several things."""
    seen: dict[int, tuple[int, Path]] = {}
    for path, one in found.items():
        for code, colour in one.entries.items():
            other, first = seen.setdefault(code, (colour, path))
            if other != colour:
                return [
                    f'{first} shows the id {code} as {told_code(other, True)}'
                    f' and {path} as {told_code(colour, True)}: it does not '
                    'mean one class. Name colours instead, such as '
                    f'--classes NAME:{told_code(other, True)}.']
    return []


def told_code(code: int, colours: bool) -> str:
    """A code as one writes it in --classes."""
    if code == TRANSPARENT:
        return WORD
    return f'#{code:06x}' if colours else str(code)


def listed(counts: Counter[int], colours: bool) -> str:
    """The most frequent values with their pixels."""
    told = ', '.join(f'{told_code(code, colours)} ({pixels} pixels)'
                     for code, pixels in counts.most_common(SHOWN))
    more = len(counts) - SHOWN
    return told + f' and {more} more' * (more > 0)


def _runs(codes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distinct codes; place of that of each run in them; its length; pixels.

    Labels are alike over long runs, which is what makes this fast.
    """
    flat = codes.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
    lengths = np.diff(starts, append=flat.size)
    values, place = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(place, weights=lengths).astype(np.int64)
    return values, place, lengths, pixels


def _has_palette(raster: rasterio.DatasetReader) -> bool:
    return raster.colorinterp[0] == ColorInterp.palette


def _has_alpha(raster: rasterio.DatasetReader) -> bool:
    """Whether the last band says what is seen."""
    return raster.colorinterp[-1] == ColorInterp.alpha


def _palette(raster: rasterio.DatasetReader) -> np.ndarray:
    """Code of the colour of each id; what has none is transparent."""
    codes = np.full(256, TRANSPARENT, dtype=np.int64)
    for ident, (red, green, blue, alpha) in raster.colormap(1).items():
        if alpha == 255:
            codes[ident] = red << 16 | green << 8 | blue
    return codes
