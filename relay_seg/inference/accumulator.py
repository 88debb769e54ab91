"""Blended logits of the rows that still wait for windows."""
from collections.abc import Sequence

import torch
from torch import Tensor

from relay_seg.views import Window

from .memory import zeros
from .plan import Plan


class Accumulator:
    """Adds windows up as slide inference does, and lets go of bands.

    It holds the bands that windows have begun and not finished, in the order
    and the precision of slide inference, so that sums are the same.

    Args:
        plan: Windows of the scene.
        channels: Channels of the logits.
        start: First band that is wanted.
        stop: Band after the last one.
        device: Where the logits are.
    """

    def __init__(self, plan: Plan, channels: int, start: int, stop: int,
                 device: torch.device) -> None:
        self._plan = plan
        self._channels = channels
        self._start, self._stop = start, stop
        self._device = device
        self._open: dict[int, Tensor] = {}
        # One upload for each axis.
        self._weights = tuple(
            dict(zip(axis, torch.stack(list(axis.values())).to(
                device, torch.float32))) for axis in plan.weights())

    def add(self, windows: Sequence[Window], logits: Tensor) -> None:
        """Add results of windows.

        Args:
            windows: Windows, in the order of the plan.
            logits: (B, channels, height, width) float32.
        """
        height, width = self._plan.size
        down, across = self._weights
        for window, result in zip(windows, logits):
            weight = down[window.top][:, None] * across[window.left]
            right = min(window.left + width, self._plan.shape[1])
            columns = slice(window.left, right)
            first = self._plan.row_of(window.top)
            for band in range(max(first, self._start), self._stop):
                low, high = self._plan.bands[band]
                if low >= window.top + height:
                    break
                high = min(high, window.top + height)
                rows = slice(low - window.top, high - window.top)
                inside = slice(0, right - window.left)
                self._band(band)[:, :high - low, columns].addcmul_(
                    result[:, rows, inside], weight[rows, inside])

    def take(self, band: int) -> Tensor:
        """Logits of a finished band, (channels, rows, width); once only."""
        logits = self._band(band)
        del self._open[band]
        return logits

    def _band(self, band: int) -> Tensor:
        if band not in self._open:
            low, high = self._plan.bands[band]
            self._open[band] = zeros(
                (self._channels, high - low, self._plan.shape[1]),
                torch.float32, self._device)
        return self._open[band]
