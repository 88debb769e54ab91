"""Does a file compute what its model computes?"""
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relay_seg.inference.model import bands_of
from relay_seg.inference.raster_source import RasterSource
from relay_seg.inference.source import scene_reader
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import (
    Views,
    batched,
    cut_views,
    plan_windows,
    view_sizes,
)

#: From views to one map for each class, (B, C, H, W).
Segment = Callable[[Views], Tensor]


@dataclass(frozen=True)
class Comparison:
    """How far two computations are apart.

    Args:
        windows: Windows that were compared.
        max_difference: Largest difference of a logit (or probability).
        mean_difference: Mean difference.
        agreement: Share of pixels of the same class.
        scale: Largest value of the first one.
    """
    windows: int
    max_difference: float
    mean_difference: float
    agreement: float
    scale: float

    def __str__(self) -> str:
        return (f'largest difference {self.max_difference:.2e}, mean '
                f'{self.mean_difference:.2e}, of values up to '
                f'{self.scale:.3g}; the same class at '
                f'{100 * self.agreement:.4f} % of pixels '
                f'({self.windows} windows)')


def compare(expected: Segment, found: Segment,
            batches: Sequence[Views]) -> Comparison:
    """Run both on the same windows.

    Args:
        expected: The reference.
        found: The other.
        batches: Views of some windows each, normalised.
    """
    windows = pixels = values = same = 0
    largest = total = scale = 0.
    for views in batches:
        with torch.no_grad():
            a, b = expected(views), found(views)
        if a.shape != b.shape:
            raise ValueError(f'the model gives {tuple(a.shape)}, the file '
                             f'{tuple(b.shape)}.')
        difference = (a - b).abs()
        if not difference.isfinite().all():
            raise ValueError('the model or the file gives values that are '
                             'not finite.')
        largest = max(largest, difference.max().item())
        total += difference.double().sum().item()
        scale = max(scale, a.abs().max().item())
        classes = [(x > 0 if x.shape[1] == 1 else x.argmax(1, keepdim=True))
                   for x in (a, b)]
        same += int((classes[0] == classes[1]).sum())
        pixels += classes[0].numel()
        values += difference.numel()
        windows += len(a)
    return Comparison(windows, largest, total / values, same / pixels, scale)


def noise(model: SlideEncoderDecoder,
          size: tuple[int, int]) -> list[Views]:
    """Batches of one and of three windows as views of a size, with holes."""
    generator = torch.Generator().manual_seed(0)
    bands = len(model.data_preprocessor.mean)
    batches = []
    for batch in (1, 3):
        views = [torch.randn(batch, bands, *each, generator=generator)
                 for each in view_sizes(size, model.contexts)]
        for view in views:
            view[-1, :, :view.shape[2] // 4] = torch.nan
        batches.append(tuple(views))
    return batches


def windows_of(images: Sequence[str | Path], model: SlideEncoderDecoder,
               window: tuple[int, int], number: int,
               input_size: tuple[int, int] | None = None) -> list[Views]:
    """Batches of views of windows that lie evenly over images.

    Args:
        images: Rasters.
        model: Segmentor whose views they become.
        window: Height and width of a window.
        number: Windows in all, at most.
        input_size: Height and width of its views; those of the window by
            default.
    """
    bands = bands_of(model)
    each = max(number // len(images), 1)
    batches = []
    for image in images:
        source = RasterSource([image], bands)
        read = scene_reader(source, bands)
        windows = plan_windows(source.shape, window, window)
        # The middle of as many runs of windows.
        chosen = sorted({int((i + 0.5) * len(windows) / each)
                         for i in range(each)})
        views = [cut_views(read, windows[i], model.contexts, input_size)
                  for i in chosen]
        for group in batched(views, 4):
            batches.append(tuple(torch.stack(view) for view in zip(*group)))
    return batches


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """A model in evaluation mode, then as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
