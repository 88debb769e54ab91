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
    bands = [_band_means(band, factors, nodata) for band in rows]
    return [np.stack(means) for means in zip(*bands)]


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


def _band_means(band: np.ndarray, factors: Sequence[int],
                nodata: float | None) -> list[np.ndarray]:
    """:func:`area_means` of one band (H, W)."""
    whole = band.dtype.kind in 'ui'
    if nodata is None:
        sums, counts = band, np.ones(band.shape, np.uint8)
    else:
        valid = ~np.isnan(band) if np.isnan(nodata) else band != nodata
        sums, counts = np.where(valid, band, 0), valid
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
                step = 1 if nodata < np.iinfo(band.dtype).max else -1
                mean = np.where(mean == nodata, mean + step, mean)
            mean = np.where(counts == 0, nodata, mean)
        means.append(mean.astype(band.dtype))
    return means


def _halve(x: np.ndarray, dtype: type) -> np.ndarray:
    """Sums over 2 x 2 pixels (H, W), fewer at odd edges."""
    total: np.ndarray = x[::2].astype(dtype)
    total[:x.shape[0] // 2] += x[1::2]
    x = total
    total = x[:, ::2].copy()
    total[:, :x.shape[1] // 2] += x[:, 1::2]
    return total
