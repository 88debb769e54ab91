"""Slide inference over a scene of any size, band by band."""
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views, Window

from .accumulator import Accumulator
from .plan import Plan
from .prefetch import ahead
from .rows import SceneRows
from .settings import Progress
from .source import Source

DEPTH = 4  # batches that wait for the model
#: Share of a GPU's memory up to which open rows are blended there.
ON_DEVICE = 0.25


@dataclass
class Timer:
    """Seconds that a prediction waits for each kind of work."""
    device: torch.device = torch.device('cpu')
    seconds: Counter = field(default_factory=Counter)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)
        finally:
            self.seconds[name] += time.perf_counter() - start


@dataclass(frozen=True)
class Band:
    """Finished rows of a scene.

    Args:
        index: Number of the band in the plan.
        logits: (channels, rows, width).
        valid: Where the scene holds something, (rows, width) bool.
    """
    index: int
    logits: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Step:
    """Bands that are finished, then windows to go on with."""
    finished: Sequence[tuple[int, Tensor]]
    windows: Sequence[Window] = ()
    views: Views | None = None  # None: nothing but no data


def stream(model: SlideEncoderDecoder, source: Source, plan: Plan,
           start: int, stop: int, *, threads: int,
           amp: torch.dtype | None, timer: Timer,
           advance: Callable[[int], None]) -> Iterator[Band]:
    """Segment some bands of a scene.

    Args:
        model: In evaluation mode, on its device.
        source: Scene.
        plan: Its windows.
        start: First band.
        stop: Band after the last one.
        threads: Threads that read.
        amp: Type to compute the model in, None for float32.
        timer: Keeps the time.
        advance: Called with the number of windows in each batch.

    Yields:
        Bands in order.
    """
    device = model.data_preprocessor.device
    accumulator = Accumulator(
        plan, model.out_channels, start, stop,
        _blend_device(plan, model.out_channels, device))
    steps = ahead(_steps(model, source, plan, start, stop, threads), DEPTH)
    with closing(steps), torch.no_grad():
        while True:
            with timer('reading'):
                step = next(steps, None)
            if step is None:
                return
            for index, valid in step.finished:
                yield Band(index, accumulator.take(index), valid)
            if step.views is not None:
                with timer('model'):
                    views = tuple(view.to(device, non_blocking=True)
                                  for view in step.views)
                    with (torch.autocast(device.type, amp) if amp
                          else nullcontext()):
                        logits = model.window_logits(views, plan.size)
                    logits = logits.float()
                with timer('blending'):
                    accumulator.add(step.windows, logits)
            advance(len(step.windows))


def _steps(model: SlideEncoderDecoder, source: Source, plan: Plan, start: int,
           stop: int, threads: int) -> Iterator[Step]:
    """What to do one after the other, in a thread of its own."""
    pin = model.data_preprocessor.device.type == 'cuda'
    bands = len(model.data_preprocessor.mean)
    width = plan.shape[1]
    with ThreadPoolExecutor(threads, thread_name_prefix='read') as pool:
        rows = SceneRows(source, plan, stop, pool, bands)
        native = rows.native
        done = start

        def finish(until: int) -> list[tuple[int, Tensor]]:
            nonlocal done
            finished = []
            for index in range(done, until):
                low, high = plan.bands[index]
                valid = native.valid(low, high - low, 0, width)
                finished.append((index, valid))
            done = max(done, until)
            return finished

        try:
            for windows in plan.batches(start, stop):
                top = windows[0].top
                finished = finish(min(plan.row_of(top), stop))
                rows.drop(top)
                views = rows.cut(windows)
                if not any(native.valid(*_inside(w, plan)).any()
                           for w in windows):
                    views = None
                elif pin:
                    views = tuple(view.pin_memory() for view in views)
                yield Step(finished, windows, views)
            yield Step(finish(stop))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _inside(window: Window, plan: Plan) -> tuple[int, int, int, int]:
    """Top, height, left and width of what a window shows of the scene."""
    height = min(window.height, plan.shape[0] - window.top)
    width = min(window.width, plan.shape[1] - window.left)
    return window.top, height, window.left, width


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
