"""Convert rasters and polygons of your own to what training reads.

    python data_prep/custom.py RASTERS data/fields \\
        --polygons fields.gpkg --class-column crop

RASTERS is a folder of GeoTIFFs. Writes the scenes, their labels, mean and
deviation of the bands, and configs of a plain and of a relay model that are
ready to train. docs/own_data.md walks through it.
"""
import argparse
import re
from functools import partial
from pathlib import Path

import numpy as np

from .bands import look_at
from .command import Converter
from .legend import Legend
from .manifest import SPLITS, Manifest
from .own_configs import FACTOR, Wanted, window_size, write_configs
from .own_plan import plan, read_truth

#: Options that do not change the scenes.
BESIDES = ('raw', 'out', 'jobs', 'check', 'name', 'configs', 'model',
           'iterations')


def finish(out: Path, manifest: Manifest, legend: Legend,
           args: argparse.Namespace) -> list[str]:
    """Write the configs, and say what to type next."""
    records = [*manifest.scenes.values()]
    lines = []
    for split in SPLITS:
        counts = [r['class_pixels'] for r in records if r['split'] == split]
        absent = [name for name, number in zip(
            legend.names, np.sum(counts, 0)) if not number] if counts else []
        if absent:
            lines.append(f'{split} has no pixel of {", ".join(absent)}.')
    found = look_at(args.raw / records[0]['sources'][0]['path'], args.bands,
                    None)
    colours = len(found.bands) == 3 and found.dtype == 'uint8'
    wanted = Wanted(args.configs or out / 'configs', args.name, args.model,
                    args.iterations)
    (plain, relay), kept = write_configs(
        wanted, out, legend.names, legend.palette, records, colours)
    lines += [f'{path} was changed and is kept; delete it to have it written '
              'anew.' for path in kept]
    bands = f' --bands {" ".join(map(str, found.bands))}' if (
        args.bands or found.alpha) else ''
    return [*lines, f'Written: {plain} and {relay}. Next:',
            f'  python tools/train.py {relay}',
            f'  python tools/predict.py {relay} work_dirs/{relay.stem}/'
            f'iter_{args.iterations}.pth RASTER -o maps/{bands}']


def complete(args: argparse.Namespace) -> None:
    """Fill in what follows from other options.

    Raises:
        ValueError: Options contradict each other.
    """
    if args.split is None:
        args.split = ('areas' if args.areas else 'folders' if
                      (args.raw / 'train').is_dir() else 'files')
    if args.split == 'areas' and not args.areas:
        raise ValueError('--split areas needs --areas FILE.')
    if (args.val or args.test) and args.split != 'files':
        raise ValueError(f'--val and --test name files, but --split is '
                         f'{args.split}; leave one of them out.')
    if args.margin is None:
        args.margin = FACTOR * max(window_size(args.model))
    if args.block is None:
        args.block = max(2 * args.margin, 2 * max(window_size(args.model)))
    for name, least in (('margin', 0), ('block', 1), ('iterations', 2),
                        ('pixel_size', 0)):
        value = getattr(args, name)
        if value is not None and (value < least or value != value):
            raise ValueError(f'--{name.replace("_", "-")} {value} is too '
                             'small.')
    args.name = re.sub(r'\W+', '_', args.name or args.out.resolve().name)


def describe(args: argparse.Namespace) -> Converter:
    """The converter that the command line asks for."""
    if args.check and not args.raw.is_dir():
        return Converter(args.name, (), (), plan)  # the result alone
    truth = read_truth(args)
    legend = truth.legend
    return Converter(
        args.name, legend.names, legend.palette,
        lambda raw, **_: plan(raw, truth, args),
        finish=partial(finish, legend=legend, args=args))


def options_of(args: argparse.Namespace) -> dict:
    """What changes the scenes, of types that JSON keeps."""
    return {key: str(value.resolve()) if isinstance(value, Path) else value
            for key, value in vars(args).items() if key not in BESIDES}
