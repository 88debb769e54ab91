"""Convert the Gleason 2019 challenge to what training reads.

    %(prog)s RAW_FOLDER data/gleason

RAW_FOLDER holds 'Train Imgs'/ and Maps_majority/, or instead of the latter
the maps of the single pathologists, Maps1_T/ to Maps6_T/. Their votes are
counted by class, or with --votes released as in the authors' code.
"""
import sys

from options import add_trim, convert, make_parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--zero', choices=['benign', 'ignore'], default='benign',
        help='what becomes of pixels outside the annotation (%(default)s, as '
        'in the published numbers)')
    add_trim(parser)
    parser.add_argument(
        '--votes', choices=['classes', 'released', 'majority'],
        default='classes',
        help='how pathologists vote: for classes, all of them (%(default)s), '
        "as in the authors' code for the raw ids, without Maps6_T, Maps5_T "
        'twice (released), or not, Maps_majority/ being taken as it is '
        '(majority)')
    return convert('gleason', parser.parse_args(arguments))


if __name__ == '__main__':
    sys.exit(main())
