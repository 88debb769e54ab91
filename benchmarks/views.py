"""What global views cost beside the window without its surroundings.

    python benchmarks/views.py
    python benchmarks/views.py --test

Forward and backward pass of the same number of windows, in turns, all with
relay tokens: one view, a global view of half the side, one as large as the
window, and two of these. The memory is what the forward pass keeps for the
backward pass, in bytes of distinct storage, without the parameters. ``--test``
times prediction with a decode head: the local view's maps alone.
"""
import argparse
import logging
from functools import partial

import torch
from measure import Table, in_turns, machine, ratio, spread
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS as MODELS_OF_HOST
from torch import nn

from relay_seg.analysis import saved_bytes
from relay_seg.backbones import RelayMiT, RelaySwinV2, RelayViT

#: Sides of the global views, over that of the window.
VIEWS = {'1': (), '1 and half the side': (0.5, ), '2': (1, ), '3': (1, 1)}
MODELS = {
    'ViT-S': lambda side, **kw: RelayViT(
        'deit-small', img_size=side, out_indices=(2, 5, 8, 11), **kw),
    **{f'SwinV2-{arch[0].upper()}': partial(
        lambda arch, side, **kw: RelaySwinV2(
            arch, img_size=side, window_size=side // 32,
            out_indices=(0, 1, 2, 3), **kw), arch)
       for arch in ('tiny', 'small')},
    'MiT-B1': lambda side, **kw: RelayMiT(
        embed_dims=64, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8], **kw),
}


def outputs(model: nn.Module, views: tuple) -> torch.Tensor:
    return sum(x.sum() for pyramid in model(views) for x in pyramid)


def step(model: nn.Module, views: tuple) -> None:
    outputs(model, views).backward()


def head_of(model: nn.Module, views: tuple) -> nn.Module:
    """The decode head of the configs of the four data sets."""
    init_default_scope('mmseg')
    with torch.no_grad():
        maps = model.eval()(views)[0]
    neck = nn.Identity()
    if maps[0].shape == maps[-1].shape:
        neck = MODELS_OF_HOST.build(dict(
            type='Feature2Pyramid', embed_dim=maps[0].shape[1],
            rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='BN')))
    head = MODELS_OF_HOST.build(dict(
        type='UPerHead', in_channels=[x.shape[1] for x in maps],
        in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=512,
        num_classes=4, norm_cfg=dict(type='BN'), align_corners=False))
    return nn.Sequential(neck, head)


@torch.no_grad()
def predict(model: nn.Module, head: nn.Module, views: tuple) -> None:
    head(model(views, local_only=True)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=MODELS,
                        default=list(MODELS))
    parser.add_argument('--test', action='store_true',
                        help='time prediction instead')
    parser.add_argument('--batch', type=int, default=2, help='windows')
    parser.add_argument('--side', type=int, default=256,
                        help='pixels of a window, a multiple of 32')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'

    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    print(f'{machine()}; ms: median (min to max) of {args.rounds} rounds\n')
    table = Table('model', 'views', 'ms', 'time', 'kept MiB', 'memory')
    for name in args.models:
        torch.manual_seed(0)
        built, given = {}, {}
        for words, sides in VIEWS.items():
            plain = dict(num_relay_tokens=0) if args.test and not sides else {}
            built[words] = MODELS[name](
                args.side, num_views=1 + len(sides), **plain).to(device)
            given[words] = tuple(torch.randn(
                args.batch, 3, *[round(side * args.side)] * 2, device=device)
                for side in (1, *sides))
        if args.test:
            head = head_of(built['1'], given['1']).to(device).eval()
            times = in_turns(
                {n: partial(predict, model.eval(), head, given[n])
                 for n, model in built.items()}, args.rounds, device)
            kept = dict.fromkeys(VIEWS)
        else:
            kept = {n: saved_bytes(
                model.train(), partial(outputs, model, given[n]))
                for n, model in built.items()}
            times = in_turns(
                {n: partial(step, model, given[n])
                 for n, model in built.items()}, args.rounds, device)
        for n in VIEWS:
            memory = ('', '') if kept[n] is None else (
                f'{kept[n] / 2**20:.0f}', f'{kept[n] / kept["1"]:.2f}')
            table.row(name, n, spread(times[n]),
                      f'{ratio(times[n], times["1"]):.2f}', *memory)


if __name__ == '__main__':
    main()
