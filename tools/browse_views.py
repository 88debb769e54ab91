"""Draw training samples: views with the window's outline, and labels."""
import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.data import Sampler


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw training samples.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', default='samples.png', type=Path)
    parser.add_argument('-n', '--number', type=int, default=6)
    parser.add_argument(
        '--seed', type=int, default=0,
        help='draws the samples that a training with this seed begins with')
    parser.add_argument(
        '--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: native pixels, or metres as 128m')
    parser.add_argument(
        '--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[],
        help='settings to override, as key=value')
    args = parser.parse_args()  # --help does not wait for imports
    if args.out.suffix != '.png':
        parser.error(f'--out {args.out} does not end in .png, which is what '
                     'is written; give such a name.')
    import numpy as np
    from mmengine.registry import DATA_SAMPLERS, init_default_scope
    from mmseg.registry import DATASETS

    from relay_seg.config import load_config
    from relay_seg.drawing import draw_sample, stack
    cfg = load_config(args.config, args.cfg_options, window=args.window,
                      input_size=args.input)
    init_default_scope(cfg.default_scope)
    dataset_cfg = cfg.train_dataloader.dataset
    # Everything but packing: the sample as the model will get it.
    dataset_cfg.pipeline = [
        step for step in dataset_cfg.pipeline if step['type'] != 'PackViews']
    dataset = DATASETS.build(dataset_cfg)
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler,
        default_args=dict(dataset=dataset, seed=args.seed))
    np.random.seed(args.seed)
    rows = []
    for number in islice(_numbers(sampler), args.number):
        sample = dataset[number]
        rows.append(draw_sample(sample['views'], sample['labels'],
                                sample['contexts'],
                                dataset.metainfo['palette']))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    stack(rows).save(args.out)


def _numbers(sampler: 'Sampler') -> Iterator[int]:
    """Numbers of the samples of one epoch after the other."""
    for epoch in count():
        sampler.set_epoch(epoch)
        yield from sampler


if __name__ == '__main__':
    main()
