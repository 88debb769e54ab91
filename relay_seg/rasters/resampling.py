"""Pixels of another size, made of those of a file."""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import ceil, floor, nan

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

from relay_seg.views import Window

#: Pixels lie on it; any plane will do.
PLANE = CRS.from_epsg(3857)


@dataclass(frozen=True)
class Rescaling:
    """Pixels of another size: the mean where larger, else bilinear.

    What holds no data does not count: whatever marks it, it is marked in the
    pixels before they are resampled.

    Args:
        place: From pixels of another size to those of the file.
        shape: Height and width of the file.
        nodata: What marks no data; None if all is data.
    """
    place: Affine
    shape: tuple[int, int]
    nodata: float | None = nan

    @property
    def method(self) -> Resampling:
        """How it is done."""
        return (Resampling.average if abs(self.place.determinant) > 1
                else Resampling.bilinear)

    def under(self, region: Window) -> Window:
        """Pixels of the file that a region is made of, one at least.

        Some more at each side: what is interpolated looks there.
        """
        top, left, height, width, _ = region
        a, b, _, d, e, _ = self.place[:6]
        more = ceil(max(abs(a) + abs(b), abs(d) + abs(e))) + 1
        xs, ys = zip(*(self.place @ corner for corner in product(
            (left, left + width), (top, top + height))))
        (y, bottom), (x, right) = (
            (min(max(floor(min(axis)) - more, 0), side - 1),
             max(min(ceil(max(axis)) + more, side), 1))
            for axis, side in zip((ys, xs), self.shape))
        return Window(y, x, max(bottom - y, 1), max(right - x, 1))

    def read(self, region: Window,
             native: Callable[[Window], np.ndarray]) -> np.ndarray:
        """A region, no data where it reaches over the file.

        Args:
            region: Region; its angle is not looked at.
            native: Reads a region inside the file, (C, H, W).

        Returns:
            (C, region.height, region.width), of the type of the file's.
        """
        under = self.under(region)
        pixels = native(under)
        out = np.full((len(pixels), *region[2:4]), self.nodata or 0,
                      pixels.dtype)
        planes = dict(
            src_crs=PLANE, dst_crs=PLANE, resampling=self.method,
            src_transform=Affine.translation(under.left, under.top),
            dst_transform=self.place @ Affine.translation(
                region.left, region.top))
        if self.nodata is None or not (
                np.isnan(pixels) if np.isnan(self.nodata)
                else pixels == self.nodata).any():
            reproject(pixels, out, init_dest_nodata=False, **planes)
            return out
        # Band by band: together, GDAL takes for data what one of them has.
        for source, target in zip(pixels, out):
            reproject(source, target, src_nodata=self.nodata,
                      dst_nodata=self.nodata, **planes)
        return out
