"""What UPerHead costs beside the backbone, by its width.

    python benchmarks/heads.py

FLOPs of one window of 256 x 256 pixels in a test, by part, and the time of a
forward pass, in turns. The widths are those of ``decode_head.channels``.
"""
import argparse
from functools import partial

import torch
from measure import Table, in_turns, machine, ratio, spread
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401
from relay_seg.analysis import counted_flops


def predict(model, views) -> torch.Tensor:
    with torch.no_grad():
        return model.window_logits(views)


def backbone(model, views):
    return model.backbone(views)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--configs', nargs='+', default=[
        'configs/relay/rt_vit_s_dubai.py',
        'configs/relay/rt_swin2_t_dubai.py',
        'configs/relay/rt_swin2_s_dubai.py'])
    parser.add_argument('--channels', type=int, nargs='+',
                        default=[512, 256, 128, 64])
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    print(f'{machine()}; batch {args.batch}; ms: median (min to max) of '
          f'{args.rounds} rounds\n')
    table = Table('config', 'channels', 'parameters of the head',
                  'GFLOPs / window', 'share of neck and head', 'ms', 'ratio')
    for path in args.configs:
        models = {}
        for channels in args.channels:
            cfg = Config.fromfile(path)
            cfg.model.decode_head.channels = channels
            models[channels] = MODELS.build(cfg.model).eval().to(device)
        views = tuple(torch.rand(2, args.batch, 3, 256, 256, device=device))
        one = tuple(view[:1] for view in views)
        times = in_turns({channels: partial(predict, model, views)
                          for channels, model in models.items()},
                         args.rounds, device)
        for channels, model in models.items():
            whole = counted_flops(model, partial(model.window_logits, one))
            inner = counted_flops(model, partial(backbone, model, one))
            size = sum(p.numel() for p in model.decode_head.parameters())
            table.row(
                f'`{path.split("/")[-1]}`', channels, f'{size:,}',
                f'{whole / 1e9:.1f}', f'{1 - inner / whole:.0%}',
                spread(times[channels]),
                f'{ratio(times[channels], times[args.channels[0]]):.2f}')


if __name__ == '__main__':
    main()
