"""Stitch the aerial scenes of Dubai to rasters in MMSegmentation's layout.

Each scene comes as 3 x 3 parts, ``images/tile<T>_part<PPP>.jpg`` and
``masks/tile<T>_part<PPP>.png``, row by row; parts may differ by a pixel.

    python data_prep/dubai.py RAW_FOLDER data/dubai
"""
import argparse
from pathlib import Path

from options import library


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Stitch the aerial scenes of Dubai.')
    parser.add_argument('raw', type=Path, help='folder with images/, masks/')
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args(arguments)
    library('dubai').stitch_sample(args.raw, args.out)


if __name__ == '__main__':
    main()
