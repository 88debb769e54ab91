"""The local and the global windows under the cursor."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from relay_seg.rasters import Grid, open_raster
from relay_seg.views import Window, surroundings, window_starts

from .classes import read_tag
from .grids import map_pixels

ASSUMED_WINDOW = 256, 256
ASSUMED_FACTORS = (4, )


class WindowsShown(NamedTuple):
    """How the model that predicted looks at a scene.

    Args:
        size: Height and width of a window in pixels of the prediction.
        context_factors: Of the global views; none for a plain model.
        stride: Vertical and horizontal step between windows, if known.
        assumed: Size or factors are known neither from the file nor from
            the user.
    """
    size: tuple[int, int]
    context_factors: tuple[int, ...]
    stride: tuple[int, int] | None
    assumed: bool


def read_windows(path: Path, grid: Grid, size: Sequence[int] | None,
                 context_factors: Sequence[int] | None,
                 stride: Sequence[int] | None) -> WindowsShown:
    """Windows as given, else from the tags of a prediction, else assumed.

    Raises:
        ValueError: What is given makes no windows.
    """
    with open_raster(path) as raster:
        size = size or read_tag(raster, 'WINDOW', _is_size)
        stride = stride or read_tag(raster, 'STRIDE', _is_size)
        if context_factors is None:
            context_factors = read_tag(
                raster, 'CONTEXT_FACTORS', _are_counts)
    assumed = size is None or context_factors is None
    height, width = size or ASSUMED_WINDOW
    if context_factors is None:
        context_factors = ASSUMED_FACTORS
    if not _are_counts([height, width, *context_factors]):
        raise ValueError(f'window {(height, width)} and context factors '
                         f'{tuple(context_factors)} must be 1 or more.')
    steps = None
    if stride:
        steps = stride[0], stride[1]
        for length, side, step in zip(grid.shape, (height, width), steps):
            window_starts(length, side, step)  # says what is wrong
    return WindowsShown((height, width), tuple(context_factors), steps,
                        assumed)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(count, int) and count >= 1 for count in value)


def _is_size(value: Any) -> bool:
    return _are_counts(value) and len(value) == 2


def window_at(column: float, row: float, grid: Grid,
              windows: WindowsShown) -> Window:
    """The window that shows a pixel nearest to its centre.

    With a known stride it is one of those that inference plans, else the
    one around the pixel.
    """
    starts: list[int] = []
    for place, length, side, step in zip(
            (row, column), grid.shape, windows.size,
            windows.stride or (None, None)):
        if step is None:
            starts.append(int(place // 1) - side // 2)
        else:
            starts.append(min(
                window_starts(length, side, step),
                key=lambda start: abs(start + side / 2 - place)))
    return Window(starts[0], starts[1], *windows.size)


def outlines(column: float, row: float, scene: Grid, prediction: Grid,
             windows: WindowsShown) -> list[dict]:
    """Corners, in pixels of the scene, of the windows at a pixel of it.

    Args:
        column: In pixels of the scene.
        row: Likewise.
        scene: Grid of the scene.
        prediction: Grid of the prediction, whose pixels windows count.
        windows: Windows of the model.

    Returns:
        ``factor`` (1 for the local window) and ``corners``, (column, row)
        each, local window first.
    """
    (there, ) = map_pixels([(column, row)], scene, prediction)
    window = window_at(*there, prediction, windows)
    found = []
    for factor in (1, *windows.context_factors):
        box = surroundings(window, factor)
        corners = [(x, y) for x, y in (
            (box.left, box.top), (box.left + box.width, box.top),
            (box.left + box.width, box.top + box.height),
            (box.left, box.top + box.height))]
        found.append(dict(
            factor=factor, corners=map_pixels(corners, prediction, scene)))
    return found
