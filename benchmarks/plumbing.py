"""How fast prediction is beside its model: a model that costs nothing.

    python benchmarks/plumbing.py [--rounds 3]

A generated GeoTIFF (three bands of bytes, tiled, deflate) is predicted file
to file with logits that are ready: what is left is reading, cutting views,
blending, deciding and writing. Megapixels a second of processor time, of all
threads together.
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from types import MethodType

for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'GDAL_NUM_THREADS'):
    os.environ[name] = '1'

import torch

sys.path.insert(0, str(Path(__file__).parent))
from predict_raster import build, make_scene

from relay_seg.inference import predict_raster

CLASSES = 8
#: Name, model, stride, blend.
CASES = (
    ('context 4, stride 128, Gaussian', 'relay', 128, 'gaussian'),
    ('context 4, stride 256', 'relay', 256, 'mean'),
    ('no context, stride 128, Gaussian', 'plain', 128, 'gaussian'),
    ('no context, stride 256', 'plain', 256, 'mean'),
)


def free(kind: str):
    """A model whose logits are ready."""
    model = build(kind)
    model.num_classes = model.out_channels = CLASSES
    # Regions of some pixels, as in a map; noise would measure compression.
    ready = torch.rand(64, CLASSES, 8, 8).repeat_interleave(
        32, 2).repeat_interleave(32, 3)
    model.window_logits = MethodType(
        lambda self, views, *size: ready[:len(views[0])], model)
    return model


def rate(scene: Path, side: int, kind: str, stride: int, blend: str) -> float:
    """Megapixels a second."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        predict_raster(free(kind), scene, Path(folder) / 'out.tif',
                       stride=(stride, stride), blend=blend, threads=1)
        return side**2 / 1e6 / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=4096)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / 'scene.tif'
        make_scene(scene, args.side)
        print('| windows | MP/s a core |\n|---|---|')
        for name, *case in CASES:
            best = max(rate(scene, args.side, *case)
                       for _ in range(args.rounds))
            print(f'| {name} | {best:.1f} |', flush=True)


if __name__ == '__main__':
    main()
