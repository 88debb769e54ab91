"""How time and memory grow: scene, context factor, relay tokens, batch.

    python benchmarks/growth.py --plot docs/images/growth.png

Four sweeps with small models, and beside each measured slope (of a line
through the points, on logarithmic axes, or per token or window) the one that
theory gives:

* scene side 1k to 16k: streaming prediction from file to file, each in a
  process of its own; time grows with the pixels, slope 2, and memory with the
  width alone, at most slope 1;
* context factor 1 to 16: the model sees views of one size, slope 0; cutting a
  global view reads k x k native pixels for each of its own, slope 2;
* relay tokens 0 to 64: each joins 256 image tokens of RelayViT-S, and the
  token-wise layers grow by 1/256 with it;
* windows in a batch 1 to 32: slope 1 in time, the same for each window.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import Table, in_turns, machine, seconds
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401
from relay_seg.backbones import RelayViT
from relay_seg.views import Window, contexts_of, cut_views, reader

FACTORS, TOKENS, BATCHES = (1, 2, 4, 8, 16), (0, 4, 16, 64), (1, 2, 4, 8, 16)
SIDES = 1024, 2048, 4096, 8192, 16384


def slope(x, y) -> float:
    """Of a line through the points on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def predict_once(side: int) -> dict:
    """Seconds and peak bytes of one prediction; run in its own process."""
    from predict_raster import RELAY, make_scene

    from relay_seg.inference import predict_raster
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(RELAY).eval()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder, 'scene.tif')
        make_scene(scene, side)
        spent = seconds(partial(predict_raster, model, scene,
                                Path(folder, 'out.tif')), 'cpu')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(seconds=spent, bytes=peak)


def scenes(sides) -> dict[str, list[float]]:
    found = dict(x=list(sides), seconds=[], MiB=[])
    for side in sides:
        out = subprocess.run(
            [sys.executable, __file__, '--predict-once', str(side)],
            capture_output=True, text=True, check=True).stdout
        result = json.loads(out.splitlines()[-1])
        found['seconds'].append(result['seconds'])
        found['MiB'].append(result['bytes'] / 2**20)
    return found


def factors(rounds: int) -> dict[str, list[float]]:
    """Cutting both views, and the model on them."""
    side = 256
    scene = torch.rand(3, side * 17, side * 17)
    window = Window(side * 8, side * 8, side, side)
    model = small_vit(4)
    views = tuple(torch.rand(2, 4, 3, side, side))
    read = reader(scene, 0.)
    cut = in_turns({k: partial(cut_views, read, window, contexts_of((k, )))
                    for k in FACTORS}, rounds)
    run = in_turns({k: partial(forward, model, views) for k in FACTORS},
                   rounds)
    return dict(x=list(FACTORS),
                **{'cutting ms': [1000 * np.median(cut[k]) for k in FACTORS],
                   'model ms': [1000 * np.median(run[k]) for k in FACTORS]})


def small_vit(tokens: int) -> RelayViT:
    return RelayViT('deit-small', img_size=256, patch_size=16,
                    num_relay_tokens=tokens).eval()


def forward(model, views) -> None:
    with torch.no_grad():
        model(views)


def tokens(rounds: int) -> dict[str, list[float]]:
    views = tuple(torch.rand(2, 2, 3, 256, 256))
    times = in_turns({n: partial(forward, small_vit(n), views)
                      for n in TOKENS}, rounds)
    return dict(x=list(TOKENS),
                ms=[1000 * np.median(times[n]) for n in TOKENS])


def batches(rounds: int) -> dict[str, list[float]]:
    model = small_vit(4)
    times = in_turns({
        n: partial(forward, model, tuple(torch.rand(2, n, 3, 256, 256)))
        for n in BATCHES}, rounds)
    return dict(x=list(BATCHES),
                ms=[1000 * np.median(times[n]) for n in BATCHES])


def draw(found: dict, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 6), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (title, sweep) in zip(figure.subplots(2, 2).flat,
                                    found.items()):
        x = np.array(sweep['x'])
        for name, y in sweep.items():
            if name != 'x':
                axes.plot(x, y, 'o-', label=name)
        if title != 'relay tokens':
            axes.set_xscale('log', base=2)
            axes.set_yscale('log')
        axes.set(title=title, xticks=x, xticklabels=x)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sides', type=int, nargs='+', default=list(SIDES))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--plot', type=Path, help='picture to draw')
    parser.add_argument('--predict-once', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.predict_once:
        print(json.dumps(predict_once(args.predict_once)))
        return
    torch.manual_seed(0)
    print(f'{machine()}\n')
    found = {
        'scene side, pixels': scenes(args.sides),
        'context factor': factors(args.rounds),
        'relay tokens': tokens(args.rounds),
        'windows in a batch': batches(args.rounds),
    }
    for title, sweep in found.items():
        table = Table(title, *map(str, sweep['x']), 'slope', 'theory')
        for name, y in sweep.items():
            if name == 'x':
                continue
            measured, theory = expected(title, name, sweep['x'], y)
            table.row(name, *(f'{value:.3g}' for value in y), measured, theory)
        print()
    if args.plot:
        draw(found, args.plot)


def expected(title: str, name: str, x, y) -> tuple[str, str]:
    """Measured and theoretical slope, in words of the sweep."""
    if title == 'relay tokens':
        rise = np.polyfit(x, np.array(y) / y[0], 1)[0]
        return f'{rise:.2%} / token', f'{1 / 256:.2%} / token'
    theory = {'seconds': '2', 'MiB': '1 or less', 'cutting ms': 'up to 2',
              'model ms': '0', 'ms': '1'}[name]
    return f'{slope(x, y):.2f}', theory


if __name__ == '__main__':
    main()
