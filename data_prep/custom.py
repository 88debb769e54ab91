"""Convert rasters and polygons of your own to what training reads.

    python data_prep/custom.py RASTERS data/fields \\
        --polygons fields.gpkg --class-column crop

RASTERS is a folder of GeoTIFFs. Writes the scenes, their labels, mean and
deviation of the bands, and configs of a plain and of a relay model that are
ready to train. docs/own_data.md walks through it.
"""
import argparse
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
from bands import look_at
from command import Converter, basic_parser, execute
from legend import Legend
from manifest import SPLITS, Manifest
from own_configs import FACTOR, Wanted, models, window_size, write_configs
from own_plan import plan, read_truth

WAYS = 'folders', 'files', 'areas', 'blocks'
#: Options that do not change the scenes.
BESIDES = ('raw', 'out', 'jobs', 'check', 'name', 'configs', 'model',
           'iterations')


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = basic_parser(__doc__, 'folder of rasters')
    add = parser.add_argument_group('labels').add_argument
    add('--polygons', type=Path, metavar='FILE',
        help='polygons: GeoPackage, Shapefile, GeoJSON; in any CRS')
    add('--layer', help='its layer, if there are several')
    add('--class-column', metavar='NAME',
        help='attribute that holds the class')
    add('--labels', type=Path, metavar='FOLDER', help='instead of polygons: '
        'rasters of class ids with the names of the images')
    add('--classes', nargs='+', default=[], metavar='CLASS',
        help='classes in the order of their ids: NAME, NAME=COLOUR, '
        'NAME:VALUE,VALUE or NAME:VALUE,VALUE=COLOUR; without, one of each '
        'value found')
    add('--background', metavar='CLASS', help='class where no polygon lies; '
        'without, such pixels are ignored')
    add('--ignore', nargs='+', default=[], metavar='VALUE',
        help='values that belong to no class; their pixels are ignored')
    add('--priority', choices=['file', 'classes'], default='file',
        help='where polygons overlap, the last one of the file wins, or the '
        'last one of --classes (%(default)s)')
    add('--repair', action='store_true', help='mend self-intersecting '
        'polygons and leave out empty ones, instead of refusing them')
    add = parser.add_argument_group('images').add_argument
    add('--bands', nargs='+', type=int, metavar='N', help='bands in the '
        'order wanted, the first is 1; without, all but alpha')
    add('--pixel-size', type=float, metavar='SIZE',
        help='resample to pixels of this side, in units of the CRS')
    add = parser.add_argument_group('splits').add_argument
    add('--split', choices=WAYS, help='by folders train/, val/ and test/; by '
        'files; by areas, polygons with train, val or test; by blocks that '
        'do not touch. Without: folders if there are, areas if given, files '
        'else')
    add('--val', nargs='+', default=[], metavar='NAME',
        help='files that validate; names, or patterns such as "north_*"')
    add('--test', nargs='+', default=[], metavar='NAME',
        help='files that test; with neither, files are drawn')
    add('--areas', type=Path, metavar='FILE', help='polygons of the areas')
    add('--areas-layer', metavar='NAME', help='their layer')
    add('--split-column', default='split', metavar='NAME',
        help='their attribute with train, val or test (%(default)s)')
    add('--block', type=int, metavar='PIXELS', help='side of a block, about; '
        'twice the margin by default')
    add('--margin', type=int, metavar='PIXELS', help='between blocks of two '
        'splits; the width of a global view by default')
    add('--shares', nargs=3, type=float, default=[70., 15., 15.],
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='shares of drawn files and blocks (70 15 15)')
    add('--seed', type=int, default=0, help='of the draw (%(default)s)')
    add = parser.add_argument_group('configs').add_argument
    add('--name', help='name of the data set; that of OUT by default')
    add('--configs', type=Path, metavar='FOLDER',
        help='where to write them; OUT/configs by default')
    add('--model', choices=models(), default='swin2_t',
        help='(%(default)s; swin2_n for a CPU)')
    add('--iterations', type=int, default=20000,
        help='steps of training, of 8 windows each (%(default)s)')
    return parser


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
        args.bands or found.alphas) else ''
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


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        complete(args)
    except ValueError as error:
        parser.error(str(error))
    return execute(partial(describe, args), args, options_of(args))


if __name__ == '__main__':
    sys.exit(main())
