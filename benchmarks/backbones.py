"""Relay backbones against two passes of the host's plain backbone.

    python benchmarks/backbones.py

One pass for the local view and one for the global view is what the method
costs at least if nothing is shared. Both run in turns, on the same images.
The memory is what a training step keeps for its backward pass, in bytes of
distinct storage; on a GPU also the peak that its allocator saw. GFLOP/s count
matrix products and convolutions, 2 for each multiply-add, beside those that
one large linear layer reaches in the same run.
"""
import argparse
from functools import partial
from statistics import median

import torch
from measure import Table, in_turns, machine, peak_bytes, ratio, spread
from mmpretrain.models.backbones import SwinTransformerV2, VisionTransformer
from torch import nn
from torch.nn.functional import linear

from relay_seg.analysis import counted_flops, saved_bytes
from relay_seg.backbones import (
    RelaySwinV2,
    RelayTimmViT,
    RelayViT,
    TimmViT,
)

SIDE = 256


def vits(arch: str) -> tuple[nn.Module, nn.Module]:
    ours = RelayViT(arch, img_size=SIDE, patch_size=16)
    plain = VisionTransformer(
        arch, img_size=SIDE, patch_size=16, with_cls_token=False,
        out_type='featmap')
    return ours, plain


def swins(arch: str) -> tuple[nn.Module, nn.Module]:
    every = (0, 1, 2, 3)
    return (RelaySwinV2(arch, img_size=SIDE, window_size=8,
                        out_indices=every),
            SwinTransformerV2(arch, img_size=SIDE, window_size=8,
                              out_indices=every))


def timm_vits(arch: str) -> tuple[nn.Module, nn.Module]:
    """The plain one takes timm's layers as timm does."""
    return (RelayTimmViT(arch, img_size=SIDE, patch_size=16),
            TimmViT(arch=arch, img_size=SIDE, patch_size=16))


MODELS = {
    'ViT-S': (vits, 'deit-small'),
    'SwinV2-T': (swins, 'tiny'),
    'SwinV2-S': (swins, 'small'),
    'DINOv3-S': (timm_vits, 'vit_small_patch16_dinov3'),
    'DINOv3-B': (timm_vits, 'vit_base_patch16_dinov3'),
    'DINOv2-S': (timm_vits, 'vit_small_patch14_reg4_dinov2'),
}


def forward(model: nn.Module, views: tuple) -> torch.Tensor:
    """One number that depends on all feature maps."""
    if isinstance(model, (VisionTransformer, SwinTransformerV2, TimmViT)):
        pyramids = [model(view) for view in views]
    else:
        pyramids = model(views)
    return sum(x.mean() for pyramid in pyramids for x in pyramid)


def evaluate(model: nn.Module, views: tuple) -> None:
    model.eval()
    with torch.no_grad():
        forward(model, views)


def train(model: nn.Module, views: tuple) -> None:
    model.train()
    forward(model, views).backward()


def matmul_rate(device: str, rounds: int) -> float:
    """FLOP/s of one large linear layer."""
    side = 8192 if device == 'cuda' else 3000
    a, b = torch.rand(2, side, side, device=device)
    times = in_turns({'product': lambda: linear(a, b, a[0])}, rounds,
                     device)['product']
    return 2 * side**3 / median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=list(MODELS),
                        choices=list(MODELS))
    parser.add_argument('--batch', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--steps', nargs='+', default=['forward', 'training'],
                        choices=['forward', 'training'])
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f'{machine()}; ms: median (min to max) of {args.rounds} rounds\n')
    peak = matmul_rate(device, args.rounds)
    print(f'One large linear layer: {peak / 1e9:.0f} GFLOP/s\n')
    table = Table('model', 'batch', 'step', 'relay ms', 'plain x 2 ms',
                  'ratio', 'GFLOP/s', 'share', 'plain GFLOP/s',
                  'memory', 'plain memory', 'ratio')
    for name in args.models:
        build, arch = MODELS[name]
        ours, plain = (model.to(device) for model in build(arch))
        models = {'ours': ours, 'plain': plain}
        for batch in args.batch:
            views = tuple(torch.rand(2, batch, 3, SIDE, SIDE, device=device))
            work = {key: counted_flops(m, partial(forward, m, views))
                    for key, m in models.items()}
            for step in args.steps:
                call = evaluate if step == 'forward' else train
                calls = {key: partial(call, m, views)
                         for key, m in models.items()}
                times = in_turns(calls, args.rounds, device)
                passes = 1 if step == 'forward' else 3  # backward: twice
                rate = {key: passes * work[key] / median(times[key])
                        for key in calls}
                row = [name, batch, step, spread(times['ours']),
                       spread(times['plain']),
                       f'{ratio(times["ours"], times["plain"]):.2f}',
                       f'{rate["ours"] / 1e9:.0f}',
                       f'{rate["ours"] / peak:.0%}',
                       f'{rate["plain"] / 1e9:.0f}']
                if step == 'training':
                    memory = [
                        peak_bytes(calls[key], device) if device == 'cuda'
                        else saved_bytes(m, partial(forward, m, views))
                        for key, m in models.items()]
                    row += [f'{m / 2**20:.0f} MiB' for m in memory]
                    row.append(f'{memory[0] / memory[1]:.2f}')
                else:
                    row += [''] * 3
                table.row(*row)


if __name__ == '__main__':
    main()
