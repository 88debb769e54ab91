"""Which windows a scene is segmented with, in which batches, row by row."""
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class Plan:
    """Windows of a scene: those of slide inference, in its batches.

    The rows of a scene fall into bands. Band i begins where row i of windows
    begins, and it is finished when that row of windows is.

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
    """
    shape: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    blend: str = 'mean'
    batch_size: int = 8
    contexts: tuple[Context, ...] = ()
    input_size: tuple[int, int] | None = None
    touched: np.ndarray | None = None

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

    @cached_property
    def bands(self) -> list[tuple[int, int]]:
        """First row of each band, and the first row after it."""
        return list(zip(self.tops, [*self.tops[1:], self.shape[0]]))

    @cached_property
    def _chosen(self) -> np.ndarray:
        """Numbers of the windows to compute, counted row by row."""
        if self.touched is None:
            return np.arange(len(self.tops) * len(self.lefts))
        return np.flatnonzero(self.touched)

    def __len__(self) -> int:
        """Windows to compute."""
        return len(self._chosen)

    def windows_of(self, band: int) -> int:
        """Windows to compute in the row that begins with a band."""
        if self.touched is None:
            return len(self.lefts)
        return int(self.touched[band].sum())

    def row_of(self, top: int) -> int:
        """Row of windows that begins at a pixel."""
        return bisect_left(self.tops, top)

    def batches(self, start: int, stop: int) -> Iterator[Sequence[Window]]:
        """Batches with all windows that touch bands ``start`` to ``stop``.

        Whole batches, as they are when all bands are computed, whatever
        ``start`` is: what a model gives for a window may depend, in its last
        digits, on the batch.

        Args:
            start: First band.
            stop: Band after the last one.
        """
        first = self.tops[start]
        row = next(i for i, top in enumerate(self.tops)
                   if top + self.size[0] > first)
        columns = len(self.lefts)
        low = int(np.searchsorted(self._chosen, row * columns))
        high = int(np.searchsorted(self._chosen, stop * columns))
        if low < high:
            first_batch = low // self.batch_size * self.batch_size
            for group in batched(
                    range(first_batch, len(self)), self.batch_size):
                if group[0] >= high:
                    return
                yield [self._window(self._chosen[i]) for i in group]

    def _window(self, number: int) -> Window:
        row, column = divmod(int(number), len(self.lefts))
        return Window(self.tops[row], self.lefts[column], *self.size)

    def rows_at_once(self) -> tuple[np.ndarray, np.ndarray]:
        """Tops of the first and of the last window of each batch."""
        tops = np.array(self.tops)[self._chosen // len(self.lefts)]
        first = np.arange(0, len(tops), self.batch_size)
        last = np.minimum(first + self.batch_size, len(tops)) - 1
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

    def weights(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Blend weights along rows and columns, by first pixel."""
        down, across = (
            blend_weights(length, size, stride, self.blend)
            for length, size, stride in zip(
                self.shape, self.size, self.stride))
        return down, across

    def looks_at(self, grid: ViewGrid, rows: tuple[int, int],
                 columns: tuple[int, int]) -> bool:
        """Whether a view of a chosen window shows some of these pixels.

        Args:
            grid: How that view is read.
            rows: First row and the first row after.
            columns: First column and the first column after.
        """
        if self.touched is None:
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
        return bool(self.touched[tuple(spans)].any())
