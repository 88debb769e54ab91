"""Blended logits of the rows of a block that still wait for windows."""
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor

from relay_seg.views import Window

from .memory import zeros
from .plan import Block


class Accumulator:
    """Adds windows up as slide inference does, and lets go of bands.

    It holds the bands that windows have begun and not finished, in the order
    and the precision of slide inference, so that sums are the same.

    Args:
        block: Windows of the block.
        channels: Channels of the logits.
        device: Where the logits are.
    """

    def __init__(self, block: Block, channels: int,
                 device: torch.device) -> None:
        self._block = block
        self._channels = channels
        self._device = device
        self._open: dict[int, Tensor] = {}
        # One upload for each axis.
        self._weights = tuple(
            dict(zip(starts, torch.stack([axis[i] for i in starts]).to(
                device, torch.float32)))
            for starts, axis in zip((block.tops, block.lefts),
                                    block.plan.weights))

    def add(self, windows: Sequence[Window], logits: Tensor) -> None:
        """Add results of windows.

        Args:
            windows: Windows, in the order of the plan.
            logits: (B, channels, height, width) float32.
        """
        height, width = self._block.plan.size
        _, left, _, across, _ = self._block.region
        bands = self._block.bands
        down, along = self._weights
        for window, result in zip(windows, logits):
            weight = down[window.top][:, None] * along[window.left]
            low = max(window.left, left)
            high = min(window.left + width, left + across)
            inside = slice(low - window.left, high - window.left)
            columns = slice(low - left, high - left)
            first = bisect_right(bands, window.top, key=itemgetter(1))
            for band in range(first, len(bands)):
                top, bottom = bands[band]
                if top >= window.top + height:
                    break
                bottom = min(bottom, window.top + height)
                rows = slice(max(top, window.top) - window.top,
                             bottom - window.top)
                self._band(band)[:, max(window.top - top, 0):bottom - top,
                                 columns].addcmul_(
                    result[:, rows, inside], weight[rows, inside])

    def take(self, band: int) -> Tensor:
        """Logits of a finished band, (channels, rows, width); once only."""
        logits = self._band(band)
        del self._open[band]
        return logits

    def _band(self, band: int) -> Tensor:
        if band not in self._open:
            low, high = self._block.bands[band]
            self._open[band] = zeros(
                (self._channels, high - low, self._block.region.width),
                torch.float32, self._device)
        return self._open[band]
