"""The authors' values (tests/golden), under our parameter names."""
from pathlib import Path

import torch
from torch.nn.functional import conv_transpose2d

from relay_seg.checkpoints.namings import find_naming
from relay_seg.checkpoints.unwrapping import split

FOLDER = Path(__file__).parent / 'golden'

VIT = dict(
    arch=dict(
        embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=192),
    img_size=64,
    final_norm=False,
    fusion='mean')
SWIN = dict(
    arch=dict(
        embed_dims=8,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 2, 4],
        extra_norm_every_n_blocks=0),
    img_size=128,
    window_size=4,
    fusion='mean',
    relay_bias='zero')
#: Arguments that only relay backbones have.
RELAY = ('fusion', 'relay_bias')


def load(name):
    return torch.load(FOLDER / f'{name}.pt', weights_only=True)


def weights(golden):
    """All weights of their model, as in a file of theirs."""
    prefix = 'state_dict/'
    return {key.removeprefix(prefix): value for key, value in golden.items()
            if key.startswith(prefix)}


def backbone_state(golden):
    backbone = split(weights(golden), 'golden').backbone
    state, unknown = find_naming(backbone, 'golden').to_ours(backbone)
    assert not unknown
    return state


def head_state(golden):
    return {
        f'upsample.{key}': golden[f'state_dict/seg_head.layers.0.{key}']
        for key in ('weight', 'bias')
    }


def segmentor(file, **changes):
    """Config of a whole model of theirs as ours, relay or plain."""
    is_vit, is_relay = file.startswith('vit'), file.endswith('rt')
    backbone = dict(VIT if is_vit else SWIN)
    head = dict(type='LinearHead', in_index=0)
    head |= (dict(stride=16, in_channels=48, num_classes=4) if is_vit else
             dict(stride=32, in_channels=64, num_classes=3))
    if is_relay:
        backbone['type'] = 'RelayViT' if is_vit else 'RelaySwinV2'
    else:
        backbone = {k: v for k, v in backbone.items() if k not in RELAY}
        backbone |= (dict(type='mmpretrain.VisionTransformer',
                          with_cls_token=False, out_type='featmap')
                     if is_vit else dict(type='mmpretrain.SwinTransformerV2'))
    return dict(
        type='RelayEncoderDecoder' if is_relay else 'PlainEncoderDecoder',
        backbone=backbone | changes, decode_head=head, train_cfg=dict(),
        test_cfg=dict(mode='whole'))


def differences(model, golden):
    """Relative L2 of a segmentor's logits in float32 and in float64."""
    found = {}
    for dtype, out in ((torch.float32, 'out'), (torch.float64, 'out64')):
        views = tuple(golden[f'input/{v}'].to(dtype)
                      for v in ('local', 'global') if f'input/{v}' in golden)
        model.to(dtype).train(False)
        with torch.no_grad():
            logits = model.window_logits(views)
        expected = golden.get(f'{out}/logits_local')
        if expected is None:  # of SwinV2 only what enters the head
            head = {k: v.to(dtype) for k, v in head_state(golden).items()}
            expected = conv_transpose2d(
                golden[f'{out}/embed'], head['upsample.weight'],
                head['upsample.bias'], stride=32)
        assert logits.shape == expected.shape
        found[dtype] = ((logits - expected).norm() / expected.norm()).item()
    return found
