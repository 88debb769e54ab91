"""Convert Archaeoscape to what training reads.

    %(prog)s RAW_FOLDER data/archaeoscape

RAW_FOLDER holds parcels.gpkg, features.gpkg and rasters/{rgb,dtm}/, also
one level down in data/.
"""
import sys

from options import convert, make_parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--repair', action='store_true',
        help='mend self-intersecting polygons and leave out empty ones, '
        'instead of refusing their parcels')
    return convert('archaeoscape', parser.parse_args(arguments))


if __name__ == '__main__':
    sys.exit(main())
