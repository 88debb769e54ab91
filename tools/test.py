"""Test a model with slide inference; write metrics, on request pictures."""
import argparse
import sys
import time
from pathlib import Path

from relay_seg.sample_model import with_sample


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument(
        'config', help='config file; the word sample in the place of config '
        'and checkpoint is the small model that comes with relay_seg')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--work-dir', help='folder for logs and results.json; '
        'work_dirs/CONFIG by default')
    parser.add_argument(
        '--out', help='folder for predicted class ids, a GeoTIFF a scene')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='unpickle whatever a checkpoint asks for, which may run its '
        'code; only for files whose maker you know')
    parser.add_argument(
        '--show-dir', help='folder for pictures: scene, truth, prediction')
    parser.add_argument(
        '--overwrite', action='store_true', help='write over files in these '
        'folders that no prediction wrote; scenes and labels never')
    parser.add_argument(
        '--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: native pixels, or metres as 128m')
    parser.add_argument(
        '--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    parser.add_argument(
        '--tta', action='store_true', help='see each window also flipped, '
        'in three ways: four times the work')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[],
        help='settings to override, as key=value, such as '
        "model.test_cfg.blend='center'")
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none', help='how processes were started')
    parser.add_argument('--local-rank', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(with_sample(sys.argv[1:]))

    is_url = '://' in args.checkpoint
    if not is_url and not Path(args.checkpoint).is_file():
        parser.error(f'{args.checkpoint} is no file; give a checkpoint that '
                     'tools/train.py wrote, such as work_dirs/.../iter_*.pth')
    return args


def test(args: argparse.Namespace) -> None:
    from relay_seg.config import load_config
    from relay_seg.engine import build_runner, leave_processes
    from relay_seg.evaluation.results import write_results
    try:
        cfg = load_config(
            args.config, args.cfg_options, window=args.window,
            input_size=args.input)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    if args.tta:
        cfg.model.test_cfg.flips = True
    cfg.work_dir = args.work_dir or cfg.get(
        'work_dir', f'work_dirs/{Path(args.config).stem}')
    cfg.launcher = args.launcher
    # A config that resumes would look for another file.
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out or args.show_dir:
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='WritePredictions', ids=args.out,
                 pictures=args.show_dir, overwrite=args.overwrite)
        ]
    runner = build_runner(cfg, trust=args.trust_checkpoint)
    start = time.perf_counter()
    metrics = runner.test()
    write_results(runner, metrics, args.checkpoint,
                  time.perf_counter() - start)
    del runner
    leave_processes()


def main() -> None:
    args = parse_args()  # --help does not wait for imports
    from relay_seg.processes import one_traceback
    with one_traceback():
        test(args)


if __name__ == '__main__':
    main()
