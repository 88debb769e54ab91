"""Time and memory of converting one large parcel of Archaeoscape.

    python benchmarks/converting.py --height 30000 --width 40000

Makes up the raw folder first (5 GB at that size) in the temporary folder.
"""
import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).parents[1] / 'data_prep'))

import archaeoscape

from relay_seg.converting.archaeoscape import KINDS
from relay_seg.rasters.writing import strips

NAME = '01_olinda'
CRS = 'EPSG:32648'
PLACE = Affine(0.5, 0, 400000, 0, -0.5, 1500000)
FEATURES = 3000


def make_raster(path: Path, count: int, dtype: str, height: int,
                width: int) -> None:
    """Blocks and noise, so that it compresses like a photograph."""
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    blocks = rng.uniform(60, 200, (count, 300, -(-width // 16)))
    blocks = blocks.astype(np.float32)
    with rasterio.open(
            path, 'w', driver='GTiff', count=count, height=height,
            width=width, dtype=dtype, crs=CRS, transform=PLACE,
            compress='deflate', zlevel=1, bigtiff='yes') as raster:
        for top, rows in strips(height):
            pixels = blocks[:, np.arange(top, top + rows) // 16 % 300]
            pixels = np.repeat(pixels, 16, axis=2)[:, :, :width]
            pixels += rng.normal(0, 4, (1, rows, width)).astype(np.float32)
            raster.write(pixels.round(1).astype(dtype),
                         window=Window(0, top, width, rows))


def make_vectors(raw: Path, height: int, width: int) -> None:
    """An outline along the border and discs of all kinds."""
    rng = np.random.default_rng(0)
    x, y = PLACE @ (rng.uniform(0, width, FEATURES),
                    rng.uniform(0, height, FEATURES))
    discs = shapely.buffer(shapely.points(x, y), rng.uniform(5, 80, FEATURES))
    kinds = rng.choice(list(KINDS.values), FEATURES)
    outline = shapely.box(*PLACE @ (0, height), *PLACE @ (width, 0))
    for name, column, shapes, values in (
            ('parcels', 'index', [outline], [NAME]),
            ('features', 'type', discs, kinds)):
        pyogrio.raw.write(
            raw / f'{name}.gpkg', shapely.to_wkb(np.array(shapes)),
            [np.array(values, dtype=object)], [column], crs=CRS,
            geometry_type='Polygon', layer=name, driver='GPKG')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--height', type=int, default=30000)
    parser.add_argument('--width', type=int, default=40000)
    args = parser.parse_args()
    shape = args.height, args.width
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / 'raw', Path(folder) / 'out'
        make_raster(raw / f'rasters/rgb/{NAME}.tif', 3, 'uint8', *shape)
        make_raster(raw / f'rasters/dtm/{NAME}.tif', 1, 'float32', *shape)
        make_vectors(raw, *shape)
        made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        code = archaeoscape.main([str(raw), str(out), '--jobs', '1'])
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = sum(path.stat().st_size for path in out.glob('*_dir/*/*'))
    print(f'{shape[0]} x {shape[1]} pixels: {seconds:.0f} s, peak '
          f'{peak / 1e6:.2f} GB (making the raw folder took '
          f'{made / 1e6:.2f} GB), {size / 1e9:.1f} GB written')
    return code


if __name__ == '__main__':
    sys.exit(main())
