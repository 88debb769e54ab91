"""How far overviews are from exact means: GDAL's, and those written here.

    python benchmarks/overviews.py
"""
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from relay_seg.converting.writing import OVERVIEWS, write_image


def exact_mean(image: np.ndarray, k: int) -> np.ndarray:
    """Mean over k x k pixels (C, H, W), over what is there at the edges."""
    sums, counts = image.astype(np.float64), np.ones((1, *image.shape[1:]))
    for axis in (1, 2):
        starts = np.arange(0, image.shape[axis], k)
        sums = np.add.reduceat(sums, starts, axis)
        counts = np.add.reduceat(counts, starts, axis)
    return sums / counts


def errors(path: Path, image: np.ndarray) -> list[str]:
    """Largest and mean difference at each overview."""
    told = []
    for level, k in enumerate(OVERVIEWS):
        with rasterio.open(path, overview_level=level) as raster:
            apart = raster.read() - exact_mean(image, k)
        told.append(f'{np.abs(apart).max():6.2f} {apart.mean():+.3f}')
    return told


def main() -> None:
    warnings.simplefilter('ignore', NotGeoreferencedWarning)
    rng = np.random.default_rng(0)
    print('largest and mean difference at', *(f'{k:11}' for k in OVERVIEWS))
    with tempfile.TemporaryDirectory() as folder:
        for height, width in ((512, 512), (501, 523)):
            image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
            gdal, ours = Path(folder) / 'gdal.tif', Path(folder) / 'ours.tif'
            with rasterio.open(
                    gdal, 'w', driver='GTiff', count=3, height=height,
                    width=width, dtype='uint8', tiled=True) as raster:
                raster.write(image)
                raster.build_overviews(OVERVIEWS, Resampling.average)
            write_image(ours, image)
            for name, path in (('GDAL', gdal), ('here', ours)):
                print(f'{name}, {height} x {width} pixels of noise',
                      *errors(path, image))


if __name__ == '__main__':
    main()
