"""Raw files, opened with the checks that keep surprises out of the data."""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from relay_seg.rasters import grid_of, open_raster, readable


@contextmanager
def open_source(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raw file.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It holds no pixel, or see :func:`open_raster`.
    """
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist; complete the raw folder.')
    try:
        path.open('rb').close()
    except OSError as error:
        raise type(error)(
            f'{path} cannot be read ({error.strerror}); change its '
            'permissions.') from error
    if not path.stat().st_size:
        raise ValueError(f'{path} is empty; download it again.')
    with open_raster(path) as raster:
        if not raster.height or not raster.width:
            raise ValueError(f'{path} has {raster.height} x {raster.width} '
                             'pixels; replace it.')
        yield raster


def read_rows(raster: rasterio.DatasetReader, top: int, height: int,
              width: int, left: int = 0) -> np.ndarray:
    """All bands (C, height, width) from row ``top`` on."""
    with readable(raster.name):
        return raster.read(window=Window(left, top, width, height))


@contextmanager
def open_image(path: Path) -> Iterator['ColourImage']:
    """Open an image of red, green and blue, see :class:`ColourImage`."""
    with open_source(path) as raster:
        yield ColourImage(path, raster)


class ColourImage:
    """An image of red, green and blue with 8 bits each, read in rows.

    Args:
        path: The file, for messages.
        raster: The open file; a fourth band may be an opaque alpha channel,
            which is left out.
    """

    count = 3
    dtype = 'uint8'

    def __init__(self, path: Path, raster: rasterio.DatasetReader) -> None:
        kinds = set(raster.dtypes)
        if kinds != {'uint8'}:
            raise ValueError(
                f'{path} has bands of {", ".join(kinds)}; 8 bits are '
                'expected, and cutting the others is not for a converter to '
                'decide. Scale the file to 8 bits yourself.')
        has_alpha = raster.colorinterp[-1] == ColorInterp.alpha
        if raster.count - has_alpha != 3:
            raise ValueError(
                f'{path} has {raster.count} band(s); red, green and blue are '
                'expected. Convert it to RGB.')
        if len(set(raster.nodatavals[:3])) > 1:
            raise ValueError(
                f'{path} has the values {raster.nodatavals[:3]} for no data; '
                'one for all bands is expected. Write it with one.')
        self.path = path
        self.grid = grid_of(raster)
        self.nodata = raster.nodata
        self._masked = not has_alpha and any(
            MaskFlags.per_dataset in f for f in raster.mask_flag_enums)
        self._raster = raster

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """Pixels (3, height, width) from row ``top`` on."""
        pixels = read_rows(self._raster, top, height, width)
        opaque = pixels[3:]
        if self._masked:
            with readable(self.path):
                opaque = self._raster.dataset_mask(
                    window=Window(0, top, width, height))
        if (opaque != 255).any():
            raise ValueError(
                f'{self.path} is transparent in places; flatten it to RGB.')
        return pixels[:3]
