"""Predict rasters of any size: GeoTIFFs of classes, and more on request.

    %(prog)s sample INPUT... -o OUT
    %(prog)s CONFIG CHECKPOINT INPUT... -o OUT
    %(prog)s --onnx MODEL.onnx INPUT... -o OUT
"""
import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('inputs', nargs='+', metavar='INPUT',
        help='config file and checkpoint, or the word sample for the small '
        'model that comes with relay_seg (neither with --onnx), then inputs: '
        'raster (file, address such as https:// or s3://, STAC item), '
        'aligned rasters as a.tif+b.tif, folder, pattern, or text file '
        '(.txt) with one of these in each line')
    add('--onnx', help='file of tools/export.py to predict with, in the '
        'place of config and checkpoint; needs onnxruntime')
    add('-o', '--out', required=True,
        help='file (.tif) for one scene, or folder')
    add('--aoi', help='polygons: only windows that touch one are computed, '
        'outside is no data')
    add('--pixel-size', metavar='SIDE', help='resample to pixels of this '
        'side, in units of the CRS, which is not in degrees; or, for scans '
        'without a CRS that say how large their pixels are, as 0.5um')
    add('--bands', nargs='+', type=int, help='bands to read, the first is 1, '
        'counted over all files of a scene')
    add('--format', choices=['gtiff', 'cog', 'vrt'], default='gtiff',
        dest='output_format', help='kind of GeoTIFF; vrt refers to the '
        'blocks, which stay, and takes no time')
    add('--probabilities', choices=['uint8', 'float16'],
        help='write OUT_probabilities.tif too')
    add('--confidence', choices=['maximum', 'entropy'],
        help='write OUT_confidence.tif too: the largest probability, or the '
        'entropy, in percent')
    add('--polygons', help='file for classes as polygons: .gpkg, .shp, '
        '.geojson or .parquet; with several scenes, a folder of .gpkg')
    add('--min-area', type=float, default=0., help='leave out polygons below '
        'this area in square metres on the ground (pixels if there is no '
        'CRS), and fill holes below it')
    add('--simplify', type=float, default=0., metavar='METRES',
        help='let borders of polygons move by about so much (pixels if there '
        'is no CRS); shared ones stay shared')
    add('--preview', help='PNG of the scene under its prediction; with '
        'several scenes, a folder')
    add('--stac', help='STAC item that tells what the output is and is from; '
        'with several scenes, a folder')
    add('--truth', type=Path, help='class ids with pixels as those of the '
        'output: OUT_scores.json and .csv; see tools/score.py for more')
    add('--mosaic', action='store_true', help='the inputs are tiles of one '
        'scene, which see each other over their borders')
    add('--overwrite', action='store_true',
        help='write over files that no prediction wrote; inputs never')
    add('--on-error', choices=['stop', 'skip'], default='stop',
        help='at pixels that cannot be read')
    add('--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: pixels, metres as 128m, or micrometres as '
        '128um')
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
    add('--block', nargs=2, type=int, metavar=('DOWN', 'RIGHT'),
        help='pixels of what is computed as one task, about')
    add('--part', type=part_of, metavar='I/N', help='compute the blocks of '
        'part I of N; whoever is last puts all together')
    add('--join', action='store_true', help='compute nothing, put blocks '
        'together that are there')
    add('--ray', nargs='?', const='local', metavar='ADDRESS', help='compute '
        'blocks on a Ray cluster: of this machine, or at an address such as '
        'auto')
    add('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
        help='how processes were started, each of which does a part')
    add('--local-rank', type=int, help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def part_of(text: str) -> tuple[int, int]:
    """Number of a part, from 1, and of how many."""
    try:
        number, count = map(int, text.split('/'))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no part; give one such as 1/8 to 8/8.')
    return number, count


def find_model(args: argparse.Namespace,
               device: str | None = None) -> 'torch.nn.Module':
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
        return OnnxModel(args.onnx, args.device or device)
    config, checkpoint, *_ = args.inputs
    cfg = load_config(config, args.cfg_options, window=args.window,
                      input_size=args.input)
    if args.tta:
        cfg.model.test_cfg.flips = True
    return load_model(cfg, checkpoint, device=args.device or device,
                      trust=args.trust_checkpoint)


def score(out: Path, args: argparse.Namespace) -> None:
    """Compare an output with the truth, and tell the metrics."""
    from relay_seg.evaluation.scoring import score_prediction
    found = score_prediction(out, args.truth, overwrite=args.overwrite)
    for name, value in found['metrics'].items():
        print(f'{name} {value:.2f}', file=sys.stderr)


def main() -> int:
    parser, args = parse()  # --help does not wait for imports
    from relay_seg.engine import launched
    from relay_seg.inference import (
        Settings,
        find_scenes,
        join_scenes,
        predict_scenes,
    )
    from relay_seg.inference.command import refuse_all
    from relay_seg.inference.job import Job
    from relay_seg.sample_model import with_sample
    if not args.onnx:
        args.inputs = with_sample(args.inputs)
    try:
        names = Settings.__dataclass_fields__.keys()
        settings = Settings(**{
            k: tuple(v) if isinstance(v, list) else v
            for k, v in vars(args).items() if k in names - {'window'}})
        inputs = args.inputs if args.onnx else args.inputs[2:]
        if not inputs:
            raise ValueError('give a config and a checkpoint, or sample, and '
                             'inputs; or --onnx and inputs.')
        if sum(map(bool, (args.part, args.join, args.ray,
                          args.launcher != 'none'))) > 1:
            raise ValueError('--part, --join, --ray and --launcher exclude '
                             'each other; give one.')
        scenes = find_scenes(inputs, args.out, args.mosaic)
        refuse_all(scenes, settings)
        part, device = launched(args.launcher)
        model = find_model(args, 'cpu' if args.ray else device)
        if args.ray:
            from relay_seg.inference.on_ray import predict_on_ray
            run = partial(predict_on_ray, partial(find_model, args),
                          model, scenes, settings, address=args.ray)
        elif args.join:
            run = partial(join_scenes, model, scenes, settings)
        else:
            run = partial(predict_scenes, model, scenes, settings,
                          part=args.part or part, quiet=part[0] > 1)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    try:
        code = run()
        if args.truth and not code and Job(
                model, scenes[0].paths, scenes[0].out, settings).is_done():
            score(scenes[0].out, args)
    except KeyboardInterrupt:
        print('Interrupted; the same command goes on from here.',
              file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:  # scores, Ray
        print(error, file=sys.stderr)
        return 1
    return code


if __name__ == '__main__':
    sys.exit(main())
