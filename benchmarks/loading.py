"""How fast training samples are read from a converted 5120 x 5120 scene.

    python benchmarks/loading.py

One two-view sample as the config of URUR reads it: window 256, k = 4, image
and both labels, scaled, turned, flipped, colours changed. Measured in one
process, in turns with a bare windowed read of both views and with decoding the
PNG of the whole scene; then through a data loader with 1 and 2 workers. GDAL's
cache is cut to 16 MB, so that tiles are decoded as they are where a data set
has many scenes.
"""
import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

# A data set is larger than GDAL's cache: keep this one scene out of it, too.
os.environ['GDAL_CACHEMAX'] = '16'

import cv2
import numpy as np
import rasterio
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image
from rasterio.windows import Window as RasterWindow
from torch.utils.data import DataLoader

import relay_seg.registered  # noqa: F401
from relay_seg.converting.writing import write_image, write_label
from relay_seg.datasets import URURDataset, WindowSampler

ROOT = Path(__file__).parents[1]
SIDE, WINDOW, FACTOR = 5120, 256, 4


def make_scene(folder: Path) -> Path:
    """Smooth colours with texture, and the class regions below them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 8, (SIDE // 64, SIDE // 64), np.uint8)
    label = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    colour = rng.integers(0, 256, (8, 3))
    image = cv2.GaussianBlur(colour[label].astype(np.float32), (0, 0), 9)
    image += rng.normal(0, 8, image.shape)
    image = image.clip(0, 255).astype(np.uint8)
    write_image(folder / 'img_dir/train/scene.tif', image.transpose(2, 0, 1))
    write_label(folder / 'ann_dir/train/scene.tif', label,
                URURDataset.METAINFO['palette'])
    png = folder / 'scene.png'
    Image.fromarray(image).save(png, compress_level=6)
    return png


def dataset_of(folder: Path) -> URURDataset:
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/urur.py')
    return URURDataset(
        data_root=str(folder), context_factors=(FACTOR, ),
        data_prefix=dict(
            img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=cfg.train_pipeline)


def bare_read(image, overview, rng) -> None:
    """Both views of the image, with nothing around the read."""
    first = (FACTOR - 1) * WINDOW // 2
    top, left = rng.integers(
        first // FACTOR, (SIDE - FACTOR * WINDOW) // FACTOR + 96, 2) * FACTOR
    image.read(window=RasterWindow(left, top, WINDOW, WINDOW))
    overview.read(window=RasterWindow(
        (left - first) // FACTOR, (top - first) // FACTOR, WINDOW, WINDOW))


def bytes_read() -> int:
    for line in Path('/proc/self/io').read_text().splitlines():
        if line.startswith('rchar'):
            return int(line.split()[1])
    return 0


def weight(sample: dict) -> int:
    """Bytes of views and labels."""
    labels = [field.data for field in sample['data_samples'].values()]
    return sum(x.nbytes for x in (*sample['inputs'], *labels))


def timed(call, count: int) -> list[float]:
    times = []
    for i in range(count):
        start = time.perf_counter()
        call(i)
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--samples', type=int, default=200)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    init_default_scope('mmseg')
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        png = make_scene(Path(folder))
        dataset = dataset_of(Path(folder))
        numbers = iter(WindowSampler(dataset, 10**6, seed=0))
        path = dataset.get_data_info(0)['img_path']
        rng = np.random.default_rng(0)
        results = {'sample': [], 'bare read of both views': [],
                   'decode the PNG': []}
        with rasterio.open(path) as image, rasterio.open(
                path, overview_level=1) as overview:
            before = bytes_read()
            for _ in range(args.rounds):
                results['sample'] += timed(
                    lambda i: dataset[next(numbers)], args.samples)
                results['bare read of both views'] += timed(
                    lambda i: bare_read(image, overview, rng), args.samples)
                results['decode the PNG'] += timed(
                    lambda i: np.asarray(Image.open(png)), 2)
            read = (bytes_read() - before) / len(results['sample'])
        print('| what | median ms | min | max |\n|---|---|---|---|')
        for name, times in results.items():
            print(f'| {name} | {np.median(times):.1f} | {min(times):.1f} | '
                  f'{max(times):.1f} |')
        ratio = np.median(results['decode the PNG']) / np.median(
            results['sample'])
        print(f'\nDecoding the scene takes {ratio:.0f} times as long as a '
              f'sample. About {read / 1e6:.2f} MB are read for each sample '
              '(all three, from the page cache); it weighs '
              f'{weight(dataset[next(numbers)]) / 2**20:.2f} MiB.\n')
        print('| workers | samples / s |\n|---|---|')
        for workers in (1, 2):
            sampler = WindowSampler(dataset, args.samples * 2, seed=1)
            loader = DataLoader(
                dataset, batch_size=8, sampler=sampler, num_workers=workers,
                collate_fn=pseudo_collate)
            batches = iter(loader)
            next(batches)
            start = time.perf_counter()
            count = sum(len(batch['data_samples']) for batch in batches)
            rate = count / (time.perf_counter() - start)
            print(f'| {workers} | {rate:.0f} |')


if __name__ == '__main__':
    main()
