"""Score a prediction of any size against the truth, whole and by area.

Writes NAME_scores.json and NAME_scores.csv beside it.
"""
import argparse
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('prediction', type=Path,
        help='class ids that tools/predict.py wrote')
    add('truth', type=Path,
        help='raster of class ids with pixels as those of the prediction')
    add('--reduce-zero-label', action='store_true',
        help='id 0 of the truth is ignored, the others move down by one')
    add('--areas', type=Path, help='polygons to score one by one')
    add('--area-column', help='attribute that names them; by default id '
        'where there is one, else the number of the feature')
    add('--overwrite', action='store_true',
        help='write over files that are no scores; inputs never')
    return parser.parse_args()


def main() -> None:
    args = parse_args()  # --help does not wait for imports
    from relay_seg.evaluation.scoring import score_prediction
    try:
        found = score_prediction(
            args.prediction, args.truth,
            reduce_zero_label=args.reduce_zero_label, areas=args.areas,
            area_column=args.area_column, overwrite=args.overwrite)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    for name, value in found['metrics'].items():
        print(f'{name} {value:.2f}')


if __name__ == '__main__':
    main()
