"""Rows of a scene that windows look at, read by threads ahead of them."""
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from relay_seg.views import ViewGrid, Window, fit, view_grid

from .plan import Plan
from .source import Source, strip_rows

CHUNK = 1024  # native columns that are read at once


@dataclass
class Strip:
    """Some rows, at each phase of their columns, while they are read."""
    pixels: dict[int, Tensor]  # (C, rows, columns) by phase
    valid: Tensor | None
    reading: list[Future]

    def wait(self) -> None:
        """Return when all is read."""
        while self.reading:
            self.reading.pop().result()


class Rows:
    """A scene at one reduction, of which the rows in use are held.

    Cells are n x n native pixels. The views of windows whose first rows have
    the same remainder by n lie on one grid of rows; where their first columns
    have several remainders, the phases, cells are held for each of them.

    Args:
        source: Scene.
        plan: Its windows.
        grid: How a view of them is read; n is its reduction.
        phase: Remainder of the first rows of views by n.
        last: First row, in cells, that no view needs.
        pool: Threads that read.
        bands: Bands to keep; none where only ``valid`` is asked for.
        native: Keep which pixels hold something, for :meth:`valid`.
    """

    def __init__(self, source: Source, plan: Plan, grid: ViewGrid, phase: int,
                 last: int, pool: Executor, bands: int,
                 native: bool) -> None:
        self._source, self._plan, self._grid = source, plan, grid
        self._phase, self._last = phase, last
        self._pool, self._channels, self._native = pool, bands, native
        self._reader = source.reader()
        self._before: Future | None = None
        reduction = grid.reduction
        self._height = strip_rows(source, reduction) // reduction
        self._ahead = -(-plan.stride[0] // (self._height * reduction))
        self._strips: dict[int, Strip] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        for start in plan.lefts:
            cell, phase_x = divmod(start + grid.left, reduction)
            low, high = self._spans.get(phase_x, (cell, cell))
            self._spans[phase_x] = min(low, cell), max(high,
                                                       cell + grid.width)

    def view(self, region: Window) -> Tensor:
        """Cells of the region of a view, (C, height / n, width / n)."""
        top = (region.top - self._phase) // self._grid.reduction
        left, phase = divmod(region.left, self._grid.reduction)
        left -= self._spans[phase][0]
        height, width = self._grid.height, self._grid.width
        return self._gather(
            top, height, lambda strip: strip.pixels[phase][
                ..., left:left + width])

    def valid(self, top: int, height: int, left: int, width: int) -> Tensor:
        """Which native pixels hold something, (height, width) bool."""
        return self._gather(
            top, height, lambda strip: strip.valid[:, left:left + width])

    def _gather(self, top: int, height: int, part) -> Tensor:
        first, last = (row // self._height
                       for row in (top, top + height - 1))
        for number in range(first, last + 1 + self._ahead):
            wanted = number <= last or number * self._height < self._last
            if wanted and number not in self._strips:
                self._strips[number] = self._read(number)
        parts = []
        for number in range(first, last + 1):
            strip = self._strips[number]
            strip.wait()
            low = max(top - number * self._height, 0)
            high = top + height - number * self._height
            parts.append(part(strip)[..., low:high, :])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def drop(self, row: int) -> None:
        """Let go of what lies above a native row."""
        for number in list(self._strips):
            end = (number + 1) * self._height * self._grid.reduction
            if end + self._phase <= row:
                self._strips.pop(number).wait()

    def _read(self, number: int) -> Strip:
        """Begin to read a strip."""
        n, height = self._grid.reduction, self._height
        top = number * height * n + self._phase
        step = max(CHUNK // n, 1) if self._source.tiled else None
        pixels, reading = {}, []
        valid = torch.zeros(
            height, self._spans[0][1],
            dtype=torch.bool) if self._native else None
        for phase, (low, high) in self._spans.items():
            out = torch.full((self._channels, height, high - low), torch.nan)
            pixels[phase] = out
            for start in range(low, high, step or high - low):
                stop = min(start + (step or high - low), high)
                region = Window(top, start * n + phase, height * n,
                                (stop - start) * n)
                if self._plan.looks_at(
                        self._grid, (top, top + height * n),
                        (region.left, region.left + region.width)):
                    self._before = self._pool.submit(
                        self._fill, region, out[..., start - low:stop - low],
                        None if valid is None else valid[:, start:stop],
                        None if self._source.tiled else self._before)
                    reading.append(self._before)
        return Strip(pixels, valid, reading)

    def _fill(self, region: Window, out: Tensor, valid: Tensor | None,
              before: Future | None) -> None:
        if before is not None:  # one file, from top to bottom
            wait([before])
        cells = self._reader.read(region, self._grid.reduction)
        if self._channels:
            out.copy_(cells)
        if valid is not None:
            valid.copy_(self._reader.valid(region, cells))


class SceneRows:
    """All rows of a scene that windows look at.

    Args:
        source: Scene.
        plan: Its windows.
        stop: Band after the last one that is wanted.
        pool: Threads that read.
        bands: Bands of the model.
    """

    def __init__(self, source: Source, plan: Plan, stop: int, pool: Executor,
                 bands: int) -> None:
        self._plan = plan
        #: By view and phase of its first rows.
        self._rows: dict[tuple[ViewGrid, int], Rows] = {}
        native = view_grid(plan.size, 1, plan.size)
        for grid in dict.fromkeys((native, *plan.views)):
            ends: dict[int, int] = {}
            for top in plan.tops[:stop]:
                cell, phase = divmod(top + grid.top, grid.reduction)
                ends[phase] = cell + grid.height
            kept = bands if grid in plan.views else 0
            for phase, end in ends.items():
                self._rows[grid, phase] = Rows(
                    source, plan, grid, phase, end, pool, kept,
                    grid == native)
        #: Native rows, which know which pixels hold something.
        self.native = self._rows[native, 0]

    def cut(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        """Views of windows, local first, each (B, C, *input_size)."""
        plan = self._plan
        views = []
        for grid in plan.views:
            regions = [grid.region(w.top, w.left) for w in windows]
            cells = torch.stack([
                self._rows[grid, region.top % grid.reduction].view(region)
                for region in regions])
            views.append(fit(cells, plan.input_size or plan.size))
        return tuple(views)

    def drop(self, top: int) -> None:
        """Let go of what windows from a native row on do not look at."""
        for (grid, _), rows in self._rows.items():
            rows.drop(top + grid.top)
