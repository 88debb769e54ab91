"""The sample scenes as folders of one's own, to try data_prep/custom.py with.

    python data_prep/example.py my_photos --photos
    python data_prep/example.py my_data

The first writes photographs with coloured annotations and my_photos/split.csv,
the second GeoTIFFs in my_data/rasters/ and polygons in my_data/town.gpkg.
Where the scenes lie on earth is made up.
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
    parser.add_argument('--photos', action='store_true',
                        help='photographs in place of GeoTIFFs')
    args = parser.parse_args(arguments)
    if args.out.is_dir() and any(args.out.iterdir()):
        parser.error(f'{args.out} is not empty, and files in it might be '
                     'written over; give a new folder.')
    if args.photos:
        number = library('example').write_photos(
            SAMPLE, args.out, args.longest)
        print(f'{number} photographs with annotations in {args.out}')
        return
    number = library('example').write_example(SAMPLE, args.out, args.longest)
    print(f'{number} polygons in {args.out}/town.gpkg, '
          f'rasters in {args.out}/rasters')


if __name__ == '__main__':
    main()
