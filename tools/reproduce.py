"""Train and test what the published table holds, and print it."""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATASETS = 'archaeoscape', 'urur', 'gleason', 'cityscapes'
MODELS = 'vit_s', 'rt_vit_s', 'swin2_s', 'rt_swin2_s'


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train models as their authors did (configs/released/), '
        'test the best checkpoint of each with their protocol, and print the '
        'results beside the published numbers. Interrupt it as you like: the '
        'same command goes on from where it was.')
    parser.add_argument(
        'dataset', choices=[*DATASETS, 'all'], help='data set')
    parser.add_argument(
        '--models', nargs='+', choices=MODELS, default=MODELS,
        metavar='MODEL', help=f'of {", ".join(MODELS)}; all by default')
    parser.add_argument(
        '--gpus', type=at_least_one, default=1,
        help='processes that train and test together (%(default)s); the '
        'authors trained with 8')
    parser.add_argument(
        '--seeds', type=at_least_one, default=1,
        help='trainings of each model (%(default)s), with seeds 42, as the '
        "authors', 43, ...")
    parser.add_argument(
        '--data-root', type=Path, help='converted data set, or the folder '
        'that holds such by name; data by default')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/reproduce'),
        help='folder for all runs and table.md (%(default)s)')
    parser.add_argument(
        '--dry-run', action='store_true',
        help='print the commands and do nothing')
    parser.add_argument(
        '--smoke', action='store_true', help='see in minutes whether '
        'everything runs here: generate scenes in the format of the '
        'download, convert them, train two steps, test; in OUT/smoke')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help='settings to override in every training and test, such as '
        'train_dataloader.num_workers=8')
    args = parser.parse_args()
    for option in args.cfg_options:
        if '=' not in option:
            parser.error(f'--cfg-options {option} is not KEY=VALUE')
    if args.smoke and args.data_root:
        parser.error('--smoke makes its own data; leave out --data-root')
    return args


def main() -> int:
    args = parse_args()  # --help does not wait for imports
    from relay_seg.evaluation.planning import RunSettings
    from relay_seg.evaluation.reproducing import reproduce
    here = Path.cwd()
    settings = RunSettings(
        root=ROOT.relative_to(here) if ROOT.is_relative_to(here) else ROOT,
        out=args.out, gpus=args.gpus, data_root=args.data_root,
        cfg_options=tuple(args.cfg_options), smoke=args.smoke)
    names = DATASETS if args.dataset == 'all' else [args.dataset]
    try:
        return reproduce(
            settings, names, args.models, args.seeds, dry_run=args.dry_run,
            say=lambda text: print(text, flush=True))
    except ValueError as error:
        print(f'{Path(__file__).name}: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
