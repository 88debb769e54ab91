"""Memory and speed of prediction over heights, and beside the host.

    python benchmarks/predict_raster.py

Each line of the tables is a process of its own, on the CPU. A raster of
20,000 x 20,000 pixels is generated (tiled GeoTIFF, three bands of bytes) and
its upper 5,000, 10,000 and 20,000 rows are predicted with a tiny relay model;
peak memory is that of the whole process. Then RelayViT-S on a piece, for the
shares of its time. Last, a tiny plain model, with prediction here and with
the whole-image slide inference of the host's EncoderDecoder on the largest
image that fits into --memory. The host adds a canvas of the whole image for
each window, so only its first --host-windows windows are run there: its rate
is taken from these.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CLASSES, WINDOW, STRIDE = 5, 256, 128
WIDE = 8192  # columns that are generated at once
STAGES = ('reading', 'model', 'blending', 'writing')
#: Canvases of the host, in values for each pixel: the image as bytes and
#: floats, sums, one padded window, and their sum.
HOST_VALUES = 3 + 3 / 4 + 3 * CLASSES + 1

TINY = dict(embed_dims=24, num_layers=4, num_heads=3,
            feedforward_channels=48)
PREPROCESSOR = dict(type='mmseg.ViewsDataPreprocessor', mean=[110.] * 3,
                    std=[60.] * 3)
HEAD = dict(
    type='LinearHead', stride=16, in_channels=24, in_index=0,
    num_classes=CLASSES, loss_decode=dict(
        type='CrossEntropyLoss', avg_non_ignore=True))
TEST = dict(mode='slide', crop_size=(WINDOW, WINDOW),
            stride=(STRIDE, STRIDE), blend='gaussian', batch_size=8)
RELAY = dict(
    type='RelayEncoderDecoder', context_factors=(4, ),
    data_preprocessor=PREPROCESSOR,
    backbone=dict(type='RelayViT', arch=TINY, img_size=WINDOW, patch_size=16,
                  out_indices=[3]),
    decode_head=HEAD, train_cfg=dict(), test_cfg=TEST)
PLAIN = dict(
    type='PlainEncoderDecoder', data_preprocessor=PREPROCESSOR,
    backbone=dict(
        type='mmpretrain.VisionTransformer', arch=TINY, img_size=WINDOW,
        patch_size=16, out_indices=[3], with_cls_token=False,
        out_type='featmap'),
    decode_head=HEAD, train_cfg=dict(), test_cfg=TEST)


def make_scene(path: Path, side: int, height: int | None = None) -> None:
    """Fields with texture, written row by row of tiles.

    Args:
        path: File to write.
        side: Columns, and rows if nothing else is said.
        height: Rows.
    """
    import rasterio
    from rasterio.windows import Window
    height = height or side
    rng = np.random.default_rng(0)
    fields = rng.integers(20, 220, (-(-height // 128), -(-side // 128), 3),
                          np.uint8)
    noise = rng.integers(0, 16, (512, WIDE, 1), np.uint8)
    with rasterio.open(
            path, 'w', driver='GTiff', count=3, height=height, width=side,
            dtype='uint8', tiled=True, blockxsize=512, blockysize=512,
            compress='deflate', zlevel=1, interleave='pixel',
            bigtiff='if_safer', crs='EPSG:32648',
            transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)) as raster:
        for top in range(0, height, 512):
            rows = min(512, height - top)
            for left in range(0, side, WIDE):
                width = min(WIDE, side - left)
                pixels = fields[np.arange(top, top + rows)[:, None] // 128,
                                np.arange(left, left + width) // 128]
                pixels = pixels + noise[:rows, :width]
                raster.write(pixels.transpose(2, 0, 1),
                             window=Window(left, top, width, rows))


def cut_scene(scene: Path, height: int, width: int) -> Path:
    """A VRT of the upper left part."""
    path = scene.with_name(f'{height}x{width}.vrt')
    lines = [
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">']
    for band in (1, 2, 3):
        size = f'xOff="0" yOff="0" xSize="{width}" ySize="{height}"'
        lines.append(
            f'<VRTRasterBand dataType="Byte" band="{band}" '
            'blockXSize="512" blockYSize="512"><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{scene.name}'
            f'</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SrcRect {size}/><DstRect {size}/>'
            '</SimpleSource></VRTRasterBand>')
    path.write_text('\n'.join([*lines, '</VRTDataset>']))
    return path


def build(name: str):
    """A model with random weights."""
    import torch
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import relay_seg.registered  # noqa: F401
    init_default_scope('mmseg')
    torch.manual_seed(0)
    if name == 'vit-s':
        cfg = Config.fromfile(ROOT / 'configs/relay/rt_vit_s_dubai.py')
        return MODELS.build(cfg.model).eval()
    return MODELS.build(ConfigDict(
        dict(relay=RELAY, plain=PLAIN)[name])).eval()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def now_mb() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def predict(name: str, scene: Path, height: int, width: int) -> dict:
    """One prediction, in this process."""
    from relay_seg.inference import predict_raster
    from relay_seg.inference.memory import needed
    from relay_seg.inference.model import bands_of
    from relay_seg.inference.raster_source import RasterSource
    from relay_seg.inference.settings import Settings, plan_for
    model = build(name)
    part = cut_scene(scene, height, width)
    source = RasterSource([part], bands_of(model))
    wanted = needed(plan_for(model, source, Settings()).blocks, source,
                    model.out_channels)
    before = now_mb()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        report = predict_raster(model, part, Path(folder) / 'out.tif')
    seconds = time.perf_counter() - start
    return dict(
        seconds=seconds, before=before, peak=peak_mb(), needed=wanted / 1e6,
        rate=height * width / 1e6 / seconds,
        shares={k: report.seconds[k] / seconds for k in STAGES})


class Enough(Exception):
    """As many windows as were wanted."""


def host(scene: Path, side: int, windows: int) -> dict:
    """The first windows of the host's slide inference of a whole image."""
    import rasterio
    import torch
    from mmseg.models.segmentors import EncoderDecoder
    from rasterio.windows import Window
    model = build('plain')
    with rasterio.open(scene) as raster:
        image = raster.read(window=Window(0, 0, side, side))
    before = now_mb()
    inputs = model.data_preprocessor(
        dict(inputs=[torch.from_numpy(image)]))['inputs']
    done, start = 0, time.perf_counter()

    def encode_decode(crop, metas):
        nonlocal done
        if done == windows:
            raise Enough
        done += 1
        return own((crop, ), [dict(img_shape=crop.shape[-2:])])

    own, model.encode_decode = model.encode_decode, encode_decode
    try:
        with torch.no_grad():
            EncoderDecoder.slide_inference(model, inputs, [{}])
    except Enough:
        pass
    seconds = time.perf_counter() - start
    starts = max(side - WINDOW + STRIDE - 1, 0) // STRIDE + 1
    return dict(seconds=seconds, before=before, peak=peak_mb(), windows=done,
                of=starts**2, rate=side**2 / 1e6 * done / starts**2 / seconds)


