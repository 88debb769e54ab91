"""Every value of the authors' code, from the stems to the logits."""
import golden_values
import pytest
import torch

import relay_seg.backbones.relay_swinv2
import relay_seg.backbones.relay_vit
from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.heads import LinearHead
from relay_seg.relay import relay_step

VIEWS = ('local', 'global')
FEATURES = ('embed', 'embed_context')  # what enters the head
FILES = {
    'vit_rt': 2,
    'vit_single_reg0': 1,
    'swin_rt': 2,
    'swin_single_reg0': 1
}
PRECISIONS = {torch.float32: ('out/', 1e-4), torch.float64: ('out64/', 1e-6)}


def relative(a, b):
    assert a.shape == b.shape
    return ((a - b).norm() / b.norm()).item()


def build(file, golden):
    views = FILES[file]
    relay = dict(num_views=views, num_relay_tokens=4 * (views - 1))
    if file.startswith('vit'):
        model = RelayViT(**golden_values.VIT, **relay)
        model.load_state_dict(golden_values.backbone_state(golden))
        head = LinearHead(
            stride=16, in_channels=48, num_classes=4, in_index=0)
    else:
        model = RelaySwinV2(**golden_values.SWIN, **relay)
        model.load_state_dict(golden_values.backbone_state(golden))
        head = LinearHead(
            stride=32, in_channels=64, num_classes=3, in_index=0)
    head.load_state_dict(golden_values.head_state(golden))
    return model.eval(), head.eval()


def record(model, views, monkeypatch):
    """Outputs of a model, and of each of its relay steps."""
    steps = []

    def recording_step(blocks, branches, relay, fusion, local_only):
        copies, block = [], blocks[0]
        assert not local_only
        assert all(other is block for other in blocks)

        def recording_block(x, relay):
            x, relay = block(x, relay)
            copies.append(relay)
            return x, relay

        out = relay_step(
            [recording_block] * len(blocks), branches, relay, fusion)
        copies = torch.cat(copies).chunk(len(branches))
        steps.append((branches, relay, copies, *out))
        return out

    for module in (relay_seg.backbones.relay_vit,
                   relay_seg.backbones.relay_swinv2):
        monkeypatch.setattr(module, 'relay_step', recording_step)
    return model(views), steps


def named(model, pyramids, steps):
    """Under the authors' names."""
    out = {}

    def add(name, branches):
        out.update({f'{name}/{v}': x for v, x in zip(VIEWS, branches)})

    out['relay/input'] = steps[0][1]
    is_vit = isinstance(model, RelayViT)
    depths = [3] if is_vit else [2, 2, 2, 2]
    add('tokens_input' if is_vit else 'stage_input', steps[0][0])
    every = iter(steps)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            name = f'block{i:02}' if is_vit else f'stage{stage}_block{i:02}'
            branches, relay, copies, *updated = next(every)
            if stage and i == 0:
                out[f'relay/stage{stage}_downsampled'] = relay
            branches, out[f'relay/{name}'] = updated
            add(f'relay_branch/{name}', copies)
            if is_vit:
                add(f'tokens/{name}', branches)
        if not is_vit:
            add(f'stage{stage}', branches)
    for key, pyramid in zip(FEATURES, pyramids):
        out[key] = pyramid[-1]
    return out


@pytest.mark.parametrize('dtype', PRECISIONS)
@pytest.mark.parametrize('file', FILES)
def test_every_value(file, dtype, monkeypatch):
    golden = golden_values.load(file)
    model, head = build(file, golden)
    model, head = model.to(dtype), head.to(dtype)
    views = tuple(
        golden[f'input/{v}'].to(dtype) for v in VIEWS[:FILES[file]])
    with torch.no_grad():
        pyramids, steps = record(model, views, monkeypatch)
        ours = named(model, pyramids, steps)
        for view, pyramid in zip(VIEWS, pyramids):
            ours[f'logits_{view}'] = head(pyramid)
    if file == 'vit_single_reg0':
        ours['embed'] = ours['logits_local']  # see golden/README.md

    prefix, tolerance = PRECISIONS[dtype]
    theirs = {
        key.removeprefix(prefix): value
        for key, value in golden.items() if key.startswith(prefix)
    }
    assert theirs.keys() <= ours.keys()
    off = {}
    for key, value in theirs.items():
        shape = value.shape
        if key.startswith('embed') and file == 'vit_rt':
            shape = (2, 48, 4, 4)
            value = value.mT.reshape(shape)
        elif key.startswith('stage'):
            value = value.flatten(1, 2)
        difference = relative(ours[key], value)
        if not difference < tolerance:
            off[key] = difference
    assert not off


@pytest.mark.parametrize('file', [f for f in FILES if FILES[f] == 2])
def test_covers_both_views_and_all_blocks(file):
    """So that an emptied file does not pass for agreement."""
    golden = golden_values.load(file)
    blocks = 3 if file == 'vit_rt' else 8
    after = [k for k in golden if k.startswith('out/relay/') and 'block' in k]
    before = [k for k in golden if k.startswith('out/relay_branch/')]
    assert len(after) == blocks and len(before) == 2 * blocks
    assert {'out/logits_local', 'out/logits_global'} <= golden.keys()
