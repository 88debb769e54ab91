"""Which windows a scene is segmented with, block by block."""
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, prod, sqrt

import numpy as np
from torch import Tensor

from relay_seg.views import (
    LOCAL,
    Context,
    ViewGrid,
    Window,
    batched,
    blend_weights,
    view_grid,
    view_sizes,
    window_starts,
)

#: A scene is cut into about this many blocks along each side,
BLOCKS = 6
#: but a block has at least so many steps between windows along a side, as
#: windows over its border are computed twice,
STEPS = 24
#: and at most so many pixels, which bounds memory.
LARGEST = 8192


@dataclass(frozen=True)
class Plan:
    """Windows of a scene: those of slide inference.

    Args:
        shape: Height and width of the scene in pixels.
        size: Height and width of a window.
        stride: Vertical and horizontal step between windows.
        blend: How windows are blended, see
            :func:`relay_seg.views.blend_weights`.
        batch_size: Windows in one forward pass.
        contexts: The global views, narrow to wide.
        input_size: Height and width of the local view; those of a window by
            default.
        touched: Which windows to compute, (rows of windows, windows in a
            row) bool; None for all.
        block: Height and width of a block, about.
    """
    shape: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    blend: str = 'mean'
    batch_size: int = 8
    contexts: tuple[Context, ...] = ()
    input_size: tuple[int, int] | None = None
    touched: np.ndarray | None = None
    block: tuple[int, int] = (LARGEST, LARGEST)

    @cached_property
    def views(self) -> tuple[ViewGrid, ...]:
        """How each view of a window is read, the local one first."""
        return tuple(
            view_grid(self.size, context, self.input_size or self.size)
            for context in (LOCAL, *self.contexts))

    @cached_property
    def view_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each view as the model takes it."""
        return view_sizes(self.input_size or self.size, self.contexts)

    @cached_property
    def tops(self) -> list[int]:
        """First row of each row of windows."""
        return window_starts(self.shape[0], self.size[0], self.stride[0])

    @cached_property
    def lefts(self) -> list[int]:
        """First column of each window in a row."""
        return window_starts(self.shape[1], self.size[1], self.stride[1])

    def __len__(self) -> int:
        """Windows to compute."""
        return (len(self.tops) * len(self.lefts) if self.touched is None
                else int(self.touched.sum()))

    @property
    def whole(self) -> 'Block':
        """The scene as one block."""
        return Block(self, (0, len(self.tops)), (0, len(self.lefts)))

    @cached_property
    def blocks(self) -> 'list[Block]':
        """Row by row, all in which there is a window to compute.

        One at least: a scene has an output, if only of no data.
        """
        down, across = (
            _cut(starts, length, side) for starts, length, side in zip(
                (self.tops, self.lefts), self.shape, self.block))
        every = [Block(self, rows, columns) for rows in pairwise(down)
                 for columns in pairwise(across)]
        return [block for block in every if len(block)] or every[:1]

    def covered(self, low: int, high: int) -> np.ndarray:
        """Which pixels of rows a chosen window shows, (rows, W) bool."""
        out = np.full((high - low, self.shape[1]), self.touched is None)
        if self.touched is None:
            return out
        for top, chosen in zip(self.tops, self.touched):
            rows = slice(max(top - low, 0), max(top + self.size[0] - low, 0))
            for column in np.flatnonzero(chosen):
                left = self.lefts[column]
                out[rows, left:left + self.size[1]] = True
        return out

    @cached_property
    def weights(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Blend weights along rows and columns, by first pixel."""
        down, across = (
            blend_weights(length, size, stride, self.blend)
            for length, size, stride in zip(
                self.shape, self.size, self.stride))
        return down, across