def in_process(*arguments) -> dict:
    """A measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, '--measure', *map(str, arguments)],
        text=True, capture_output=True,
        env=os.environ | dict(CUDA_VISIBLE_DEVICES=''))
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def line(*cells) -> None:
    print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)


def head(*cells) -> None:
    line(*cells)
    line(*['---'] * len(cells))


def megabytes(result: dict) -> list[str]:
    """Peak, what was there before, the rest, and what it should be."""
    peak, before, wanted = (
        result[key] for key in ('peak', 'before', 'needed'))
    return [f'{x:.0f}' for x in (peak, before, peak - before, wanted)]


def shares(result: dict) -> list[str]:
    return [f'{result["shares"][k]:.1%}' for k in STAGES]


def measure(arguments: list[str]) -> dict:
    what, scene, *rest = arguments
    if what == 'host':
        return host(Path(scene), *map(int, rest))
    return predict(what, Path(scene), *map(int, rest))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--width', type=int, default=20_000)
    add('--heights', type=int, nargs='+', default=[5_000, 10_000, 20_000])
    add('--vit-s-side', type=int, default=2_048,
        help='side of the piece for RelayViT-S')
    add('--memory', type=float, default=8., help='GB that the host may take')
    add('--host-windows', type=int, default=40)
    add('--folder', help='where the raster is kept for the time of the run')
    add('--measure', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        side = max(args.width, *args.heights)
        scene = Path(folder) / 'scene.tif'
        make_scene(scene, side)
        print(f'{os.cpu_count()} CPU cores; windows of {WINDOW}, stride '
              f'{STRIDE}, global view 4 times as wide; a scene '
              f'{args.width:,} pixels wide.\n')
        columns = ('peak MB', 'of these before', 'taken', 'by the rule',
                   'MP/s', *STAGES)
        head('rows', *columns)
        for height in args.heights:
            r = in_process('relay', scene, height, args.width)
            line(f'{height:,}', *megabytes(r), f'{r["rate"]:.2f}', *shares(r))
        print()
        head('model', 'pixels', *columns)
        small = min(args.vit_s_side, side)
        r = in_process('vit-s', scene, small, small)
        line('RelayViT-S', f'{small:,} x {small:,}', *megabytes(r),
             f'{r["rate"]:.3f}', *shares(r))
        fits = int((args.memory * 1e9 / 4 / HOST_VALUES)**0.5)
        fits = min(fits // 256 * 256, side)
        print(f'\nThe largest image that fits into {args.memory:g} GB with '
              f'the host: {fits:,} x {fits:,} pixels.\n')
        head('plain model', 'peak MB', 'of these before', 'MP/s')
        r = in_process('plain', scene, fits, fits)
        line('predict_raster', f'{r["peak"]:.0f}', f'{r["before"]:.0f}',
             f'{r["rate"]:.2f}')
        r = in_process('host', scene, fits, args.host_windows)
        line(f'host (first {r["windows"]} of {r["of"]:,} windows)',
             f'{r["peak"]:.0f}', f'{r["before"]:.0f}', f'{r["rate"]:.2f}')


if __name__ == '__main__':
    main()
