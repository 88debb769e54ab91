"""Geometry of views: where a window lies and what a view of it shows.

Everything here is pure. Training and inference cut their views with these
functions only, so that a model is tested on what it was trained on.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Views = tuple[Tensor, ...]  # local first, then wider and wider
Pyramid = tuple[Tensor, ...]  # feature maps, fine to coarse
Image = TypeVar('Image', np.ndarray, Tensor)  # (..., H, W)
Item = TypeVar('Item')
#: Pixels of a region, over the border too, reduced by a factor: area means.
Read = Callable[['Window', int], Image]

BLENDS = ('mean', 'gaussian', 'center')


class Window(NamedTuple):
    """A local region in native pixels; may reach over the border.

    Args:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        angle: Rotation of the region about its centre, in degrees,
            counter-clockwise as seen on the image.
    """
    top: int
    left: int
    height: int
    width: int
    angle: float = 0.


def as_size(sides: Sequence[int]) -> tuple[int, int]:
    """Height and width, which a config may hold as a list."""
    height, width = sides
    return height, width


def in_proportion(lengths: tuple[int, int], old: tuple[int, int],
                  new: tuple[int, int]) -> tuple[int, int]:
    """Lengths that belong to a window of one size, for one of another."""
    height, width = (max(round(length * after / before), 1)
                     for length, before, after in zip(lengths, old, new))
    return height, width


def surroundings(window: Window, factor: int) -> Window:
    """The region a global view shows: same centre, ``factor`` times as wide.

    If ``(factor - 1) * size`` is odd the centre moves down or right by half
    a native pixel.

    Args:
        window: Local window.
        factor: Context factor k, an integer >= 1.
    """
    if factor < 1 or int(factor) != factor:
        raise ValueError(f'context factor {factor} is not an integer >= 1.')
    return Window(window.top - (factor - 1) * window.height // 2,
                  window.left - (factor - 1) * window.width // 2,
                  factor * window.height, factor * window.width, window.angle)


class Context(NamedTuple):
    """What a view shows, beside the local view of the same window.

    Args:
        factor: Its extent over that of the window, k.
        reduction: Side of its pixels over that of a local one. As large as
            the factor it has as many pixels as the local view, twice as
            large half as many along each side.
    """
    factor: int = 1
    reduction: int = 1

    def size(self, local: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels, from those of the local view."""
        height, width = (self.factor * side / self.reduction for side in local)
        if height % 1 or width % 1:
            raise ValueError(
                f'a global view {self.factor} times as wide as '
                f'{local[0]} x {local[1]} pixels has no whole number of '
                f'pixels {self.reduction} times as coarse; use another of '
                'context_reductions.')
        return int(height), int(width)


#: The local view itself.
LOCAL = Context()


def view_sizes(local: tuple[int, int],
               contexts: Sequence[Context]) -> list[tuple[int, int]]:
    """Height and width of each view in pixels, the local one first."""
    return [context.size(local) for context in (LOCAL, *contexts)]


def contexts_of(factors: Sequence[int],
                reductions: Sequence[int] | None = None
                ) -> tuple[Context, ...]:
    """The global views of a config, from narrow to wide.

    Args:
        factors: Context factor of each, increasing.
        reductions: Reduction of each; as large as the factors by default.
    """
    factors = tuple(factors)
    reductions = factors if reductions is None else tuple(reductions)
    if (list(factors) != sorted(set(factors)) or min(factors, default=1) < 1
            or any(int(k) != k for k in factors)):
        raise ValueError(f'context_factors={factors} are not whole numbers '
                         'that increase from at least 1, narrow to wide.')
    if len(reductions) != len(factors) or min(reductions, default=1) < 1 or (
            any(int(r) != r for r in reductions)):
        raise ValueError(
            f'context_reductions={reductions} are not one whole number of at '
            f'least 1 for each of context_factors={factors}.')
    return tuple(map(Context, factors, reductions))


