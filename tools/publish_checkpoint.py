"""Make a training checkpoint ready for others: weights and config only."""
import argparse
from pathlib import Path


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
    parser.add_argument(
        '--card', metavar='LICENCE', help='write README.md (for Hugging '
        'Face), NAME.json (STAC, MLM) and NAME.py (the config) beside OUT, '
        'for weights under this licence, such as CC-BY-4.0; needs --config')
    parser.add_argument(
        '--results', help='results.json of a test of IN, for --card')
    args = parser.parse_args()  # --help does not wait for imports
    if args.card and not args.config:
        parser.error('--card describes the model of a config: give --config.')
    if args.results and not args.card:
        parser.error('--results are for a card: give --card LICENCE.')
    from relay_seg.checkpoints.publishing import publish_checkpoint
    written, card = [], None
    try:
        if args.card:
            from relay_seg.export.cards import (
                README,
                describe_checkpoint,
                refuse_existing,
            )
            refuse_existing(Path(args.out).with_name(README))
            card = describe_checkpoint(
                args.checkpoint, args.config, args.card, args.results,
                args.trust_checkpoint)
        out = publish_checkpoint(
            args.checkpoint, args.out, config=args.config,
            trust=args.trust_checkpoint)
        written = [out, *(card.write(out) if card else ())]
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f'{error}\n')
    print(*written, sep='\n')


if __name__ == '__main__':
    main()
