"""Exact reductions of rows of pixels by powers of two."""
from collections.abc import Sequence

import numpy as np


def area_means(rows: np.ndarray, factors: Sequence[int],
               nodata: float | None = None) -> list[np.ndarray]:
    """Means over k x k pixels, each from the native pixels.

    Cells at the right and lower edge average the pixels that are there.

    Args:
        rows: Pixels (C, H, W); H is a multiple of every factor, or the rows
            are the last ones of an image.
        factors: 2, 4, 8 and so on.
        nodata: Value that does not count; a cell of nothing else keeps it.

    Returns:
        (C, ceil(H / k), ceil(W / k)) of the type of ``rows`` for each
        factor; whole numbers are rounded once, halves up.
    """
    whole = rows.dtype.kind in 'ui'
    if nodata is None:
        sums, counts = rows, np.ones((1, *rows.shape[1:]), np.uint8)
    else:
        valid = ~np.isnan(rows) if np.isnan(nodata) else rows != nodata
        sums, counts = np.where(valid, rows, 0), valid.astype(np.uint8)
    means = []
    for _ in factors:
        sums = _halve(sums, np.int64 if whole else np.float64)
        counts = _halve(counts, np.int32)
        number = np.maximum(counts, 1)
        if whole:
            mean = (2 * sums + number) // (2 * number)
        else:
            mean = sums / number
        if nodata is not None:
            if whole:
                # A mean that happens to be the value of nothing is something.
                step = 1 if nodata < np.iinfo(rows.dtype).max else -1
                mean = np.where(mean == nodata, mean + step, mean)
            mean = np.where(counts == 0, nodata, mean)
        means.append(mean.astype(rows.dtype))
    return means


def nearest(rows: np.ndarray, factors: Sequence[int]) -> list[np.ndarray]:
    """The pixel in the middle of each cell of k x k pixels.

    Args:
        rows: Pixels (C, H, W), see :func:`area_means`.
        factors: 2, 4, 8 and so on.

    Returns:
        (C, ceil(H / k), ceil(W / k)) for each factor.
    """
    picked = []
    for k in factors:
        down, across = (np.minimum(np.arange(0, size, k) + k // 2, size - 1)
                        for size in rows.shape[1:])
        picked.append(rows[:, down[:, None], across])
    return picked


def _halve(x: np.ndarray, dtype: type) -> np.ndarray:
    """Sums over 2 x 2 pixels (C, H, W), fewer at odd edges."""
    for axis in (1, 2):
        even, odd = (x[(slice(None), ) * axis + (slice(start, None, 2), )]
                     for start in (0, 1))
        total = even.astype(dtype)
        inner = (slice(None), ) * axis + (slice(odd.shape[axis]), )
        total[inner] += odd
        x = total
    return x
