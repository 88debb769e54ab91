"""The sample scenes as a folder of one's own: GeoTIFFs and polygons.

    python data_prep/example.py my_data

Writes my_data/rasters/ and my_data/town.gpkg, to try data_prep/custom.py
with. Where the scenes lie on earth is made up.
"""
import argparse
from pathlib import Path

from options import library

SAMPLE = Path(__file__).parent / 'sample' / 'dubai'


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--longest', type=int, help='cut scenes to this many pixels a side')
    args = parser.parse_args(arguments)
    number = library('example').write_example(SAMPLE, args.out, args.longest)
    print(f'{number} polygons in {args.out}/town.gpkg, '
          f'rasters in {args.out}/rasters')


if __name__ == '__main__':
    main()
