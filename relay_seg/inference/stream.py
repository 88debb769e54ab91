"""Slide inference over a scene of any size, band by band."""
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .accumulator import Accumulator
from .forward import Forward
from .model import bands_of
from .plan import Plan
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
    """Finished rows of a scene.

    Args:
        index: Number of the band in the plan.
        logits: (channels, rows, width), where rows are blended.
        valid: Where the scene holds something, (rows, width) bool.
    """
    index: int
    logits: Tensor
    valid: Tensor


def stream(model: SlideEncoderDecoder, source: Source, plan: Plan,
           start: int, stop: int, *, threads: int, forward: Forward,
           timer: Timer, advance: Callable[[int], None],
           skip_empty: bool = True) -> Iterator[Band]:
    """Segment some bands of a scene.

    Rows go to the device as they are in the file, once. Views are cut,
    normalised and reduced there, logits blended there.

    Args:
        model: In evaluation mode, on its device.
        source: Scene.
        plan: Its windows.
        start: First band.
        stop: Band after the last one.
        threads: Threads that read.
        forward: The model's way from views to logits.
        timer: Keeps the time.
        advance: Called with the number of windows in each batch.
        skip_empty: Leave out windows in which the scene holds nothing.

    Yields:
        Bands in order.
    """
    device = model.data_preprocessor.device
    accumulator = Accumulator(
        plan, model.out_channels, start, stop,
        _blend_device(plan, model.out_channels, device))
    scale = Scale(bands_of(model), device)
    batches = list(plan.batches(start, stop))
    tops = sorted({window.top for batch in batches for window in batch})
    done = start

    def finish(until: int, native: NativeRows | None) -> Iterator[Band]:
        nonlocal done
        for index in range(done, until):
            low, high = plan.bands[index]
            valid = native.valid(low, high) if native else torch.zeros(
                high - low, plan.shape[1], dtype=torch.bool)
            yield Band(index, accumulator.take(index), valid)
        done = max(done, until)

    if not batches:
        yield from finish(stop, None)
        return
    with (ThreadPoolExecutor(threads, thread_name_prefix='read') as pool,
          torch.no_grad()):
        rows = SceneRows(source, plan, tops, pool, device, scale)
        try:
            for windows in batches:
                yield from finish(
                    min(plan.row_of(windows[0].top), stop), rows.native)
                rows.drop(windows[0].top)
                with timer('reading', on_device=False):
                    rows.need(windows[-1].top)
                if not skip_empty or any(
                        _holds(rows.native, window, plan)
                        for window in windows):
                    with timer('cutting'):
                        views = rows.cut(windows)
                    with timer('model'):
                        logits = forward(views)
                    with timer('blending'):
                        accumulator.add(windows, logits)
                advance(len(windows))
            yield from finish(stop, rows.native)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _holds(native: NativeRows, window: Window, plan: Plan) -> bool:
    """Whether the scene holds something in a window."""
    bottom = min(window.top + window.height, plan.shape[0])
    right = min(window.left + window.width, plan.shape[1])
    return native.holds(window.top, bottom, window.left, right)


def _blend_device(plan: Plan, channels: int,
                  device: torch.device) -> torch.device:
    """Where open rows are blended: with the model, if they fit there."""
    if device.type != 'cuda':
        return torch.device('cpu')
    rows = plan.size[0] + 2 * plan.stride[0]
    total = torch.cuda.get_device_properties(device).total_memory
    fits = 4 * channels * rows * plan.shape[1] < ON_DEVICE * total
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
