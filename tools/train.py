"""Train a model: the host's runner, with relay_seg's checks around it."""
import argparse
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints; '
        'work_dirs/CONFIG by default')
    parser.add_argument(
        '--resume', action='store_true',
        help='go on from the last checkpoint in the work dir that loads')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='unpickle whatever a checkpoint asks for, which may run its '
        'code; only for files whose maker you know')
    parser.add_argument(
        '--amp', nargs='?', choices=['auto', 'bf16', 'fp16'],
        const='auto', help='mixed precision; without a value '
        'bf16 where the device computes with it, else fp16')
    parser.add_argument(
        '--pretrained', metavar='FILE|URL|none', help='weights of the '
        'backbone to start from, in place of those that the config names; '
        'none for random ones')
    parser.add_argument('--seed', type=int, help='seed of this run')
    parser.add_argument(
        '--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: native pixels, or metres as 128m')
    parser.add_argument(
        '--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[],
        help='settings to override, as key=value, such as '
        'train_cfg.max_iters=100')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none', help='how processes were started')
    parser.add_argument('--local-rank', type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    from mmengine.dist import is_main_process

    from relay_seg.config import load_config
    from relay_seg.engine import build_runner, leave_processes
    from relay_seg.optim import default_precision
    from relay_seg.processes import was_restarted
    try:
        cfg = load_config(
            args.config, args.cfg_options, window=args.window,
            input_size=args.input,
            pretrained=args.pretrained)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    cfg.work_dir = args.work_dir or cfg.get(
        'work_dir', f'work_dirs/{Path(args.config).stem}')
    cfg.launcher = args.launcher
    if args.amp:
        cfg.optim_wrapper.type = 'CheckedOptimWrapper'
        cfg.optim_wrapper.precision = (
            default_precision() if args.amp == 'auto' else args.amp)
    if args.seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    cfg.resume = (
        args.resume or was_restarted() or cfg.get('resume', False))
    build_runner(cfg, trust=args.trust_checkpoint).train()
    if is_main_process():
        from relay_seg.evaluation.pictures import draw_curves
        draw_curves(Path(cfg.work_dir, 'scalars.csv'),
                    Path(cfg.work_dir, 'curves.png'))
    leave_processes()


def main() -> None:
    args = parse_args()  # --help does not wait for imports
    from relay_seg.processes import one_traceback
    with one_traceback():
        train(args)


if __name__ == '__main__':
    main()
