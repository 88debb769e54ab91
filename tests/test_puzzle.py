"""The idea itself: a label that only the surroundings can tell.

Scenes show the same texture everywhere. A marker, bright or dark, lies
outside the window but inside the global view; it decides the class of all
pixels of the window.
"""
import pytest
import torch
import torch.nn.functional as F

from relay_seg.backbones import (
    RelayMiT,
    RelaySwinV2,
    RelayTimmViT,
    RelayViT,
)
from relay_seg.backbones.place import RELAY_PLACES
from relay_seg.backbones.relay_swinv2 import RELAY_BIASES
from relay_seg.relay import FUSIONS

SIDE, FACTOR, CLASSES = 32, 4, 2
VIT = dict(
    arch=dict(
        embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64),
    img_size=SIDE, patch_size=8)
SWIN = dict(
    arch=dict(
        embed_dims=16, depths=[2, 2], num_heads=[2, 2],
        extra_norm_every_n_blocks=0),
    img_size=SIDE, window_size=4, out_indices=[1], drop_path_rate=0.,
    pretrained_window_sizes=[0, 0])


def batch_of(size, generator):
    """Views and labels; the local views of both classes look alike."""
    label = torch.randint(CLASSES, (size, ), generator=generator)
    local, wide = torch.rand(2, size, 1, SIDE, SIDE, generator=generator)
    inner = SIDE // FACTOR
    first = (SIDE - inner) // 2
    for i in range(size):
        while True:
            y, x = torch.randint(SIDE - 4, (2, ), generator=generator)
            outside = (y + 4 <= first or y >= first + inner
                       or x + 4 <= first or x >= first + inner)
            if outside:
                break
        wide[i, :, y:y + 4, x:x + 4] = 3. if label[i] else -2.
    return (local, wide), label


class Puzzle(torch.nn.Module):
    """A backbone and a linear head on the local view."""

    def __init__(self, backbone, views):
        super().__init__()
        self.backbone = backbone
        dims = backbone(views)[0][-1].shape[1]
        self.head = torch.nn.Conv2d(dims, CLASSES, 1)

    def forward(self, views):
        return self.head(self.backbone(views)[0][-1])


def accuracy_after(build, steps, enough=None, draw=batch_of):
    """Pixel accuracy on new scenes, and the steps taken to ``enough``."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    test_views, test_label = draw(256, torch.Generator().manual_seed(1))
    model = Puzzle(build(), test_views)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(1, steps + 1):
        views, label = draw(32, generator)
        logits = model.train()(views)
        target = label[:, None, None].expand(-1, *logits.shape[-2:])
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                pred = model.eval()(test_views).argmax(1)
            share = (pred == test_label[:, None, None]).float().mean().item()
            if enough and share >= enough:
                break
    return share, step


MIT = dict(
    embed_dims=16, num_stages=2, num_layers=[2, 2], num_heads=[1, 2],
    patch_sizes=[7, 3], strides=[4, 2], sr_ratios=[2, 1], out_indices=[1])
TIMM = dict(
    arch='vit_small_patch16_dinov3', img_size=SIDE, patch_size=8,
    timm_cfg=dict(embed_dim=32, depth=3, num_heads=2, mlp_ratio=2,
                  init_values=1.))
FAMILIES = {
    'vit': lambda **kw: RelayViT(in_channels=1, **VIT, **kw),
    'swin': lambda **kw: RelaySwinV2(in_channels=1, **SWIN, **kw),
    'mit': lambda **kw: RelayMiT(in_channels=1, **MIT, **kw),
    'dinov3': lambda **kw: RelayTimmViT(
        **dict(TIMM, in_channels=1, relay_place='bias') | kw),
    'dinov2': lambda **kw: RelayTimmViT(**dict(
        TIMM, in_channels=1, relay_place='bias',
        arch='vit_small_patch14_reg4_dinov2') | kw),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_relay_tokens_solve_the_puzzle(family):
    share, _ = accuracy_after(FAMILIES[family], 400, enough=0.95)
    assert share >= 0.95


@pytest.mark.parametrize('family', FAMILIES)
def test_cut_off_it_cannot_be_solved(family):
    share, _ = accuracy_after(
        lambda: FAMILIES[family](num_relay_tokens=0), 100)
    assert share < 0.60


def main():
    """Steps that each variant needs: the tables in the docs."""
    torch.set_num_threads(1)
    print('| model | fusion | relay bias | steps to 95 % | accuracy |')
    print('|---|---|---|---|---|')
    variants = [('vit', dict(fusion=f)) for f in FUSIONS]
    variants += [('swin', dict(fusion=f, relay_bias=b))
                 for f in FUSIONS for b in RELAY_BIASES]
    variants += [('mit', dict(fusion=f)) for f in FUSIONS]
    for family, args in variants:
        share, steps = accuracy_after(
            lambda f=family, a=args: FAMILIES[f](**a), 400, enough=0.95)
        steps = steps if share >= 0.95 else 'not in 400'
        print(f'| {family} | {args["fusion"]} | {args.get("relay_bias", "-")}'
              f' | {steps} | {share:.3f} |', flush=True)
    print('\n| rotary coordinates | relay_place | steps to 95 % | accuracy |')
    print('|---|---|---|---|')
    for scale, said in ((1, 'its own'), (FACTOR, 'of the local view')):
        for place in RELAY_PLACES[::-1]:
            share, steps = accuracy_after(
                lambda s=scale, p=place: FAMILIES['dinov3'](
                    rotary_scales=[s], relay_place=p), 600, enough=0.95)
            print(f'| {said} | {place} | {steps} | {share:.3f} |', flush=True)


if __name__ == '__main__':
    main()
