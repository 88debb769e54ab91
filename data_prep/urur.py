"""Convert URUR to what training reads.

    %(prog)s RAW_FOLDER data/urur

RAW_FOLDER holds train/, val/ and test/, each with image/ and label/.
"""
import sys

from options import add_trim, convert, make_parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_trim(parser)
    return convert('urur', parser.parse_args(arguments))


if __name__ == '__main__':
    sys.exit(main())
