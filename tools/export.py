"""Export a trained model to ONNX, for onnxruntime or for QGIS.

    %(prog)s CONFIG CHECKPOINT -o model.onnx
    %(prog)s sample -o model.onnx
"""
import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relay_seg.sample_model import with_sample

if TYPE_CHECKING:
    from relay_seg.export import Exported


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('config', help='config file; the word sample in the place of config '
        'and checkpoint is the small model that comes with relay_seg')
    add('checkpoint', help='checkpoint file')
    add('-o', '--out', type=Path, required=True, help='file to write (.onnx)')
    add('--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, which the file fixes, or one number: native pixels, or '
        'metres as 128m')
    add('--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    add('--deepness', action='store_true',
        help='for the QGIS plug-in Deepness; plain models only')
    add('--resolution', type=float, metavar='CM', help='with --deepness: side '
        'of a pixel in centimetres, if the data set does not say')
    add('--quantise', '--quantize', action='store_true',
        help='write OUT_int8.onnx too, and what that costs on --images')
    add('--images', nargs='+', type=Path, default=[],
        help='rasters whose windows PyTorch and ONNX are compared on')
    add('--windows', type=int, default=16,
        help='windows of all images together to compare on')
    add('--trust-checkpoint', action='store_true',
        help='unpickle all that the checkpoint holds; it may run its code')
    add('--cfg-options', nargs='+', action='extend', default=[],
        help='settings of the config to override, as key=value')
    return parser, parser.parse_args(with_sample(sys.argv[1:]))


def show(exported: 'Exported', what: str) -> None:
    print(f'{exported.path} ({exported.size / 1e6:.1f} MB), {what}: '
          f'{exported.comparison}')


def main() -> None:
    parser, args = parse()  # --help does not wait for imports
    if args.quantise and not args.images:
        parser.error('--quantise measures what it costs: give --images.')
    if args.quantise and args.deepness:
        parser.error('--quantise is for the views of tools/predict.py; leave '
                     'out --deepness.')
    if args.windows < 1:
        parser.error(f'--windows {args.windows}; use 1 or more.')
    from relay_seg.config import load_config
    from relay_seg.export import export_deepness, export_onnx, quantise_onnx
    from relay_seg.export.checking import windows_of
    from relay_seg.export.metadata import facts_of
    from relay_seg.export.writing import check_out
    from relay_seg.inference import load_model
    small = args.out.with_name(f'{args.out.stem}_int8.onnx')
    try:
        for out in (args.out, small)[:1 + args.quantise]:
            check_out(out)
        cfg = load_config(args.config, args.cfg_options, window=args.window,
                          input_size=args.input)
        model = load_model(cfg, args.checkpoint, device='cpu',
                           trust=args.trust_checkpoint)
        facts = facts_of(model)
        views = windows_of(
            args.images, model, facts.window, args.windows,
            facts.input_size) if args.images else []
        print('Exporting; a large model takes minutes.', file=sys.stderr)
        if args.deepness:
            show(export_deepness(model, args.out, resolution=args.resolution,
                                 views=views),
                 'checked against PyTorch')
            return
        show(export_onnx(model, args.out, views=views),
             'checked against PyTorch')
        if args.quantise:
            show(quantise_onnx(args.out, small, model, views),
                 'weights of 8 bits against PyTorch')
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
