"""Predict rasters of any size: GeoTIFFs of classes, and more on request.

    tools/predict.py CONFIG CHECKPOINT INPUT... -o OUT
    tools/predict.py --onnx MODEL.onnx INPUT... -o OUT
"""
import argparse
import datetime
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Processes wait for the slowest one, which may have a long way to go.
PATIENCE = datetime.timedelta(days=7)


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('inputs', nargs='+', metavar='INPUT',
        help='config file and checkpoint (not with --onnx), then inputs: '
        'raster, aligned rasters as a.tif+b.tif, folder, pattern, or text '
        'file (.txt) with one of these in each line')
    add('--onnx', help='file of tools/export.py to predict with, in the '
        'place of config and checkpoint; needs onnxruntime')
    add('-o', '--out', required=True,
        help='file (.tif) for one scene, or folder')
    add('--aoi', help='polygons: only windows that touch one are computed, '
        'outside is no data')
    add('--pixel-size', type=float, help='resample to pixels of this side, '
        'in units of the CRS, which is not in degrees')
    add('--bands', nargs='+', type=int, help='bands to read, the first is 1, '
        'counted over all files of a scene')
    add('--format', choices=['gtiff', 'cog'], default='gtiff',
        dest='output_format', help='kind of GeoTIFF')
    add('--probabilities', choices=['uint8', 'float16'],
        help='write OUT_probabilities.tif too')
    add('--polygons', help='GeoPackage for classes as polygons; with several '
        'scenes, a folder')
    add('--min-area', type=float, default=0., help='leave out polygons below '
        'this area in square metres on the ground (pixels if there is no '
        'CRS)')
    add('--preview', help='PNG of the scene under its prediction; with '
        'several scenes, a folder')
    add('--overwrite', action='store_true',
        help='write over files that no prediction wrote; inputs never')
    add('--on-error', choices=['stop', 'skip'], default='stop',
        help='at pixels that cannot be read')
    add('--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: pixels, or metres as 128m')
    add('--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    add('--stride', nargs=2, type=int, metavar=('DOWN', 'RIGHT'),
        help='pixels between windows; by default the share of a window that '
        'is seen twice is that of the config')
    add('--blend', choices=['mean', 'gaussian', 'center'])
    add('--tta', action='store_true', help='see each window also flipped, '
        'in three ways: four times the work')
    add('--batch-size', type=int, help='windows in one forward pass')
    add('--threads', type=int, default=4, help='threads that read')
    add('--amp', choices=['bf16', 'fp16'], help='compute in mixed precision')
    add('--compile', action='store_true', dest='compiled',
        help='compile the model: minutes at first, then faster on a GPU')
    add('--no-cuda-graph', action='store_false', dest='cuda_graph',
        help='launch the kernels of a batch one by one, on a GPU')
    add('--device', help='such as cpu or cuda:1; a GPU by default, if there')
    add('--trust-checkpoint', action='store_true',
        help='unpickle all that the checkpoint holds; it may run its code')
    add('--cfg-options', nargs='+', action='extend', default=[],
        help='settings of the config to override, as key=value')
    add('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
        help='how processes were started')
    add('--local-rank', type=int, help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def find_model(args: argparse.Namespace,
               own: str | None) -> 'torch.nn.Module':
    """The model, on its device."""
    from relay_seg.config import load_config
    from relay_seg.inference import load_model
    if args.onnx:
        if (args.amp or args.cfg_options or args.trust_checkpoint
                or args.window or args.input or args.tta):
            raise ValueError(
                '--amp, --cfg-options, --trust-checkpoint, --tta, --window '
                'and --input are for checkpoints; leave them out with --onnx. '
                'The size of its windows is fixed when it is exported.')
        from relay_seg.export import OnnxModel  # onnxruntime is an extra
        return OnnxModel(args.onnx, args.device or own)
    config, checkpoint, *_ = args.inputs
    cfg = load_config(config, args.cfg_options, window=args.window,
                      input_size=args.input)
    if args.tta:
        cfg.model.test_cfg.flips = True
    return load_model(cfg, checkpoint, device=args.device or own,
                      trust=args.trust_checkpoint)


def main() -> int:
    parser, args = parse()  # --help does not wait for imports
    from relay_seg.engine import leave_processes, start_processes
    from relay_seg.inference import Settings, find_scenes, predict_scenes
    from relay_seg.inference.command import refuse_all
    try:
        names = Settings.__dataclass_fields__.keys()
        settings = Settings(**{
            k: tuple(v) if isinstance(v, list) else v
            for k, v in vars(args).items() if k in names - {'window'}})
        inputs = args.inputs if args.onnx else args.inputs[2:]
        if not inputs:
            raise ValueError('give a config, a checkpoint and inputs, or '
                             '--onnx and inputs.')
        scenes = find_scenes(inputs, args.out)
        own = start_processes(args.launcher, PATIENCE)
        refuse_all(scenes, settings)
        model = find_model(args, own)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    try:
        code = predict_scenes(model, scenes, settings)
    except KeyboardInterrupt:
        print('Interrupted; the same command goes on from here.',
              file=sys.stderr)
        return 130
    leave_processes()
    return code


if __name__ == '__main__':
    sys.exit(main())
