"""Convert images and labels of your own to what training reads.

    %(prog)s PHOTOS data/leaves --dry-run \
        --classes 'soil:#000000' 'leaf:#00ff00'
    %(prog)s RASTERS data/fields \
        --polygons fields.gpkg --class-column crop

The first has labels as images, beside the photos or in a folder (--labels);
the second draws polygons on GeoTIFFs. All files are looked at and a plan is
printed; --dry-run stops there. Writes the scenes, their labels, mean and
deviation of the bands, and configs of a plain and of a relay model that are
ready to train. docs/own_data.md walks through it.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

from options import library, make_parser

WAYS = 'folders', 'files', 'lists', 'areas', 'blocks'
ENDING = '_upernet.py'
ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.name.removesuffix(ENDING) for path in ROOT.glob(
    f'configs/_base_/models/*{ENDING}'))


def own_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(__doc__, 'folder of images')
    parser.add_argument(
        '--dry-run', action='store_true',
        help='look at all files, print the plan and stop')
    parser.add_argument(
        '--clean', action='store_true', help='remove scenes that an earlier '
        'run has written and this one does not have')
    parser.add_argument(
        '--leave-out', action='store_true', help='leave out files that have '
        'no partner or cannot be read, instead of refusing all')
    add = parser.add_argument_group('labels').add_argument
    add('--polygons', type=Path, metavar='FILE',
        help='polygons: GeoPackage, Shapefile, GeoJSON; in any CRS')
    add('--layer', help='its layer, if there are several')
    add('--class-column', metavar='NAME',
        help='attribute that holds the class; not needed if --classes names '
        'one class')
    add('--labels', type=Path, metavar='FOLDER', help='without polygons: '
        'folder of labels as images; without, that of the images')
    add('--label-names', metavar='PATTERN', help='their names, such as '
        '"*_mask.png"; what * stands for is alike in image and label')
    add('--image-names', metavar='PATTERN', help='names of the images, such '
        'as "*_image.jpg"')
    add('--yes', action='store_true', help='labels that were found by parts '
        'of their names are the right ones')
    add('--nearest', action='store_true', help='pixels of a label with a '
        'value of no class take the nearest one (JPEG, scaled labels)')
    add('--classes', nargs='+', default=[], metavar='CLASS',
        help='classes in the order of their ids: NAME, NAME=COLOUR, '
        'NAME:VALUE,VALUE or NAME:VALUE,VALUE=COLOUR, with VALUE an '
        'attribute of polygons, or an id, #rrggbb or transparent of a label; '
        'a backslash before :, comma or = makes it part of a name. Without, '
        'one of each value of polygons; values of labels are listed')
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
        'files; by lists of names; by areas, polygons with train, val or '
        'test; by blocks that do not touch. Without: lists or areas if '
        'given, folders if there are, files else')
    add('--split-lists', nargs='+', type=Path, metavar='FILE', help='lists '
        'of names, such as train.txt val.txt test.txt; a CSV with a column '
        'of names and one of splits; YAML or JSON')
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
    add('--model', choices=MODELS, default='swin2_t',
        help='(%(default)s; swin2_n for a CPU)')
    add('--iterations', type=int, default=20000,
        help='steps of training, of 8 windows each (%(default)s)')
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = own_parser()
    args = parser.parse_args(arguments)
    own = library('own')
    try:
        own.complete(args)
    except ValueError as error:
        parser.error(str(error))
    return library('command').execute(
        partial(own.describe, args), args, own.options_of(args))


if __name__ == '__main__':
    sys.exit(main())