class ViewGrid(NamedTuple):
    """Cells of native pixels in which the same view of any window is read.

    A view is read in cells of ``reduction`` x ``reduction`` native pixels,
    as many as are whole, and then fitted to the size that the model takes.

    Args:
        top: First row, counted from the first row of the window.
        left: First column, likewise.
        height: Rows of cells.
        width: Columns of cells.
        reduction: Native pixels under a cell, along one axis.
    """
    top: int
    left: int
    height: int
    width: int
    reduction: int

    def region(self, top: int, left: int) -> Window:
        """Native pixels of the view of a window that begins there."""
        return Window(top + self.top, left + self.left,
                      self.height * self.reduction,
                      self.width * self.reduction)


def view_grid(size: tuple[int, int], context: Context,
              input_size: tuple[int, int]) -> ViewGrid:
    """How one view of windows is read.

    Where a pixel of the view is a whole number of native pixels wide, so is
    a cell: the view is then an exact area mean.

    Args:
        size: Height and width of a window in native pixels.
        context: Which view.
        input_size: Height and width of the local view in pixels.
    """
    region = surroundings(Window(0, 0, *size), context.factor)
    height, width = context.size(input_size)
    reduction = max(min(region.height // height, region.width // width), 1)
    while region.height % reduction or region.width % reduction:
        reduction -= 1
    return ViewGrid(region.top, region.left, region.height // reduction,
                    region.width // reduction, reduction)


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of windows that cover one axis, the last one inside.

    Args:
        length: Pixels of the axis; shorter than ``size`` gives one window
            that starts at 0 and reaches over the border.
        size: Pixels of a window.
        stride: Step between windows, 1 to ``size``.
    """
    if not 1 <= stride <= size:
        raise ValueError(f'stride={stride} leaves pixels uncovered or does '
                         f'not move; use 1 to the window size, {size}.')
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def plan_windows(shape: tuple[int, int], size: tuple[int, int],
                 stride: tuple[int, int]) -> list[Window]:
    """Windows that cover every pixel of a scene, row by row.

    Args:
        shape: Height and width of the scene in pixels.
        size: Height and width of a window.
        stride: Vertical and horizontal step between windows.
    """
    return [
        Window(top, left, *size)
        for top in window_starts(shape[0], size[0], stride[0])
        for left in window_starts(shape[1], size[1], stride[1])
    ]


def blend_weights(length: int, size: int, stride: int,
                  blend: str) -> dict[int, Tensor]:
    """How much each window counts along one axis.

    A pixel of a window weighs the product of its two axes' weights. The
    weights of all windows over a pixel of the scene add up to one, so that
    results can be summed without a second pass.

    Args:
        length: Pixels of the axis.
        size: Pixels of a window.
        stride: Step between windows.
        blend: ``mean`` (all alike), ``gaussian`` (deviation an eighth of the
            window), ``center`` (each pixel from the window whose centre is
            nearest).

    Returns:
        Weights, (size,) float64, by first pixel of the window.
    """
    if blend not in BLENDS:
        raise ValueError(f'blend={blend!r} is unknown; use one of {BLENDS}.')
    starts = window_starts(length, size, stride)
    offset = torch.arange(size, dtype=torch.float64) + 0.5
    if blend == 'center':
        between = [(a + b + size) / 2 for a, b in zip(starts, starts[1:])]
        edges = [float('-inf'), *between, float('inf')]
        return {
            start: ((start + offset > low) & (start + offset <= high)).double()
            for start, low, high in zip(starts, edges, edges[1:])
        }
    profile = torch.ones_like(offset)
    if blend == 'gaussian':
        profile = torch.exp(-0.5 * ((offset / size - 0.5) * 8)**2)
    total = torch.zeros(max(length, size), dtype=torch.float64)
    for start in starts:
        total[start:start + size] += profile
    return {start: profile / total[start:start + size] for start in starts}


def crop(image: Image, window: Window, fill: float | Sequence[float]) -> Image:
    """Pixels of a region, also beyond the border.

    Args:
        image: (..., H, W).
        window: Region in native pixels; its angle is not looked at.
        fill: Value outside the image; a sequence gives one for each band of
            an image (C, H, W).

    Returns:
        (..., window.height, window.width): a view of the image where the
        region lies inside, else a copy.
    """
    height, width = image.shape[-2:]
    top, left = max(window.top, 0), max(window.left, 0)
    bottom = min(window.top + window.height, height)
    right = min(window.left + window.width, width)
    inside = image[..., top:max(bottom, top), left:max(right, left)]
    if inside.shape[-2:] == (window.height, window.width):
        return inside
    shape = (*image.shape[:-2], window.height, window.width)
    out = (image.new_empty(shape) if isinstance(image, Tensor)
           else np.empty(shape, image.dtype))
    if isinstance(fill, Sequence):  # each written where it belongs: no upload
        for band, value in enumerate(fill):
            out[..., band, :, :] = value
    else:
        out[...] = fill
    y, x = top - window.top, left - window.left
    out[..., y:y + inside.shape[-2], x:x + inside.shape[-1]] = inside
    return out


def area_mean(image: Image, factor: int) -> Image:
    """Mean over blocks of ``factor`` x ``factor`` pixels, in floating point.

    Args:
        image: (..., k*H, k*W).
        factor: k.

    Returns:
        (..., H, W); every pixel of the image counts once.
    """
    if isinstance(image, np.ndarray):
        return area_mean(torch.from_numpy(image), factor).numpy()
    image = image if image.is_floating_point() else image.float()
    if factor == 1:
        return image
    lead = image.shape[:-2]
    flat = image.reshape(1, -1, *image.shape[-2:])
    out = F.avg_pool2d(flat, factor)
    return out.reshape(*lead, *out.shape[-2:])


def valid_mean(image: Image, factor: int) -> Image:
    """As :func:`area_mean`, but NaN, no data, does not count.

    A block of nothing else stays NaN.
    """
    if isinstance(image, np.ndarray):
        return valid_mean(torch.from_numpy(image), factor).numpy()
    mean = area_mean(image, factor)
    # To look for NaN, a GPU would have to be waited for.
    if factor == 1 or not (image.is_cuda or mean.isnan().any()):
        return mean
    share = area_mean((~image.isnan()).to(mean.dtype), factor)
    return area_mean(image.nan_to_num(0.), factor) / share


def fit(image: Image, size: tuple[int, int]) -> Image:
    """An image at another size; NaN, no data, does not count.

    Bilinear where it grows, and where it shrinks a mean with bilinear
    weights over all pixels below (antialiased).

    Args:
        image: (..., H, W), in floating point.
        size: Height and width of the result.

    Returns:
        (..., *size); NaN where there is nothing but no data. An image of
        this size is given back as it is.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if isinstance(image, np.ndarray):
        return fit(torch.from_numpy(image), size).numpy()
    flat = image.reshape(1, -1, *image.shape[-2:])
    known = ~flat.isnan()
    total, share = (
        F.interpolate(x, size, mode='bilinear', align_corners=False,
                      antialias=True)
        for x in (flat.where(known, 0.), known.to(flat.dtype)))
    out = torch.where(share > 0, total / share, torch.nan)
    return out.reshape(*image.shape[:-2], *size)


def reader(image: Image, fill: float | Sequence[float]) -> Read:
    """Regions of an image in memory, for the functions below.

    Args:
        image: (..., H, W).
        fill: Value outside, see :func:`crop`.
    """

    def read(region: Window, factor: int) -> Image:
        pixels = crop(image, region, fill)
        return pixels if factor == 1 else valid_mean(pixels, factor)

    return read


def cut_views(read: Read, window: Window, contexts: Sequence[Context],
              size: tuple[int, int] | None = None) -> tuple[Image, ...]:
    """The local view of an upright window and its global views.

    Args:
        read: Gives the pixels of a region, reduced by a factor.
        window: Local window, angle 0.
        contexts: The global views, narrow to wide.
        size: Height and width of the local view; those of the window by
            default.

    Returns:
        Local view (..., *size), then the global views, each
        (..., *context.size(size)), in floating point. A view whose pixels
        are a whole number of native pixels wide is the area mean of its
        region (Relay Tokens, TMLR 2026); see :func:`fit` for others.
    """
    size = size or window[2:4]
    views = []
    for context in (LOCAL, *contexts):
        grid = view_grid(window[2:4], context, size)
        cells = read(grid.region(window.top, window.left), grid.reduction)
        views.append(fit(area_mean(cells, 1), context.size(size)))
    return tuple(views)


def center(image: Image, factor: int) -> Image:
    """The part of a global view that its local view shows.

    Args:
        image: Pixels of a global view, (..., H, W), however coarse.
        factor: Context factor k of that view.

    Returns:
        (..., H / k, W / k).
    """
    height, width = image.shape[-2:]
    for size in (height, width):
        if size % factor or (size - size // factor) % 2:
            step = factor * (2 - factor % 2)
            raise ValueError(
                f'the centre of a {height} x {width} global view with context '
                f'factor {factor} does not fall on whole pixels; use a window '
                f'whose sides are multiples of {step}.')
    h, w = height // factor, width // factor
    y, x = (height - h) // 2, (width - w) // 2
    return image[..., y:y + h, x:x + w]


def resample(read: Read, window: Window, size: tuple[int, int], *,
             smooth: bool) -> np.ndarray:
    """A region of any size and angle as a grid of ``size`` pixels.

    Where a grid pixel is at least n = 2, 4, 8, ... native pixels wide, the
    region is first reduced by n, so that detail does not alias.

    Args:
        read: Gives the pixels (C, H, W) of an upright region, reduced by a
            factor.
        window: Region in native pixels, with its angle.
        size: Height and width of the result.
        smooth: Bilinear interpolation after reduction, for images; else the
            nearest native pixel, for labels.

    Returns:
        (C, *size): float32 if ``smooth``, else the type that ``read`` gives.
    """
    scale = window.height / size[0], window.width / size[1]
    reduce = 2**int(np.log2(max(min(scale), 1))) if smooth else 1
    box = _bounding_box(window, margin=2 * reduce, multiple=reduce)
    pixels = read(box, reduce)
    if smooth:
        pixels = pixels.astype(np.float32, copy=False)

    # From pixel indices of the result to those of ``pixels``.
    cos, sin = np.cos(np.deg2rad(window.angle)), np.sin(
        np.deg2rad(window.angle))
    linear = np.array([[cos, sin], [-sin, cos]]) * (scale[1], scale[0])
    middle = np.array([
        window.left + window.width / 2 - box.left,
        window.top + window.height / 2 - box.top
    ])
    grid_middle = np.array([size[1] / 2, size[0] / 2])
    shift = (middle + linear @ (0.5 - grid_middle)) / reduce - 0.5
    matrix = np.column_stack([linear / reduce, shift])
    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return np.stack([
        cv2.warpAffine(
            np.ascontiguousarray(band),
            matrix,
            size[::-1],
            flags=how | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE) for band in pixels
    ])


def points_of(window: Window, number: int) -> np.ndarray:
    """Places spread over a window, its edges and corners among them.

    Args:
        window: Region in native pixels, with its angle.
        number: Points along each side, 2 or more; odd for one in the centre.

    Returns:
        Row and column, (number * number, 2).
    """
    steps = np.linspace(-0.5, 0.5, number)
    y, x = (grid.ravel() for grid in np.meshgrid(
        steps * window.height, steps * window.width, indexing='ij'))
    cos, sin = np.cos(np.deg2rad(window.angle)), np.sin(
        np.deg2rad(window.angle))
    # As in resample.
    return np.column_stack([
        window.top + window.height / 2 - sin * x + cos * y,
        window.left + window.width / 2 + cos * x + sin * y])


def _bounding_box(window: Window, margin: int, multiple: int) -> Window:
    """Upright box around a rotated region, on a grid of ``multiple``."""
    cos = abs(np.cos(np.deg2rad(window.angle)))
    sin = abs(np.sin(np.deg2rad(window.angle)))
    height = window.height * cos + window.width * sin
    width = window.width * cos + window.height * sin
    starts = (window.top + (window.height - height) / 2,
              window.left + (window.width - width) / 2)
    top, left = (
        int(np.floor((start - margin) / multiple)) * multiple
        for start in starts)
    bottom, right = (
        int(np.ceil((start + side + margin) / multiple) + 1) * multiple
        for start, side in zip(starts, (height, width)))
    return Window(top, left, bottom - top, right - left)


def batched(items: Sequence[Item],
            batch_size: int) -> Iterator[Sequence[Item]]:
    """Groups of ``batch_size`` items, the last one perhaps smaller."""
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size}; use 1 or more.')
    for i in range(0, len(items), batch_size):
        yield items[i:i + batch_size]
