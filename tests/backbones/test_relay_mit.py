"""What is the Mix Transformer's own; the rest is in test_backbone_*.py."""
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.backbones import MixVisionTransformer
from mmseg.registry import MODELS

from relay_seg.backbones import RelayMiT
from relay_seg.backbones.mix_block import mix_block

ROOT = Path(__file__).parents[2]
B0 = dict(embed_dims=8, num_heads=[1, 2, 5, 8])  # thin, all else as b0
SIZES = {0: 3.4, 1: 13.1, 2: 24.2, 3: 44.0, 4: 60.8, 5: 81.4}


def randomise(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def block_of(stage, **changes):
    layer = randomise(RelayMiT(**B0 | changes)).layers[stage][1][0]
    return layer, layer.norm1.weight.shape[0]


def attention(msa, query, keys):
    """Multi-head attention written out."""
    weights = msa.in_proj_weight.chunk(3)
    biases = msa.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b).unflatten(2, (msa.num_heads, -1))
               for x, w, b in zip((query, keys, keys), weights, biases))
    logits = torch.einsum('bqhc,bkhc->bhqk', q, k) / math.sqrt(q.shape[-1])
    out = torch.einsum('bhqk,bkhc->bqhc', logits.softmax(-1), v)
    return msa.out_proj(out.flatten(2))


@pytest.mark.parametrize('stage', range(4))
@torch.no_grad()
def test_block_written_out(stage):
    """Relay tokens are not reduced, and have no neighbours in the MLP."""
    layer, dims = block_of(stage)
    shape, relays = (16, 24), 3
    x, relay = torch.randn(2, 16 * 24, dims), torch.randn(2, relays, dims)
    got_x, got_relay = mix_block(layer, None, shape, x, relay)

    attn, ffn = layer.attn, layer.ffn.layers
    assert attn.sr_ratio == (8, 4, 2, 1)[stage]
    normed_x, normed_relay = layer.norm1(x), layer.norm1(relay)
    keys = torch.cat((normed_x, normed_relay), 1)
    if attn.sr_ratio > 1:
        image = attn.sr(normed_x.mT.unflatten(2, shape))
        assert image.shape[2] == 16 // attn.sr_ratio
        keys = torch.cat((attn.norm(image.flatten(2).mT),
                          attn.norm(normed_relay)), 1)
    x = x + attention(attn.attn, normed_x, keys)
    relay = relay + attention(attn.attn, normed_relay, keys)

    x = layer.ffn(layer.norm2(x), shape, identity=x)
    fc1, depthwise, fc2 = ffn[0], ffn[1], ffn[4]
    hidden = F.linear(layer.norm2(relay), fc1.weight[:, :, 0, 0], fc1.bias)
    hidden = hidden * depthwise.weight[:, 0, 1, 1] + depthwise.bias
    relay = relay + F.linear(
        F.gelu(hidden), fc2.weight[:, :, 0, 0], fc2.bias)
    torch.testing.assert_close(got_x, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got_relay, relay, rtol=1e-4, atol=1e-4)


class Nothing(torch.nn.Module):
    def forward(self, x):
        return 0 * x


@torch.no_grad()
def test_one_draw_drops_image_and_relay_tokens_together():
    """Stochastic depth is of a sample, as in the other backbones."""
    layer, dims = block_of(3)
    x, relay = torch.randn(32, 16, dims), torch.randn(32, 2, dims)
    layer.ffn.dropout_layer = Nothing()
    without = mix_block(layer, None, (4, 4), x, relay)
    layer.ffn.dropout_layer = DropPath(0.5).train()
    drawn = mix_block(layer, None, (4, 4), x, relay)
    gone = [(a == b).flatten(1).all(1) for a, b in zip(without, drawn)]
    assert torch.equal(*gone)
    assert 0 < gone[0].sum() < 32


@pytest.mark.parametrize('size, shape', [((32, 64), (8, 16)),
                                         ((60, 100), (15, 25))])
def test_any_multiple_of_the_stem(size, shape):
    model = randomise(RelayMiT(**B0))
    views = tuple(torch.randn(1, 3, *size) for _ in range(2))
    for pyramid in model(views):
        expected, side = [], shape
        for _ in range(4):
            expected.append(side)
            side = tuple(-(-s // 2) for s in side)
        assert [tuple(x.shape[2:]) for x in pyramid] == expected


@pytest.mark.parametrize('num_relay_tokens', [0, 4])
def test_window_too_small_to_reduce(num_relay_tokens):
    model = RelayMiT(num_relay_tokens=num_relay_tokens, **B0)
    views = (torch.randn(1, 3, 28, 64), ) * 2
    with pytest.raises(ValueError, match='7 x 16.*8 times.*larger window'):
        model(views)


def test_relay_tokens_carry_through_the_stages():
    """No stage starts them anew."""
    model = randomise(RelayMiT(**B0))
    views = tuple(torch.randn(1, 3, 64, 64) for _ in range(2))
    with torch.no_grad():
        for i, merge in enumerate(model.relay_merge):
            before = model(views)[0]
            merge.weight.zero_()
            after = model(views)[0]
            assert torch.equal(after[i], before[i])
            assert (after[i + 1] - before[i + 1]).abs().max() > 1e-4


def test_pretrained_argument_means_what_it_means_in_the_host(tmp_path):
    host = randomise(MixVisionTransformer(**B0))
    path = str(tmp_path / 'mit.pth')
    torch.save(host.state_dict(), path)
    with pytest.warns(UserWarning, match='init_cfg'):
        model = RelayMiT(pretrained=path, **B0)
    model.init_weights()
    for name, value in host.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('b', SIZES)
def test_configs_are_segformer_b0_to_b5(b):
    """Millions of parameters as in the table of encoders in its paper."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/segformer_b{b}.py')
    backbone = MODELS.build(cfg.model.backbone)
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    assert count == pytest.approx(SIZES[b], rel=0.03)
    widths = [stage[0].embed_dims for stage in backbone.layers]
    assert cfg.model.decode_head.in_channels == widths
