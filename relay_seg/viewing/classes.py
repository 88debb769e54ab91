"""Names and colours of classes, and ids as they are shown."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from mmengine.logging import MMLogger

from relay_seg.class_ids import IGNORE, Colour, spread_colours
from relay_seg.rasters import open_raster

TAGS = 'RELAY_SEG'  # namespace of the tags of a prediction


class Legend(NamedTuple):
    """What is known of the classes.

    Args:
        names: Names from class 0 on, as far as they are known.
        colours: Of the ids 0 to 254.
    """
    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def name(self, class_id: int) -> str:
        if class_id < len(self.names):
            return self.names[class_id]
        return f'class {class_id}'


def read_classes(paths: Sequence[Path],
                 names: Sequence[str] | None) -> Legend:
    """Names and colours, each from the first file that has them.

    Args:
        paths: Rasters of class ids.
        names: Names to use instead of those in the files.
    """
    colours = None
    for path in paths:
        with open_raster(path) as raster:
            names = names or read_tag(raster, 'CLASS_NAMES', _are_names)
            colours = colours or _colour_table(raster)
    if names and len(names) > IGNORE:
        raise ValueError(f'{len(names)} class names; ids end at 254.')
    return Legend(tuple(names or ()),
                   tuple(colours or spread_colours(IGNORE)))


def read_tag(raster: rasterio.DatasetReader, tag: str,
             is_valid: Callable[[Any], bool]) -> Any:
    """A tag that holds JSON; None, with a warning, if it is damaged."""
    text = raster.tags(ns=TAGS).get(tag)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if value is None or not is_valid(value):
        MMLogger.get_current_instance().warning(
            f'{raster.name}: tag {tag} is not understood and ignored: '
            f'{text[:80]!r}')
        return None
    return value


def _are_names(value: Any) -> bool:
    return (isinstance(value, list) and 0 < len(value) <= IGNORE
            and all(isinstance(name, str) for name in value))


def _colour_table(raster: rasterio.DatasetReader) -> list[Colour] | None:
    try:
        table = raster.colormap(1)
    except ValueError:  # none
        return None
    colours = spread_colours(IGNORE)
    for class_id, (red, green, blue, _) in table.items():
        if class_id < IGNORE:
            colours[class_id] = red, green, blue
    return colours


def as_shown(ids: np.ma.MaskedArray) -> np.ndarray:
    """Ids as uint8; 255 for masked ones and those beyond 0 to 254."""
    hidden = np.ma.getmaskarray(ids) | (ids.data < 0) | (ids.data > IGNORE)
    return np.where(hidden, IGNORE, ids.data).astype(np.uint8)
