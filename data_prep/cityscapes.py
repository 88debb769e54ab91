"""Convert Cityscapes to what training reads.

    %(prog)s RAW_FOLDER data/cityscapes

RAW_FOLDER holds leftImg8bit/ and gtFine/. The official val becomes val/; the
lists frankfurt.txt and lindau_munster.txt part it by city, for testing as the
authors of relay tokens did without choosing checkpoints on the same images.
"""
import sys

from options import add_trim, convert, make_parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_trim(parser)
    return convert('cityscapes', parser.parse_args(arguments))


if __name__ == '__main__':
    sys.exit(main())
