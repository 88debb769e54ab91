"""Rows of a scene that windows look at: read once, reduced where they lie."""
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

from .plan import Plan
from .source import Scale, Source

#: Columns that are read, or reduced, at once.
CHUNK = 1024


class Strip(NamedTuple):
    """Some rows of a scene while they are read.

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
    hold something is known on the CPU.

    Args:
        source: Scene.
        plan: Its windows.
        first: First row that a window looks at.
        last: The row after the last one.
        pool: Threads that read.
        device: Where the rows lie.
    """

    def __init__(self, source: Source, plan: Plan, first: int, last: int,
                 pool: Executor, device: torch.device) -> None:
        self._source, self._plan = source, plan
        self._pool, self._device = pool, device
        self._reader = source.reader()
        self._last = last
        self._height = source.block_rows
        self._next = first // self._height  # strip to begin next
        self._ahead = 1 + -(-plan.stride[0] // self._height)
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

    def need(self, until: int) -> None:
        """Have all rows before one on the device, and read on from there."""
        until = min(until, self._last)
        stop = -(-until // self._height)
        end = -(-self._last // self._height)
        while self._next < min(stop + self._ahead, end):
            self._begun.append((self._next * self._height,
                                self._begin(self._next * self._height)))
            self._next += 1
        while self._begun and self._begun[0][0] < until:
            top, strip = self._begun.popleft()
            while strip.reading:
                strip.reading.pop().result()
            pixels = strip.pixels.to(self._device, non_blocking=True)
            self._rows.append((top, pixels, strip.valid))

    def pixels(self, top: int, bottom: int) -> Tensor:
        """Rows as they are in the file, (C, bottom - top, W)."""
        found = []
        for low, rows, _ in self._rows:
            if low + rows.shape[1] > top and low < bottom:
                found.append(rows[:, max(top - low, 0):bottom - low])
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def valid(self, top: int, bottom: int) -> Tensor:
        """Which pixels of rows hold something, (rows, W) bool on the CPU.

        Nothing does in rows that no window looks at.
        """
        out = torch.zeros(bottom - top, self._plan.shape[1], dtype=torch.bool)
        for low, _, valid in self._rows:
            inside = valid[max(top - low, 0):max(bottom - low, 0)]
            start = max(low - top, 0)
            out[start:start + len(inside)] = inside
        return out

    def holds(self, top: int, bottom: int, left: int, right: int) -> bool:
        """Whether any pixel of a region inside holds something."""
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
        source, width = self._source, self._plan.shape[1]
        height = min(self._height, self._plan.shape[0] - top)
        dtype = torch.uint8 if source.bytes else torch.float32
        step = CHUNK if source.tiled else width
        spans = [(left, min(left + step, width))
                 for left in range(0, width, step)]
        spans = [span for span in spans if any(
            self._plan.looks_at(grid, (top, top + height), span)
            for grid in self._plan.views)]
        if not spans:  # rows without memory
            return Strip(
                torch.zeros(1, dtype=dtype).expand(
                    source.bands, height, width),
                torch.zeros(1, dtype=torch.bool).expand(height, width), [])
        pixels = torch.zeros(
            source.bands, height, width, dtype=dtype,
            pin_memory=self._device.type == 'cuda')
        valid = torch.zeros(height, width, dtype=torch.bool)
        reading = []
        for left, right in spans:
            self._before = self._pool.submit(
                self._fill, Window(top, left, height, right - left),
                pixels[..., left:right], valid[:, left:right],
                None if source.tiled else self._before)
            reading.append(self._before)
        return Strip(pixels, valid, reading)

    def _fill(self, region: Window, pixels: Tensor, valid: Tensor,
              before: Future | None) -> None:
        if before is not None:  # one file, from top to bottom
            wait([before])
        found, holds = self._reader.native(region)
        pixels.copy_(found)
        valid.copy_(holds)


class Cells:
    """Native rows reduced to the cells of one view, made as they come.

    Windows whose first columns have several remainders by the reduction, the
    phases, need cells that start there: they are held for each of them.

    Args:
        plan: Windows of the scene.
        grid: How the view is read.
        tops: First row of each row of windows, all with one remainder.
        scale: From pixels of the file to what the model is given.
    """

    def __init__(self, plan: Plan, grid: ViewGrid, tops: Sequence[int],
                 scale: Scale) -> None:
        self._plan, self._grid, self._scale = plan, grid, scale
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
        self._spans: dict[int, tuple[int, int]] = {}
        for start in plan.lefts:
            cell, phase = divmod(start + grid.left, n)
            low, high = self._spans.get(phase, (cell, cell))
            self._spans[phase] = min(low, cell), max(high, cell + grid.width)
        #: First row of cells and the cells by phase, one after the other.
        self._made: deque[tuple[int, dict[int, Tensor]]] = deque()
        self._cut: tuple[int, dict[int, Tensor]] = 0, {}

    @property
    def next_native(self) -> int | None:
        """First native row that is still needed; None if none is."""
        if not self._wanted:
            return None
        return self._wanted[0][0] * self._grid.reduction + self._phase

    def advance(self, native: NativeRows) -> None:
        """Make all cells whose native rows are there."""
        n, height = self._grid.reduction, self._plan.shape[0]
        whole = (native.bottom - self._phase) // n
        while self._wanted:
            first, end = self._wanted[0]
            stop = end if native.bottom >= height else min(whole, end)
            if stop > first:
                self._made.append((first, self._make(native, first, stop)))
            if stop < end:
                self._wanted[0][0] = max(first, stop)
                return
            self._wanted.popleft()

    def _make(self, native: NativeRows, first: int,
              stop: int) -> dict[int, Tensor]:
        """Some rows of cells, at each phase of their columns."""
        n, height = self._grid.reduction, self._plan.shape[0]
        top, bottom = (row * n + self._phase for row in (first, stop))
        inside = min(max(top, 0), height), min(max(bottom, 0), height)
        step = max(CHUNK // n, 1)
        made = {}
        for phase, (low, high) in self._spans.items():
            cells = []
            for left in range(low, high, step):
                count = min(step, high - left)
                region = Window(top, left * n + phase, bottom - top,
                                count * n)
                if self._plan.looks_at(self._grid, (top, bottom), (
                        region.left, region.left + region.width)):
                    cells.append(self._reduce(native, inside, region))
                else:
                    cells.append(self._scale.nothing.new_zeros(1).expand(
                        len(self._scale.fill), stop - first, count))
            made[phase] = torch.cat(cells, dim=-1)
        return made

    def _reduce(self, native: NativeRows, inside: tuple[int, int],
                region: Window) -> Tensor:
        """Cells of a region, which may lie over the border."""
        width = self._plan.shape[1]
        left, right = (min(max(x, 0), width) for x in (
            region.left, region.left + region.width))
        pixels = self._scale.nothing
        if inside[1] > inside[0] and right > left:
            pixels = native.pixels(*inside)[..., left:right]
        inner = Window(region.top - inside[0], region.left - left,
                       region.height, region.width)
        shown = crop(self._scale(pixels), inner, self._scale.fill)
        return valid_mean(shown, self._grid.reduction)

    def view(self, region: Window) -> Tensor:
        """Cells of the view of a window, (C, height, width)."""
        n = self._grid.reduction
        top = (region.top - self._phase) // n
        left, phase = divmod(region.left, n)
        left -= self._spans[phase][0]
        if self._cut[0] != top or phase not in self._cut[1]:
            bottom = top + self._grid.height
            rows = [made[phase][:, max(top - low, 0):max(bottom - low, 0)]
                    for low, made in self._made]
            rows = [x for x in rows if x.shape[1]]
            band = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-2)
            known = self._cut[1] if self._cut[0] == top else {}
            self._cut = top, known | {phase: band}
        return self._cut[1][phase][..., left:left + self._grid.width]

    def drop(self, row: int) -> None:
        """Let go of what windows from a native row on do not look at."""
        top = (row + self._grid.top - self._phase) // self._grid.reduction
        while self._made:
            low, made = self._made[0]
            if low + next(iter(made.values())).shape[-2] > top:
                return
            self._made.popleft()


class SceneRows:
    """All rows of a scene that some windows look at, and their views.

    Args:
        source: Scene.
        plan: Its windows.
        tops: First row of each row of windows that is wanted, in order.
        pool: Threads that read.
        device: Where views are cut.
        scale: From pixels of the file to what the model is given, there.
    """

    def __init__(self, source: Source, plan: Plan, tops: Sequence[int],
                 pool: Executor, device: torch.device, scale: Scale) -> None:
        self._plan, self._scale = plan, scale
        #: How native pixels of a window are read.
        self._local = view_grid(plan.size, LOCAL, plan.size)
        #: First row of a row of windows, and its native pixels.
        self._band: tuple[int, Tensor] = -1, scale.nothing
        height = plan.shape[0]
        first = min(grid.region(tops[0], 0).top for grid in plan.views)
        self._reach = max(grid.region(0, 0).top + grid.region(0, 0).height
                          for grid in plan.views)
        self.native = NativeRows(
            source, plan, max(first, 0),
            min(max(tops[-1] + self._reach, 1), height), pool, device)
        #: Cells by view and phase of its first rows; none of native views.
        self._cells: dict[tuple[ViewGrid, int], Cells] = {}
        for grid in plan.views:
            if grid == self._local:
                continue
            by_phase: dict[int, list[int]] = {}
            for top in tops:
                by_phase.setdefault(
                    (top + grid.top) % grid.reduction, []).append(top)
            for phase, some in by_phase.items():
                self._cells[grid, phase] = Cells(plan, grid, some, scale)

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
            if grid == self._local:
                cells = self._native_views(windows)
            else:
                cells = torch.stack([self._view(grid, w) for w in windows])
            views.append(fit(cells, size))
        return tuple(views)

    def _view(self, grid: ViewGrid, window: Window) -> Tensor:
        region = grid.region(window.top, window.left)
        return self._cells[grid, region.top % grid.reduction].view(region)

    def _native_views(self, windows: Sequence[Window]) -> Tensor:
        """Native pixels of windows, normalised, (B, C, height, width)."""
        scale, nothing = self._scale, self._scale.nothing
        out = nothing.new_empty(
            len(windows), len(scale.fill), *self._plan.size)
        for view, (top, left, height, width, _) in zip(out, windows):
            bottom, right = (
                min(start + side, end) for start, side, end in zip(
                    (top, left), (height, width), self._plan.shape))
            if top != self._band[0]:
                self._band = top, self.native.pixels(top, bottom)
            inside = view[:, :bottom - top, :right - left]
            if inside.shape != view.shape:
                for band, value in zip(view, scale.fill):
                    band.fill_(value)
            scale(self._band[1][..., left:right], out=inside)
        return out