@dataclass(frozen=True, eq=False)
class Block:
    """A rectangle of a scene, and all windows that touch it.

    What is computed of it does not depend on other blocks. Its rows fall
    into bands: one begins where a row of windows begins, and it is finished
    when that row of windows is.

    Args:
        plan: Windows of the scene.
        rows: First of its rows of windows, and the one after the last one:
            it begins where the one begins and ends where the other does.
        columns: The same of windows in a row.
    """
    plan: Plan
    rows: tuple[int, int]
    columns: tuple[int, int]

    @cached_property
    def region(self) -> Window:
        """Its pixels."""
        (top, bottom), (left, right) = (
            (starts[first], [*starts, length][stop])
            for starts, length, (first, stop) in zip(
                (self.plan.tops, self.plan.lefts), self.plan.shape,
                (self.rows, self.columns)))
        return Window(top, left, bottom - top, right - left)

    @cached_property
    def bands(self) -> list[tuple[int, int]]:
        """First row of each band, and the first row after it."""
        top, _, height, *_ = self.region
        return list(pairwise(
            [*self.plan.tops[slice(*self.rows)], top + height]))

    @cached_property
    def _near(self) -> tuple[slice, slice]:
        """Rows and columns of windows that touch it."""
        first = (bisect_right(starts, start - size) for starts, start, size
                 in zip((self.plan.tops, self.plan.lefts), self.region,
                        self.plan.size))
        rows, columns = (slice(low, high) for low, (_, high) in zip(
            first, (self.rows, self.columns)))
        return rows, columns

    @cached_property
    def tops(self) -> list[int]:
        """First row of each row of windows that touches it."""
        return self.plan.tops[self._near[0]]

    @cached_property
    def lefts(self) -> list[int]:
        """First column of each window, in a row, that touches it."""
        return self.plan.lefts[self._near[1]]

    @cached_property
    def _touched(self) -> np.ndarray:
        """Which of these windows to compute."""
        if self.plan.touched is None:
            return np.ones((len(self.tops), len(self.lefts)), bool)
        return np.asarray(self.plan.touched[self._near])

    @property
    def chosen_tops(self) -> list[int]:
        """First row of each row of windows in which some are to compute."""
        return [self.tops[row]
                for row in np.flatnonzero(self._touched.any(axis=1))]

    @cached_property
    def _chosen(self) -> np.ndarray:
        """Numbers of the windows to compute, counted row by row."""
        return np.flatnonzero(self._touched)

    def __len__(self) -> int:
        """Windows to compute."""
        return len(self._chosen)

    @cached_property
    def seen(self) -> tuple[int, int]:
        """First column that a window looks at, and the first one after."""
        views = [grid.region(0, 0) for grid in self.plan.views]
        left = self.lefts[0] + min(view.left for view in views)
        right = self.lefts[-1] + max(view.left + view.width for view in views)
        return max(left, 0), max(min(right, self.plan.shape[1]), 1)

    def batches(self) -> Iterator[Sequence[Window]]:
        """Windows to compute, row by row, in batches."""
        for group in batched(self._chosen.tolist(), self.plan.batch_size):
            yield [self._window(number) for number in group]

    def _window(self, number: int) -> Window:
        row, column = divmod(number, len(self.lefts))
        return Window(self.tops[row], self.lefts[column], *self.plan.size)

    def rows_at_once(self) -> tuple[np.ndarray, np.ndarray]:
        """Tops of the first and of the last window of each batch."""
        tops = np.array(self.tops)[self._chosen // len(self.lefts)]
        first = np.arange(0, len(tops), self.plan.batch_size)
        last = np.minimum(first + self.plan.batch_size, len(tops)) - 1
        return tops[first], tops[last]

    def cells_across(self, grid: ViewGrid) -> dict[int, tuple[int, int]]:
        """Columns of cells that a view of any window looks at.

        Windows whose first columns have several remainders by the reduction,
        the phases, need cells that start there.

        Returns:
            First column and the first column after, by phase.
        """
        spans: dict[int, tuple[int, int]] = {}
        for start in self.lefts:
            cell, phase = divmod(start + grid.left, grid.reduction)
            low, high = spans.get(phase, (cell, cell))
            spans[phase] = min(low, cell), max(high, cell + grid.width)
        return spans

    def tops_by_phase(self, grid: ViewGrid,
                      tops: Sequence[int]) -> dict[int, list[int]]:
        """Rows of windows by the remainder of their view's first row."""
        found: dict[int, list[int]] = {}
        for top in tops:
            found.setdefault((top + grid.top) % grid.reduction, []).append(top)
        return found

    def looks_at(self, grid: ViewGrid, rows: tuple[int, int],
                 columns: tuple[int, int]) -> bool:
        """Whether a view of a chosen window shows some of these pixels.

        Args:
            grid: How that view is read.
            rows: First row and the first row after.
            columns: First column and the first column after.
        """
        if self.plan.touched is None:
            return True
        spans = []
        region = grid.region(0, 0)
        for starts, offset, side, (low, high) in zip(
                (self.tops, self.lefts), region[:2], region[2:4],
                (rows, columns)):
            # start + offset < high and start + offset + side > low
            spans.append(slice(
                bisect_left(starts, low - offset - side + 1),
                bisect_left(starts, high - offset)))
        return bool(self._touched[tuple(spans)].any())


def block_side(shape: tuple[int, int],
               stride: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the blocks of a scene, where nobody says them."""
    side = ceil(sqrt(prod(shape)) / BLOCKS)
    down, across = (min(max(side, STEPS * step), LARGEST) for step in stride)
    return down, across


def _cut(starts: Sequence[int], length: int, side: int) -> list[int]:
    """Numbers of the windows at which blocks begin, and how many there are.
    """
    count = max(round(length / side), 1)
    return sorted({bisect_left(starts, length * i / count)
                   for i in range(count)} | {len(starts)})


def share(blocks: Sequence[Block], part: tuple[int, int],
          turn: int = 0) -> list[Block]:
    """The blocks of one part, about as many windows as in any other.

    Parts take turns, so that blocks are finished from the top.

    Args:
        blocks: Blocks of a scene, which belong to one part each.
        part: Number of the part, from 1, and how many there are.
        turn: Which part begins: of small scenes, each has some.
    """
    number, count = part
    loads, mine = [0] * count, []
    for block in blocks:
        least = min(range(count),
                    key=lambda i: (loads[i], (i - turn) % count))
        loads[least] += len(block)
        if least == number - 1:
            mine.append(block)
    return mine
