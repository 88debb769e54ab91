"""Classes of one's own data: names, values in the files, colours."""
import colorsys
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageColor

from relay_seg.class_ids import IGNORE

Colour = tuple[int, int, int]
#: A label of 8 bits needs 255 for ignored and one id to spare.
MOST = 254
MISSING = 'NULL'
GREY = (200, 200, 200)


@dataclass(frozen=True)
class Legend:
    """Classes and what stands for them.

    Args:
        names: Name of each class.
        palette: Its colour.
        values: Class id of each value, as text; 255 for ignored ones.
        background: Class id where no polygon lies; 255 for ignored.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    values: Mapping[str, int]
    background: int = IGNORE


def as_text(values: Sequence | np.ndarray) -> list[str]:
    """Values of an attribute as one writes them: 3, not 3.0."""
    texts = []
    for value in np.asarray(values).tolist():
        if value is None or value != value:
            value = MISSING
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        texts.append(str(value))
    return texts


def make_legend(wanted: Sequence[str], found: Sequence[str],
                background: str | None, ignored: Sequence[str],
                where: str) -> Legend:
    """Classes as the user wants them, checked against what is there.

    Args:
        wanted: ``NAME``, ``NAME=COLOUR``, ``NAME:VALUE,VALUE`` or
            ``NAME:VALUE,VALUE=COLOUR`` each, in the order of their ids; none
            for a class of each value found. ``:``, ``,`` and ``=`` after a
            backslash belong to the name or value; so do all of a text that
            is a value found.
        found: Values in the data.
        background: ``NAME`` or ``NAME=COLOUR`` of the class where no polygon
            lies; one of ``wanted``, or else a new class with id 0. None: such
            pixels are ignored.
        ignored: Values that belong to no class.
        where: What holds the values, for messages.

    Raises:
        ValueError: A value has no class or two, a class no value, or there
            are too many.
    """
    found = sorted(set(found) - set(ignored), key=_in_order)
    if not wanted:
        if MISSING in found:
            raise ValueError(
                f'{where} is empty for some polygons; fill it in, or leave '
                f'them out of all classes with --ignore {MISSING}.')
        if len(found) > MOST:
            raise ValueError(
                f'{where} has {len(found)} values, e.g. {found[:5]}; a label '
                f'holds at most {MOST} classes. Name another --class-column, '
                'or group values with --classes NAME:VALUE,VALUE ...')
    known = {*found}
    parsed = [_parse(text, known) for text in wanted or found]
    if background is not None:
        name, _, colour = _parse(background, known)
        if name not in [taken for taken, _, _ in parsed]:
            parsed.insert(0, (name, [], colour or GREY))
        background = name
    names = [name for name, _, _ in parsed]
    values: dict[str, int] = dict.fromkeys(ignored, IGNORE)
    for ident, (name, meant, _) in enumerate(parsed):
        if names.count(name) > 1:
            raise ValueError(f'--classes names {name!r} twice; name it once.')
        for value in meant:
            if value in values:
                raise ValueError(f'the value {value!r} would have two '
                                 'meanings; name it once in --classes and '
                                 '--ignore.')
            values[value] = ident
    unknown = [value for value in found if value not in values]
    if unknown:
        raise ValueError(
            f'{where} holds {_some(unknown)}, which no class takes; add them '
            'to --classes, or to --ignore for pixels that belong to none.')
    if not 2 <= len(parsed) <= MOST:
        raise ValueError(
            f'{len(parsed)} class(es), {names[:3]}; 2 to {MOST} are possible. '
            'For one kind of thing, name what surrounds it: of polygons with '
            '--background, in labels by its value, such as background:0.')
    palette = tuple(colour or _colour(ident, meant)
                    for ident, (_, meant, colour) in enumerate(parsed))
    return Legend(tuple(names), palette, values,
                  IGNORE if background is None else names.index(background))


def unused(legend: Legend, found: Sequence[str]) -> list[str]:
    """Values that a class or --ignore names and the data do not hold."""
    return sorted(set(legend.values) - set(found), key=_in_order)


def _parse(text: str,
           verbatim: Container[str]) -> tuple[str, list[str], Colour | None]:
    """Name, values and colour of a class; its name is its value, if alone.

    Args:
        text: What is written.
        verbatim: Texts that are names as they stand.
    """
    if text in verbatim:
        return text, [text], None
    head, *colours = _cut(text, '=')
    name, *values = _cut(head, ':')
    if not name or len(colours) > 1 or len(values) > 1 or values == ['']:
        raise ValueError(
            f'{text!r} is no class; write NAME, NAME=COLOUR or '
            'NAME:VALUE,VALUE=COLOUR, with a backslash before each :, comma '
            'or = that belongs to a name or value.')
    meant = [_plain(value.strip()) for value in _cut(values[0], ',')
             ] if values else [_plain(name)]
    if not colours:
        return _plain(name), meant, None
    try:
        return _plain(name), meant, ImageColor.getrgb(colours[0])[:3]
    except ValueError as error:
        raise ValueError(
            f'{colours[0]!r} of the class {name!r} is no colour; write '
            '#rrggbb or a name such as red.') from error


def _cut(text: str, mark: str) -> list[str]:
    """Cut at a mark that has no backslash before it."""
    return re.split(rf'(?<!\\){mark}', text)


def _plain(text: str) -> str:
    """Without the backslashes that marks have."""
    return re.sub(r'\\([:,=])', r'\1', text)


def _colour(ident: int, meant: Sequence[str]) -> Colour:
    """That of the label, else one far from others.

    These are steps of the golden ratio around the circle.
    """
    if meant and re.fullmatch('#[0-9a-fA-F]{6}', meant[0]):
        return ImageColor.getrgb(meant[0])[:3]
    hue = (0.58 + ident * 0.61803398875) % 1
    value = (0.95, 0.75, 0.55)[ident % 3]
    red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(
        hue, 0.65, value))
    return red, green, blue


def _in_order(value: str) -> tuple:
    """Numbers by size, before words by letters."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0., value


def _some(values: Sequence[str], limit: int = 8) -> str:
    more = f' and {len(values) - limit} more' if len(values) > limit else ''
    return ', '.join(map(repr, values[:limit])) + more
