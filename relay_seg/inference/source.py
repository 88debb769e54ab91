"""What a scene to segment is; one in memory."""
from dataclasses import dataclass
from math import isnan, nan
from typing import Protocol

import numpy as np
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import Tensor

from relay_seg.rasters.reading import LARGEST
from relay_seg.views import Read, Window, crop, valid_mean


@dataclass(frozen=True)
class ModelBands:
    """What a model makes of the bands of a scene.

    Args:
        mean: Mean of each band, (C, 1, 1).
        std: Deviation of each band, (C, 1, 1).
        fill: Value of each band outside the scene, NaN for no data.
        chosen: Bands to read, the first is 1; None for all.
    """
    mean: Tensor
    std: Tensor
    fill: tuple[float, ...]
    chosen: tuple[int, ...] | None = None


class Scale:
    """From pixels of a file to what a model is given, on a device.

    Args:
        bands: What the model makes of the bands.
        device: Where the pixels lie.
    """

    def __init__(self, bands: ModelBands, device: torch.device) -> None:
        self._mean, self._std = bands.mean.to(device), bands.std.to(device)
        #: Each band outside the scene: the mean, 0, or no data.
        self.fill = tuple(nan if isnan(x) else 0. for x in bands.fill)
        self.nothing = torch.zeros(len(self.fill), 0, 0, device=device)

    def __call__(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        """As the data preprocessor does, (C, H, W) float32.

        Args:
            pixels: (C, H, W) of bytes or float32.
            out: Where to write it.
        """
        return torch.sub(pixels, self._mean, out=out).div_(self._std)


class Reader(Protocol):
    """Reads a scene in any number of threads."""

    def native(self, region: Window) -> tuple[Tensor, Tensor]:
        """Pixels of a region inside the scene, and which hold something.

        Returns:
            (C, H, W) uint8 if the source's ``bytes``, else float32 and NaN
            for no data; (H, W) bool.
        """


class Source(Protocol):
    """A scene: its grid and readers of its pixels."""
    name: str
    shape: tuple[int, int]
    crs: CRS | None
    transform: Affine
    block_rows: int
    tiled: bool
    bands: int
    bytes: bool

    def reader(self) -> Reader:
        """A reader with files of its own, read from top to bottom."""


def scene_reader(source: Source, bands: ModelBands) -> Read:
    """Normalised regions of a scene, over the border too: area means.

    Args:
        source: Scene.
        bands: What the model makes of its bands.
    """
    reader, scale = source.reader(), Scale(bands, torch.device('cpu'))

    def read(region: Window, factor: int) -> Tensor:
        top, left = (min(max(x, 0), end) for x, end in zip(
            region[:2], source.shape))
        bottom, right = (
            min(max(start + side, low), end) for start, side, low, end in zip(
                region[:2], region[2:4], (top, left), source.shape))
        pixels = scale.nothing
        if bottom > top and right > left:
            pixels = scale(reader.native(
                Window(top, left, bottom - top, right - left))[0])
        inner = Window(region.top - top, region.left - left, *region[2:4])
        return valid_mean(crop(pixels, inner, scale.fill), factor)

    return read


class ArraySource:
    """An array in memory, or a memory map.

    Args:
        array: (C, H, W); what is masked holds nothing.
        bands: What the model makes of them.
        nodata: Value of pixels that hold nothing, if there is one; NaN and
            infinite numbers never do.

    Raises:
        ValueError: It has another shape, or holds no real numbers.
    """
    name = 'array'
    crs: CRS | None = None
    transform = Affine.identity()
    block_rows = 256
    tiled = True

    def __init__(self, array: np.ndarray, bands: ModelBands,
                 nodata: float | None = None) -> None:
        kind = getattr(array, 'dtype', None)
        if not isinstance(kind, np.dtype):
            raise ValueError(f'array is of the type {type(array).__name__}; '
                             'give one of NumPy, as tensor.numpy() does.')
        if kind.kind not in 'buif':
            raise ValueError(f'array holds {kind}; give real numbers, such as '
                             'amplitudes or intensities of complex ones.')
        if array.ndim != 3 or len(array) != len(bands.fill):
            raise ValueError(
                f'array has the shape {array.shape} but the model takes '
                f'({len(bands.fill)}, height, width); bands come first.')
        self.shape: tuple[int, int] = array.shape[1:]
        self.bands = len(array)
        self._masked = np.ma.is_masked(array)
        self.bytes = (
            kind == np.uint8 and nodata is None and not self._masked)
        self._array, self._nodata = array, nodata

    def reader(self) -> 'ArraySource':
        return self

    def native(self, region: Window) -> tuple[Tensor, Tensor]:
        top, left, height, width, _ = region
        # Only the part in question is read and converted.
        part = self._array[:, top:top + height, left:left + width]
        if self.bytes:
            return (torch.from_numpy(np.array(part)),
                    torch.ones(height, width, dtype=torch.bool))
        pixels = np.array(part, dtype=np.float32)
        if self._nodata is not None:
            pixels[np.asarray(part) == self._nodata] = np.nan
        if self._masked:
            pixels[np.ma.getmaskarray(part)] = np.nan
        if part.dtype.kind == 'f':
            pixels[np.abs(pixels) > LARGEST] = np.nan
        found = torch.from_numpy(pixels)
        return found, ~found.isnan().all(dim=0)
