"""Generate a small raw folder in the format of a download.

    python data_prep/generated_raw.py gleason RAW_FOLDER

To try a converter and a training without the data: colours follow the
classes, with noise, so that there is something to learn, but what is learned
says nothing about real scenes.
"""
import argparse
import sys
from pathlib import Path

from options import library

DATASETS = 'archaeoscape', 'urur', 'gleason', 'cityscapes'


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', choices=DATASETS, help='data set')
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args(arguments)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f'{args.out} is not empty; give another folder.')
    args.out.mkdir(parents=True, exist_ok=True)
    library('generated_raw').MAKERS[args.dataset](args.out)
    print(f'Generated scenes in {args.out}; convert them with '
          f'data_prep/{args.dataset}.py.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
