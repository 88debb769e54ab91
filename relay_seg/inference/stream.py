"""Slide inference over blocks of a scene, band by band."""
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .accumulator import Accumulator
from .forward import Forward
from .model import bands_of
from .plan import Block, Plan
from .rows import NativeRows, SceneRows
from .settings import Progress
from .source import Scale, Source

#: Share of a GPU's memory up to which open rows are blended there.
ON_DEVICE = 0.25


@dataclass
class Timer:
    """Seconds that a prediction spends on each kind of work.

    On a GPU these are seconds of its own, between events that are looked at
    when all is done: nobody waits for it to be measured.
    """
    device: torch.device = torch.device('cpu')
    _seconds: Counter = field(default_factory=Counter)
    _events: list[tuple] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str, on_device: bool = True) -> Iterator[None]:
        """Count what is done inside.

        Args:
            name: Kind of work.
            on_device: Whether it is done by the device, or by this thread.
        """
        if on_device and self.device.type == 'cuda':
            start, end = (torch.cuda.Event(enable_timing=True)
                          for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += (  # type: ignore[assignment]
                time.perf_counter() - began)

    @property
    def seconds(self) -> Counter:
        """Seconds by kind; waits for the device."""
        if self._events:
            torch.cuda.synchronize(self.device)
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000
            self._events.clear()
        return self._seconds


@dataclass(frozen=True)
class Band:
    """Finished rows of a block.

    Args:
        block: Block of the scene.
        top: First row, counted in the scene.
        bottom: The row after the last one.
        logits: (channels, rows, width), where rows are blended.
        valid: Where the scene holds something, (rows, width) bool.
    """
    block: Block
    top: int
    bottom: int
    logits: Tensor
    valid: Tensor


def stream(model: SlideEncoderDecoder, source: Source,
           blocks: Iterable[Block], *, threads: int, forward: Forward,
           timer: Timer, advance: Callable[[int], None],
           skip_empty: bool = True) -> Iterator[Band]:
    """Segment some blocks of a scene.

    Rows go to the device as they are in the file, once for each block. Views
    are cut, normalised and reduced there, logits blended there. While a block
    is computed, the first rows of the next one are read.

    Args:
        model: In evaluation mode, on its device.
        source: Scene.
        blocks: Blocks with windows to compute; each is asked for when the
            one before begins.
        threads: Threads that read.
        forward: The model's way from views to logits.
        timer: Keeps the time.
        advance: Called with the number of windows in each batch.
        skip_empty: Leave out windows in which the scene holds nothing.

    Yields:
        Bands of each block in order.
    """
    device = model.data_preprocessor.device
    scale, reader = Scale(bands_of(model), device), source.reader()
    with (ThreadPoolExecutor(threads, thread_name_prefix='read') as pool,
          torch.no_grad()):
        opened = ((block, SceneRows(source, reader, block, pool, device,
                                    scale) if len(block) else None)
                  for block in blocks)
        now = next(opened, None)
        try:
            while now:
                block, rows = now
                now = next(opened, None)
                accumulator = Accumulator(
                    block, model.out_channels,
                    _blend_device(block, model.out_channels, device))
                yield from _bands(
                    block, rows, accumulator, forward, timer, advance,
                    skip_empty)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _bands(block: Block, rows: SceneRows | None, accumulator: Accumulator,
           forward: Forward, timer: Timer, advance: Callable[[int], None],
           skip_empty: bool) -> Iterator[Band]:
    """Bands of a block, of which nothing is left afterwards."""
    waiting = list(enumerate(block.bands))[::-1]

    def finish(until: float) -> Iterator[Band]:
        """Bands that no window from a row on touches."""
        while waiting and waiting[-1][1][1] <= until:
            index, (top, bottom) = waiting.pop()
            valid = rows.native.valid(top, bottom) if rows else torch.zeros(
                bottom - top, block.region.width, dtype=torch.bool)
            yield Band(block, top, bottom, accumulator.take(index), valid)

    for windows in block.batches():
        assert rows
        yield from finish(windows[0].top)
        rows.drop(windows[0].top)
        with timer('reading', on_device=False):
            rows.need(windows[-1].top)
        if not skip_empty or any(
                _holds(rows.native, window, block.plan)
                for window in windows):
            with timer('cutting'):
                views = rows.cut(windows)
            with timer('model'):
                logits = forward(views)
            with timer('blending'):
                accumulator.add(windows, logits)
        advance(len(windows))
    yield from finish(inf)


def _holds(native: NativeRows, window: Window, plan: Plan) -> bool:
    """Whether the scene holds something in a window."""
    bottom = min(window.top + window.height, plan.shape[0])
    right = min(window.left + window.width, plan.shape[1])
    return native.holds(window.top, bottom, window.left, right)


def _blend_device(block: Block, channels: int,
                  device: torch.device) -> torch.device:
    """Where open rows are blended: with the model, if they fit there."""
    if device.type != 'cuda':
        return torch.device('cpu')
    rows = block.plan.size[0] + 2 * block.plan.stride[0]
    total = torch.cuda.get_device_properties(device).total_memory
    fits = 4 * channels * rows * block.region.width < ON_DEVICE * total
    return device if fits else torch.device('cpu')


def counting(name: str, plan: Plan, windows: int,
             progress: Callable[[Progress], None]) -> Callable[[int], None]:
    """From windows done to calls of ``progress``."""
    pixels = plan.shape[0] * plan.shape[1]
    total = pixels * windows // max(len(plan.tops) * len(plan.lefts), 1)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(Progress(name, total * min(done, windows) // max(windows, 1),
                          total))

    return advance
