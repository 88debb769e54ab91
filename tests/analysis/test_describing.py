"""Parameters, operations and memory against numbers found otherwise."""
import json
import runpy
import sys
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from torch import nn

from relay_seg.analysis import activation_bytes, counted_flops, describe
from relay_seg.analysis.window import window_input
from relay_seg.backbones import RelayViT

ROOT = Path(__file__).parents[2]
SMALL = 'swin2_n_dubai'


class Stub:
    """A window of any model: calls it with tensors."""

    def __init__(self, *inputs):
        self.inputs = inputs

    def losses(self, model):
        return model(*self.inputs)


def vit_flops(tokens, layers, width, hidden, patch_pixels, bands):
    """By hand: products of matrices, 2 for a multiplication and addition."""
    patch = (tokens - R) * width * patch_pixels * bands
    layer = (
        tokens * width * 3 * width  # queries, keys, values
        + 2 * tokens * tokens * width  # scores, and the values they weigh
        + tokens * width * width  # projection
        + 2 * tokens * width * hidden)  # MLP
    return 2 * (patch + layers * layer)


R = 4


@pytest.mark.parametrize('num_views', [1, 2])
def test_flops_of_a_vit_are_those_by_hand(num_views):
    model = RelayViT(
        arch=dict(embed_dims=48, num_layers=3, num_heads=4,
                  feedforward_channels=96),
        img_size=64, patch_size=16, num_views=num_views, num_relay_tokens=R)
    views = (torch.zeros(1, 3, 64, 64), ) * num_views
    # 4 x 4 patches and the relay tokens, for each view.
    expected = num_views * vit_flops(16 + R, 3, 48, 96, 16 * 16, 3)
    assert counted_flops(model, lambda: model(views)) == expected


def test_flops_leave_the_model_trainable():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[1].requires_grad_(False)
    assert counted_flops(model, lambda: model(torch.zeros(7, 3))) == (
        2 * 7 * (3 * 5 + 5 * 2))
    assert [p.requires_grad for p in model.parameters()] == [
        True, True, False, False]


def test_activations_of_small_models_are_those_by_hand():
    x = torch.zeros(4, 8)
    line = nn.Linear(8, 16)
    # Its input, for the gradient of the weight; not the weight itself.
    assert activation_bytes(line, Stub(x)) == 4 * 4 * 8
    # Then the result of the ReLU, which is the input of the next one, too.
    line = nn.Sequential(line, nn.ReLU(), nn.Linear(16, 2))
    assert activation_bytes(line, Stub(x)) == 4 * (4 * 8 + 4 * 16)


class Again(nn.Module):
    """Saves one tensor, as itself and as a view, many times."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x):
        y = (x * self.scale).exp()  # saves x; exp saves y
        return [y * y for _ in range(3)] + [y[:5] * y[5:]]


def test_memory_counts_once_however_often_it_is_saved():
    assert activation_bytes(Again(), Stub(torch.zeros(10))) == 4 * (10 + 10)


class Chain(nn.Module):
    """Makes and drops tensors whose places are used again."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1000))

    def forward(self, x):
        y = self.scale * x
        for _ in range(20):
            y = y.exp()
        return y


def test_places_that_are_used_again_count_again():
    assert activation_bytes(Chain(), Stub(torch.zeros(1000))) == (
        4 * 1000 * 21)


@pytest.fixture(scope='module')
def twins():
    return {folder: describe(Config.fromfile(ROOT / path))
            for folder, path in (
                ('relay', f'configs/relay/rt_{SMALL}.py'),
                ('plain', f'configs/plain/{SMALL}.py'))}


def test_relay_adds_what_it_has_more_than_its_twin(twins):
    relay, plain = twins['relay'], twins['plain']
    added = relay.parts['backbone: added by relay']
    assert added == relay.parameters - plain.parameters == 100260
    assert relay.relay_share == pytest.approx(
        added / plain.backbone_parameters)
    assert plain.parts['backbone: added by relay'] == 0
    for part in ('backbone: stem', 'backbone: blocks', 'decode_head'):
        assert relay.parts[part] == plain.parts[part] > 0


def test_costs_stay_as_they_are(twins):
    """Operations to the last; kernels may save a little more or less."""
    assert twins['plain'].flops == 928_624_640
    assert twins['relay'].flops == 1_518_436_352
    assert twins['plain'].activation_bytes == pytest.approx(21.9e6, rel=0.05)
    assert twins['relay'].activation_bytes == pytest.approx(48.4e6, rel=0.05)
    assert twins['relay'].views == ((128, 128), (128, 128))
    assert twins['relay'].flops_per_megapixel == pytest.approx(
        twins['relay'].flops * 1e6 / 96**2)


def test_describing_is_the_same_each_time(twins):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = describe(Config.fromfile(ROOT / f'configs/relay/rt_{SMALL}.py'))
    assert again == twins['relay']
    assert torch.equal(torch.get_rng_state(), state)


def test_config_of_the_host():
    """Bands, window and labels come from where the host has them."""
    path = (Path(mmseg.__file__).parent / '.mim/configs/segformer'
            / 'segformer_mit-b0_8xb2-160k_ade20k-512x512.py')
    found = describe(Config.fromfile(path), size=(64, 96))
    assert found.parts['backbone: added by relay'] == 0
    assert found.window == found.stride == (64, 96)
    assert found.parameters == 3_753_718
    assert found.flops > 0 and found.activation_bytes > 0


def test_window_is_where_configs_say_it():
    slide = Config(dict(model=dict(
        backbone=dict(in_channels=4),
        test_cfg=dict(mode='slide', crop_size=(64, 32), stride=(48, 16)))))
    assert window_input(slide).size == (64, 32)
    assert window_input(slide).stride == (48, 16)
    assert window_input(slide).bands == 4
    whole = Config(dict(model=dict(
        backbone=dict(), test_cfg=dict(mode='whole'))))
    with pytest.raises(ValueError, match='--size HEIGHT WIDTH'):
        window_input(whole)
    whole.crop_size = (512, 1024)
    assert window_input(whole).stride == (512, 1024)


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['describe.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/describe.py'), run_name='__main__')


def test_tool_prints_tables_and_json(capsys, twins):
    relay = ROOT / f'configs/relay/rt_{SMALL}.py'
    plain = ROOT / f'configs/plain/{SMALL}.py'
    call(relay)
    text = capsys.readouterr().out
    assert '100,260' in text and '1.52 GFLOPs' in text
    call(plain, relay)
    assert (f'| `rt_{SMALL}` | 5,253,072 | 100,260 (1.95 %) | 6,001,429 |'
            in capsys.readouterr().out)
    call(relay, '--json')
    found, = json.loads(capsys.readouterr().out)
    assert found['flops'] == twins['relay'].flops
    assert found['parts']['backbone: added by relay'] == 100260


def test_tool_says_what_is_missing(capsys):
    with pytest.raises(SystemExit):
        call('nowhere.py')
    assert 'nowhere.py is no file' in capsys.readouterr().err
