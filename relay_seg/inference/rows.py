"""Rows that windows of a block look at: read once, reduced where they lie."""
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from typing import NamedTuple

import torch
from torch import Tensor

from relay_seg.views import (
    LOCAL,
    ViewGrid,
    Views,
    Window,
    crop,
    fit,
    valid_mean,
    view_grid,
)

from .memory import CELL_ROWS, zeros
from .plan import Block
from .source import Reader, Scale, Source

#: Columns that are read, or reduced, at once.
CHUNK = 1024


def pixel_type(source: Source) -> torch.dtype:
    """Of the pixels of a scene as they are read."""
    return torch.uint8 if source.bytes else torch.float32


class Strip(NamedTuple):
    """Some rows while they are read, as wide as windows of a block look.

    Args:
        pixels: (C, rows, W), as they are in the file, or NaN for no data.
        valid: Which of them hold something, (rows, W) bool.
        reading: What still writes into both.
    """
    pixels: Tensor
    valid: Tensor
    reading: list[Future]


class NativeRows:
    """Native rows in use, on the device as they are in the file.

    Threads read strips ahead; each is sent to the device once. Which pixels
    hold something is known on the CPU. Rows and columns are counted as in
    the scene; the columns at hand are those that windows look at.

    Args:
        source: Scene.
        reader: Its reader.
        block: Windows of a block.
        first: First row that a window looks at.
        last: The row after the last one.
        pool: Threads that read.
        device: Where the rows lie.
    """

    def __init__(self, source: Source, reader: Reader, block: Block,
                 first: int, last: int, pool: Executor,
                 device: torch.device) -> None:
        self._source, self._block = source, block
        self._pool, self._device = pool, device
        self._reader = reader
        self._left, self._right = block.seen
        self._last = last
        self._height = source.block_rows
        self._next = first // self._height  # strip to begin next
        self._ahead = -(-block.plan.stride[0] // self._height)
        self._before: Future | None = None
        self._begun: deque[tuple[int, Strip]] = deque()
        #: First row and what is on the device, one after the other.
        self._rows: deque[tuple[int, Tensor, Tensor]] = deque()

    @property
    def bottom(self) -> int:
        """The row after the last one that is on the device."""
        if not self._rows:
            return 0
        top, pixels, _ = self._rows[-1]
        return top + pixels.shape[1]

    def begin(self, until: int) -> None:
        """Begin to read all rows before one, and some more."""
        stop = -(-min(until, self._last) // self._height)
        end = -(-self._last // self._height)
        while self._next < min(stop + self._ahead, end):
            self._begun.append((self._next * self._height,
                                self._begin(self._next * self._height)))
            self._next += 1

    def need(self, until: int) -> None:
        """Have all rows before one on the device, and read on from there."""
        self.begin(until)
        while self._begun and self._begun[0][0] < min(until, self._last):
            top, strip = self._begun.popleft()
            while strip.reading:
                strip.reading.pop().result()
            pixels = strip.pixels.to(self._device, non_blocking=True)
            self._rows.append((top, pixels, strip.valid))

    def pixels(self, rows: tuple[int, int], columns: tuple[int, int],
               out: Tensor | None = None) -> Tensor:
        """A region as it is in the file, (C, height, width).

        Args:
            rows: First row and the first row after.
            columns: First column and the first column after.
            out: Where to write it.
        """
        top, bottom = rows
        across = slice(*(column - self._left for column in columns))
        found = [strip[:, max(top - low, 0):bottom - low, across]
                 for low, strip, _ in self._rows
                 if low + strip.shape[1] > top and low < bottom]
        if len(found) == 1 and out is None:
            return found[0]
        return torch.cat(found, dim=1, out=out)

    def valid(self, top: int, bottom: int) -> Tensor:
        """Which pixels of the block's rows hold something, (rows, W) bool.

        Nothing does in rows that no window looks at. On the CPU.
        """
        _, left, _, width, _ = self._block.region
        left -= self._left
        out = torch.zeros(bottom - top, width, dtype=torch.bool)
        for low, _, valid in self._rows:
            inside = valid[max(top - low, 0):max(bottom - low, 0),
                           left:left + width]
            start = max(low - top, 0)
            out[start:start + len(inside)] = inside
        return out

    def holds(self, top: int, bottom: int, left: int, right: int) -> bool:
        """Whether any pixel of a region inside holds something."""
        left, right = left - self._left, right - self._left
        rows = ((max(top - low, 0), bottom - low, valid)
                for low, _, valid in self._rows
                if low < bottom and low + len(valid) > top)
        # One pixel tells in most places.
        return any(valid[first, left] or valid[first:last, left:right].any()
                   for first, last, valid in rows)

    def drop(self, row: int) -> None:
        """Let go of what lies above a row."""
        while self._rows and (
                self._rows[0][0] + self._rows[0][1].shape[1] <= row):
            self._rows.popleft()

    def _begin(self, top: int) -> Strip:
        """Begin to read a strip."""
        source, width = self._source, self._right - self._left
        plan = self._block.plan
        height = min(self._height, plan.shape[0] - top)
        step = CHUNK if source.tiled else plan.shape[1]
        spans = [(max(left, self._left), min(left + step, self._right))
                 for left in range(
                     self._left // step * step, self._right, step)]
        spans = [span for span in spans if any(
            self._block.looks_at(grid, (top, top + height), span)
            for grid in plan.views)]
        if not spans:  # rows without memory
            return Strip(
                torch.zeros(1, dtype=pixel_type(source)).expand(
                    source.bands, height, width),
                torch.zeros(1, dtype=torch.bool).expand(height, width), [])
        pixels = zeros((source.bands, height, width), pixel_type(source),
                       pin_memory=self._device.type == 'cuda')
        valid = (torch.ones(1, dtype=torch.bool).expand(height, width)
                 if source.bytes else
                 torch.zeros(height, width, dtype=torch.bool))
        reading = []
        for left, right in spans:
            self._before = self._pool.submit(
                self._fill, Window(top, left, height, right - left),
                pixels[..., left - self._left:right - self._left],
                valid[:, left - self._left:right - self._left],
                None if source.tiled else self._before)
            reading.append(self._before)
        return Strip(pixels, valid, reading)

    def _fill(self, region: Window, pixels: Tensor, valid: Tensor,
              before: Future | None) -> None:
        if before is not None:  # one file, from top to bottom
            wait([before])
        found, holds = self._reader.native(region)
        pixels.copy_(found)
        if not self._source.bytes:  # else all do
            valid.copy_(holds)


class Cells:
    """Native rows reduced to the cells of one view, made as they come.

    They are held for each phase of their columns, see
    :meth:`relay_seg.inference.plan.Block.cells_across`.

    Args:
        block: Windows of a block.
        grid: How the view is read.
        tops: First row of each row of windows, all with one remainder.
        scale: From pixels of the file to what the model is given.
    """

    def __init__(self, block: Block, grid: ViewGrid, tops: Sequence[int],
                 scale: Scale) -> None:
        self._block, self._grid, self._scale = block, grid, scale
        self._shape = block.plan.shape
        n = grid.reduction
        self._phase = (tops[0] + grid.top) % n
        #: Rows of cells that are still to make: first ones, and after them.
        self._wanted: deque[list[int]] = deque()
        for top in tops:
            first = (top + grid.top) // n
            if self._wanted and first <= self._wanted[-1][1]:
                self._wanted[-1][1] = first + grid.height
            else:
                self._wanted.append([first, first + grid.height])
        self._spans = block.cells_across(grid)
        #: First row of cells and the cells by phase, one after the other.
        self._made: deque[tuple[int, dict[int, Tensor]]] = deque()
        #: First row of cells of a row of windows, and these, by phase.
        self._cut: dict[int, tuple[int | None, Tensor]] = {
            phase: (None, self._zeros(grid.height, high - low))
            for phase, (low, high) in self._spans.items()}

    @property
    def next_native(self) -> int | None:
        """First native row that is still needed; None if none is."""
        if not self._wanted:
            return None
        return self._wanted[0][0] * self._grid.reduction + self._phase

    def advance(self, native: NativeRows) -> None:
        """Make all cells whose native rows are there."""
        n, height = self._grid.reduction, self._shape[0]
        whole = (native.bottom - self._phase) // n
        while self._wanted:
            first, end = self._wanted[0]
            stop = end if native.bottom >= height else min(whole, end)
            for row in range(first, stop, CELL_ROWS):
                self._made.append((row, self._make(
                    native, row, min(row + CELL_ROWS, stop))))
            if stop < end:
                self._wanted[0][0] = max(first, stop)
                return
            self._wanted.popleft()

    def _make(self, native: NativeRows, first: int,
              stop: int) -> dict[int, Tensor]:
        """Some rows of cells, at each phase of their columns."""
        n, height = self._grid.reduction, self._shape[0]
        top, bottom = (row * n + self._phase for row in (first, stop))
        inside = min(max(top, 0), height), min(max(bottom, 0), height)
        step = max(CHUNK // n, 1)
        made = {}
        for phase, (low, high) in self._spans.items():
            made[phase] = self._zeros(stop - first, high - low)
            for left in range(low, high, step):
                count = min(step, high - left)
                region = Window(top, left * n + phase, bottom - top,
                                count * n)
                if self._block.looks_at(self._grid, (top, bottom), (
                        region.left, region.left + region.width)):
                    made[phase][..., left - low:left - low + count] = (
                        self._reduce(native, inside, region))
        return made

    def _zeros(self, height: int, width: int) -> Tensor:
        return zeros((len(self._scale.fill), height, width), torch.float32,
                     self._scale.nothing.device)

    def _reduce(self, native: NativeRows, inside: tuple[int, int],
                region: Window) -> Tensor:
        """Cells of a region, which may lie over the border."""
        width = self._shape[1]
        left, right = (min(max(x, 0), width) for x in (
            region.left, region.left + region.width))
        pixels = self._scale.nothing
        if inside[1] > inside[0] and right > left:
            pixels = native.pixels(inside, (left, right))
        inner = Window(region.top - inside[0], region.left - left,
                       region.height, region.width)
        shown = crop(self._scale(pixels), inner, self._scale.fill)
        return valid_mean(shown, self._grid.reduction)

    def view(self, region: Window, out: Tensor) -> None:
        """Write the cells of the view of a window, (C, height, width)."""
        n = self._grid.reduction
        top = (region.top - self._phase) // n
        left, phase = divmod(region.left, n)
        left -= self._spans[phase][0]
        if self._cut[phase][0] != top:
            bottom = top + self._grid.height
            rows = (made[phase][:, max(top - low, 0):max(bottom - low, 0)]
                    for low, made in self._made)
            self._cut[phase] = top, torch.cat(
                [x for x in rows if x.shape[1]], dim=1,
                out=self._cut[phase][1])
        out.copy_(self._cut[phase][1][..., left:left + self._grid.width])

    def drop(self, row: int) -> None:
        """Let go of what windows from a native row on do not look at."""
        top = (row + self._grid.top - self._phase) // self._grid.reduction
        while self._made:
            low, made = self._made[0]
            if low + next(iter(made.values())).shape[-2] > top:
                return
            self._made.popleft()


class SceneRows:
    """All rows of a scene that windows of a block look at, and their views.

    Args:
        source: Scene.
        reader: Its reader.
        block: Windows of a block.
        pool: Threads that read.
        device: Where views are cut.
        scale: From pixels of the file to what the model is given, there.
    """

    def __init__(self, source: Source, reader: Reader, block: Block,
                 pool: Executor, device: torch.device, scale: Scale) -> None:
        self._block, self._plan, self._scale = block, block.plan, scale
        plan, tops = block.plan, block.chosen_tops
        #: How native pixels of a window are read.
        self._local = view_grid(plan.size, LOCAL, plan.size)
        #: First row of a row of windows, and its native pixels.
        left, right = block.seen
        self._band: tuple[int, Tensor] = -1, zeros(
            (source.bands, min(plan.size[0], plan.shape[0]), right - left),
            pixel_type(source), device)
        height = plan.shape[0]
        first = min(grid.region(tops[0], 0).top for grid in plan.views)
        self._reach = max(grid.region(0, 0).top + grid.region(0, 0).height
                          for grid in plan.views)
        self.native = NativeRows(
            source, reader, block, max(first, 0),
            min(max(tops[-1] + self._reach, 1), height), pool, device)
        #: Cells by view and phase of its first rows; none of native views.
        self._cells: dict[tuple[ViewGrid, int], Cells] = {}
        for grid in plan.views:
            if grid != self._local:
                for phase, some in block.tops_by_phase(grid, tops).items():
                    self._cells[grid, phase] = Cells(block, grid, some, scale)
        self.native.begin(tops[0] + self._reach)

    def need(self, top: int) -> None:
        """Have all that windows look at that begin in a row."""
        self.native.need(top + self._reach)
        for cells in self._cells.values():
            cells.advance(self.native)

    def drop(self, top: int) -> None:
        """Let go of what windows from a row on do not look at."""
        for cells in self._cells.values():
            cells.drop(top)
        waiting = (cells.next_native for cells in self._cells.values())
        self.native.drop(min([top, *(x for x in waiting if x is not None)]))

    def cut(self, windows: Sequence[Window]) -> Views:
        """Views of windows, local first, each (B, C, H, W) of its size."""
        views = []
        for grid, size in zip(self._plan.views, self._plan.view_sizes):
            cells = self._scale.nothing.new_empty(
                len(windows), len(self._scale.fill), grid.height, grid.width)
            for view, window in zip(cells, windows):
                if grid == self._local:
                    self._native_view(window, view)
                else:
                    region = grid.region(window.top, window.left)
                    phase = region.top % grid.reduction
                    self._cells[grid, phase].view(region, view)
            views.append(fit(cells, size))
        return tuple(views)

    def _native_view(self, window: Window, out: Tensor) -> None:
        """Native pixels of a window, normalised, (C, height, width)."""
        top, left, height, width, _ = window
        bottom, right = (min(start + side, end) for start, side, end in zip(
            (top, left), (height, width), self._plan.shape))
        if top != self._band[0]:
            self._band = top, self.native.pixels(
                (top, bottom), self._block.seen, self._band[1])
        inside = out[:, :bottom - top, :right - left]
        if inside.shape != out.shape:
            for band, value in zip(out, self._scale.fill):
                band.fill_(value)
        first, _ = self._block.seen
        self._scale(self._band[1][..., left - first:right - first],
                    out=inside)
