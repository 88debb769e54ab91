"""Make a training checkpoint ready for others: weights and config only."""
import argparse


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Keep the weights and the config of a checkpoint, leave '
        'out optimiser and history.')
    parser.add_argument('checkpoint', metavar='IN', help='file or URL')
    parser.add_argument(
        'out', metavar='OUT',
        help='file to write, such as model.pth; becomes model-1234abcd.pth '
        'with the start of its SHA-256')
    parser.add_argument(
        '--config', help="the model's config, if IN does not hold it")
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='unpickle anything IN asks for, which may run its code')
    args = parser.parse_args()  # --help does not wait for imports
    from relay_seg.checkpoints.publishing import publish_checkpoint
    try:
        out = publish_checkpoint(
            args.checkpoint, args.out, config=args.config,
            trust=args.trust_checkpoint)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f'{error}\n')
    print(out)


if __name__ == '__main__':
    main()
