"""Memory and speed of prediction over the width of a scene.

    python benchmarks/width.py [--widths 5000 50000 500000] [--sparse 60000]

Scenes of 2,000 rows (tiled GeoTIFFs, generated), then a square one that is
empty but for a strip, are predicted file to file with a model whose logits are
ready, each in a process of its own on the CPU.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 2_000


def wide(folder: Path, width: int) -> Path:
    """A scene of some rows."""
    from predict_raster import make_scene
    make_scene(folder / 'scene.tif', width, ROWS)
    return folder / 'scene.tif'


def sparse(folder: Path, side: int) -> Path:
    """A large tiled GeoTIFF of which most tiles are not there."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window
    scene = folder / 'sparse.tif'
    with rasterio.open(
            scene, 'w', driver='GTiff', count=3, height=side, width=side,
            dtype='uint8', nodata=0, tiled=True, blockxsize=512,
            blockysize=512, compress='deflate', sparse_ok=True,
            bigtiff='yes', crs='EPSG:32648',
            transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)) as raster:
        rows = np.random.default_rng(0).integers(
            1, 255, (3, 512, side), np.uint8)
        raster.write(rows, window=Window(0, side // 2 // 512 * 512, side,
                                         512))
    return scene


def measure(scene: Path) -> dict:
    """One prediction, in this process."""
    import torch
    from plumbing import free
    from predict_raster import now_mb, peak_mb

    from relay_seg.inference import predict_raster
    from relay_seg.rasters import open_raster
    torch.set_num_threads(1)
    with open_raster(scene, whole=False) as raster:
        pixels = raster.width * raster.height / 1e6
    model = free('relay')
    before, start, cpu = now_mb(), time.perf_counter(), time.process_time()
    predict_raster(model, scene, scene.with_name('out.tif'),
                   stride=(256, 256))
    return dict(before=before, peak=peak_mb(), pixels=pixels,
                seconds=time.perf_counter() - start,
                cpu=time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--widths', type=int, nargs='*',
                        default=[5_000, 50_000, 500_000])
    parser.add_argument('--sparse', type=int, default=60_000,
                        help='side of the sparse scene; 0 leaves it out')
    parser.add_argument('--measure', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    print('| scene | peak MB | of these before | taken | MP/s | MP/s of '
          'processor time |\n' + '| --- ' * 6 + '|')
    cases = [(f'{ROWS:,} x {width:,}', wide, width) for width in args.widths]
    if args.sparse:
        cases.append((f'{args.sparse:,} x {args.sparse:,}, sparse', sparse,
                      args.sparse))
    for name, make, size in cases:
        with tempfile.TemporaryDirectory() as folder:
            scene = make(Path(folder), size)
            done = subprocess.run(
                [sys.executable, __file__, '--measure', str(scene)],
                text=True, capture_output=True,
                env=os.environ | dict(CUDA_VISIBLE_DEVICES=''))
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            r = json.loads(done.stdout.splitlines()[-1])
        print(f'| {name} | {r["peak"]:.0f} | {r["before"]:.0f} | '
              f'{r["peak"] - r["before"]:.0f} | '
              f'{r["pixels"] / r["seconds"]:.2f} | '
              f'{r["pixels"] / r["cpu"]:.2f} |', flush=True)


if __name__ == '__main__':
    main()
