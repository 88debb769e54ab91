"""Turn a checkpoint of any known naming into one of another."""
import argparse

TARGETS = 'mmpretrain', 'timm', 'relay', 'plain'


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Turn a checkpoint of timm, mmpretrain, the official '
        "DeiT-III and Swin repositories, the authors' models or "
        'relay_seg into one of another naming or kind.')
    parser.add_argument('checkpoint', metavar='IN', help='file or URL')
    parser.add_argument('out', metavar='OUT', help='file to write, .pth')
    parser.add_argument(
        '--to', required=True, choices=TARGETS,
        help='mmpretrain, timm: a bare backbone; relay, plain: our names, '
        'with neck and head if IN has them; plain drops what relay adds')
    parser.add_argument(
        '--num-views', type=int, default=2,
        help='views of --to relay, the local one included (default: 2)')
    parser.add_argument(
        '--prefix', help='of the names of the backbone in IN, such as '
        'net.model; found out by default')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='unpickle anything IN asks for, which may run its code')
    args = parser.parse_args()  # --help does not wait for imports
    from relay_seg.checkpoints.converting import convert_checkpoint
    try:
        report = convert_checkpoint(
            args.checkpoint, args.out, args.to, num_views=args.num_views,
            prefix=args.prefix, trust=args.trust_checkpoint)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f'{error}\n')
    print(report)


if __name__ == '__main__':
    main()
