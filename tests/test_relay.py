"""Both fusions against naive restatements of the method, loop by loop."""
import itertools
from functools import partial
from math import log, log2

import pytest
import torch
import torch.nn.functional as F

from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.backbones.place import RELAY_PLACES
from relay_seg.backbones.swin_block import RELAY_BIASES
from relay_seg.relay import FUSIONS, relay_step

HEADS = 2


def assert_alike(pyramids, naive_pyramids):
    for pyramid, naive in zip(pyramids, naive_pyramids, strict=True):
        for x, y in zip(pyramid, naive, strict=True):
            assert x.shape == y.shape
            assert (x - y).norm() < 1e-6 * y.norm()


def randomise(model):
    """Draw every parameter anew, so that none is zero, one or a copy."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(generator=generator)
            if name.endswith('logit_scale'):
                p.add_(log(100.))  # some above the clamp, some below
            elif name.endswith('weight') and p.ndim > 1:
                p.mul_(p[0].numel()**-0.5)
    return model.double().eval()


def make_views(num_views, *shape, wide=None):
    """Views alike, or the global ones of another height and width."""
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(2, 3, *(wide if wide and i else shape),
                    dtype=torch.float64, generator=generator)
        for i in range(num_views))


class Weights:
    """Weights of a part of a model, by their names within it."""

    def __init__(self, state, prefix=''):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return self.state[self.prefix + name]

    def __contains__(self, name):
        return self.prefix + name in self.state

    def part(self, name):
        return Weights(self.state, f'{self.prefix}{name}.')

    def linear(self, name, x):
        x = x @ self[f'{name}.weight'].T
        return x + self[f'{name}.bias'] if f'{name}.bias' in self else x

    def norm(self, name, x, eps):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
        return x * self[f'{name}.weight'] + self[f'{name}.bias']

    def mlp(self, x):
        x = F.gelu(self.linear('ffn.layers.0.0', x))
        return self.linear('ffn.layers.1', x)

    def stem(self, view, image):
        """Image to tokens in reading order, with the stem of the view."""
        name = f'global_patch_embed.{view - 1}' if view else 'patch_embed'
        weight = self[f'{name}.projection.weight']
        size = weight.shape[-1]
        height, width = (side // size for side in image.shape[-2:])
        tokens = []
        for i, j in itertools.product(range(height), range(width)):
            patch = image[:, :, i * size:(i + 1) * size,
                          j * size:(j + 1) * size]
            tokens.append(patch.flatten(1) @ weight.flatten(1).T)
        x = torch.stack(tokens, dim=1) + self[f'{name}.projection.bias']
        return x, (height, width)


def place_logits(w, shape, place):
    """Of an image token at (row, column): heard and listens, (H, R) each."""
    y, x = ((2 * at + 1) / side - 1 for at, side in zip(place, shape))
    # Places are float32.
    where = torch.tensor([y, x], dtype=torch.float32).double()
    hidden = w.linear('hidden', where).relu()
    heard, listens = w.linear('logits', hidden).chunk(2)
    return heard.reshape(HEADS, -1), listens.reshape(HEADS, -1)


def fuse(block, tokens, shapes, relay, fusion):
    """The method's two fusions, as the paper and the released code do."""
    tokens = list(tokens)
    if fusion == 'sequential':
        for view in range(len(tokens) - 1, -1, -1):  # the widest view first
            tokens[view], relay = block(
                tokens[view], relay, shape=shapes[view])
        return tokens, relay
    total = 0
    for view in range(len(tokens)):
        tokens[view], copy = block(tokens[view], relay, shape=shapes[view])
        total = total + copy
    return tokens, total / len(tokens)


def to_map(x, shape):
    return x.reshape(len(x), *shape, -1).permute(0, 3, 1, 2)


def attend(q, k, v, bias=0.):
    """Softmax attention of one head: (B, N, c) each."""
    weights = (q @ k.mT + bias).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


# ViT ------------------------------------------------------------------------


def naive_vit_block(w, place, x, relay, shape):
    tokens = torch.cat((relay, x), dim=1)
    bias = torch.zeros(HEADS, *2 * [tokens.shape[1]]).double()
    if place is not None:
        for i, j in itertools.product(*map(range, shape)):
            at = relay.shape[1] + i * shape[1] + j
            heard, listens = place_logits(place, shape, (i, j))
            bias[:, at, :relay.shape[1]] = heard
            bias[:, :relay.shape[1], at] = listens
    n, dims = relay.shape[1], x.shape[2]
    q, k, v = w.linear('attn.qkv', w.norm('ln1', tokens, 1e-6)).chunk(3, -1)
    c = dims // HEADS
    heads = []
    for i in range(HEADS):
        part = slice(i * c, (i + 1) * c)
        heads.append(
            attend(q[..., part] / c**0.5, k[..., part], v[..., part],
                   bias[i]))
    out = w.linear('attn.proj', torch.cat(heads, -1))
    if 'attn.gamma1.weight' in w:
        out = out * w['attn.gamma1.weight']
    tokens = tokens + out
    out = w.mlp(w.norm('ln2', tokens, 1e-6))
    if 'ffn.gamma2.weight' in w:
        out = out * w['ffn.gamma2.weight']
    tokens = tokens + out
    return tokens[:, n:], tokens[:, :n]


def naive_vit(state, views, layers, fusion):
    w = Weights(state)
    tokens, shapes = [], []
    for view, image in enumerate(views):
        x, shape = w.stem(view, image)
        pos = w[f'global_pos_embed.{view - 1}' if view else 'pos_embed']
        if x.shape[1] != pos.shape[1]:  # resized as the host does
            whole = pos.reshape(1, *shapes[0], -1).permute(0, 3, 1, 2)
            pos = F.interpolate(whole, shape, mode='bicubic',
                                align_corners=False).flatten(2).mT
        tokens.append(x + pos)
        shapes.append(shape)
    relay = torch.cat([w['relay_tokens']] * len(views[0]))
    pyramids = [[] for _ in views]
    for i in range(layers):
        layer = w.part(f'layers.{i}')
        place = w.part(f'relay_places.{i}')
        block = partial(naive_vit_block, layer,
                        place if 'hidden.weight' in place else None)
        tokens, relay = fuse(block, tokens, shapes, relay, fusion)
        for pyramid, x, shape in zip(pyramids, tokens, shapes):
            if i == layers - 1:
                x = w.norm('ln1', x, 1e-6)
            pyramid.append(to_map(x, shape))
    return pyramids


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('num_views', [1, 2, 3])
@pytest.mark.parametrize('layer_scale', [0., 1e-4])
def test_vit_equals_naive(num_views, fusion, layer_scale):
    assert_alike(*vit_pair(num_views, fusion, layer_scale))


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('relay_place', RELAY_PLACES)
@pytest.mark.parametrize('wide', [(24, 16), (16, 8), (32, 24)])
def test_vit_with_place_and_views_of_their_own_size(
        fusion, relay_place, wide):
    ours, naive = vit_pair(3, fusion, 1e-4, relay_place, wide)
    assert_alike(ours, naive)


def vit_pair(num_views, fusion, layer_scale, relay_place='none', wide=None):
    """Pyramids of ours and of the restatement."""
    model = randomise(
        RelayViT(
            arch=dict(
                embed_dims=8,
                num_layers=3,
                num_heads=HEADS,
                feedforward_channels=16),
            img_size=(24, 16),
            patch_size=8,
            out_indices=[0, 1, 2],
            num_relay_tokens=3,
            layer_scale_init_value=layer_scale,
            num_views=num_views,
            relay_place=relay_place,
            fusion=fusion))
    views = make_views(num_views, 24, 16, wide=wide)
    with torch.no_grad():
        ours = model(views)
        naive = naive_vit(model.state_dict(), views, 3, fusion)
        alone, = model(views, local_only=True)
    assert len(ours) == num_views
    assert_alike([alone], naive[:1])
    return ours, naive


# Swin -----------------------------------------------------------------------


def relative_bias(w, size, dy, dx):
    """Bias of a key ``dy`` rows and ``dx`` columns before the query: (H,)."""
    offset = []
    for d in (dy, dx):
        d = d / (size - 1) * 8
        sign = (d > 0) - (d < 0)
        offset.append(sign * log2(abs(d) + 1) / log2(8))
    # The host's table is float32.
    offset = torch.tensor(offset, dtype=torch.float32).double()
    hidden = w.linear('attn.w_msa.cpb_mlp.0', offset).relu()
    return 16 * w.linear('attn.w_msa.cpb_mlp.2', hidden).sigmoid()


def window_bias(w, full, size, num_relay, wrapped, shape, places):
    """Bias of every pair in an attention window, relay tokens last.

    Args:
        full: Side of the windows that distances are counted in.
        wrapped: For each image token whether the shift carried it round, as
            (rows, columns). Who was, and who was not, do not meet.
    """
    n = size**2
    bias = torch.zeros(HEADS, n + num_relay, n + num_relay).double()
    table = {
        d: relative_bias(w, full, *d)
        for d in itertools.product(range(1 - size, size), repeat=2)
    }
    for i, j in itertools.product(range(n + num_relay), repeat=2):
        if i < n and j < n:
            dy, dx = i // size - j // size, i % size - j % size
            bias[:, i, j] = table[dy, dx]
            if wrapped[i] != wrapped[j]:
                bias[:, i, j] -= 100
        elif 'relay_bias' in w:
            kind = 0 if i < n else 1 if j < n else 2
            bias[:, i, j] = 16 * w['relay_bias'][kind].sigmoid()
    if 'relay_place.hidden.weight' in w:
        for i, place in enumerate(places):
            heard, listens = place_logits(w.part('relay_place'), shape, place)
            bias[:, i, n:] += heard
            bias[:, n:, i] += listens
    return bias


def window_attention(w, x, bias):
    """Cosine attention of image and relay tokens in one window."""
    dims = x.shape[-1]
    q, k, v = w.linear('attn.w_msa.qkv', x).chunk(3, -1)
    q, v = q + w['attn.w_msa.q_bias'], v + w['attn.w_msa.v_bias']
    c = dims // HEADS
    heads = []
    for i in range(HEADS):
        part = slice(i * c, (i + 1) * c)
        qi, ki = q[..., part], k[..., part]
        qi = qi / qi.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        ki = ki / ki.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        scale = w['attn.w_msa.logit_scale'][i].item()
        scale = min(100., torch.tensor(scale).exp().item())
        heads.append(attend(qi * scale, ki, v[..., part], bias[i]))
    return w.linear('attn.w_msa.proj', torch.cat(heads, -1))


def naive_swin_block(w, x, relay, shape, local, full, shift, pad_small_map):
    height, width = shape
    size = full if shape == local else min(full, *shape)
    if size < full or min(shape) <= size and not pad_small_map:
        shift = 0
    rows, cols = -(-height // size) * size, -(-width // size) * size
    grid = x.new_zeros(len(x), rows, cols, x.shape[2])
    grid[:, :height, :width] = x.unflatten(1, shape)
    attended = torch.zeros_like(grid)
    copies = []
    for top, left in itertools.product(
            range(0, rows, size), range(0, cols, size)):
        places = [(top + i + shift, left + j + shift)
                  for i in range(size) for j in range(size)]
        wrapped = [(y >= rows, x >= cols) for y, x in places]
        places = [(y % rows, x % cols) for y, x in places]
        tokens = torch.stack([grid[:, y, x] for y, x in places], dim=1)
        tokens = torch.cat((tokens, relay), dim=1)
        bias = window_bias(
            w, full, size, relay.shape[1], wrapped, shape, places)
        out = window_attention(w, tokens, bias)
        for n, (y, x_) in enumerate(places):
            attended[:, y, x_] = out[:, n]
        copies.append(out[:, size**2:])

    def update(x, attended):
        x = x + w.norm('norm1', attended, 1e-5)
        x = x + w.norm('norm2', w.mlp(x), 1e-5)
        return w.norm('norm3', x, 1e-5) if 'norm3.weight' in w else x

    attended = attended[:, :height, :width].flatten(1, 2)
    return update(x, attended), update(relay, sum(copies) / len(copies))


def naive_merge(w, x, shape):
    """2 x 2 tokens into one; a map with odd sides is padded with zeros."""
    height, width = (side + side % 2 for side in shape)
    grid = x.new_zeros(len(x), height, width, x.shape[2])
    grid[:, :shape[0], :shape[1]] = x.unflatten(1, shape)
    merged = []
    for i, j in itertools.product(range(0, height, 2), range(0, width, 2)):
        block = grid[:, i:i + 2, j:j + 2].permute(0, 3, 1, 2)  # (B, C, 2, 2)
        merged.append(w.linear('downsample.reduction', block.flatten(1)))
    x = w.norm('downsample.norm', torch.stack(merged, dim=1), 1e-5)
    return x, (height // 2, width // 2)


def naive_swin(state, views, depths, size, fusion, pad_small_map):
    w = Weights(state)
    tokens, shapes = [], []
    for view, image in enumerate(views):
        x, shape = w.stem(view, image)
        shapes.append(shape)
        name = f'global_patch_embed.{view - 1}' if view else 'patch_embed'
        tokens.append(w.norm(f'{name}.norm', x, 1e-5))
    relay = torch.cat([w['relay_tokens']] * len(views[0]))
    pyramids = [[] for _ in views]
    for i, depth in enumerate(depths):
        stage = w.part(f'stages.{i}')
        if i > 0:
            tokens, shapes = zip(*(
                naive_merge(stage, x, shape)
                for x, shape in zip(tokens, shapes)))
            relay = stage.linear('relay_merge', relay)
        for j in range(depth):
            block = partial(
                naive_swin_block, stage.part(f'blocks.{j}'), local=shapes[0],
                full=size, shift=size // 2 if j % 2 else 0,
                pad_small_map=pad_small_map)
            tokens, relay = fuse(block, tokens, shapes, relay, fusion)
        for pyramid, x, shape in zip(pyramids, tokens, shapes):
            pyramid.append(to_map(w.norm(f'norm{i}', x, 1e-5), shape))
    return pyramids


def swin_pair(num_views, fusion, relay_bias, shape, extra_norm=0,
              pad_small_map=False, relay_place='none', wide=None):
    """Pyramids of ours and of the restatement."""
    depths, size = [2, 2], 4
    model = randomise(
        RelaySwinV2(
            arch=dict(
                embed_dims=4,
                depths=depths,
                num_heads=[HEADS, HEADS],
                extra_norm_every_n_blocks=extra_norm),
            patch_size=2,
            img_size=16,
            window_size=size,
            out_indices=[0, 1],
            num_relay_tokens=3,
            num_views=num_views,
            pad_small_map=pad_small_map,
            fusion=fusion,
            relay_place=relay_place,
            relay_bias=relay_bias))
    views = make_views(num_views, *shape, wide=wide)
    with torch.no_grad():
        naive = naive_swin(model.state_dict(), views, depths, size, fusion,
                           pad_small_map)
        alone, = model(views, local_only=True)
        assert_alike([alone], naive[:1])
        return model(views), naive


@pytest.mark.parametrize('relay_bias', ['learned', 'zero'])
@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_swin_equals_naive(num_views, fusion, relay_bias):
    assert_alike(*swin_pair(num_views, fusion, relay_bias, (16, 16)))


@pytest.mark.parametrize('shape', [
    (24, 12),  # padded to whole attention windows, in both stages
    (18, 10),  # merging pads an odd map
    (8, 24),  # not higher than an attention window
    (4, 4),  # smaller than an attention window
])
@pytest.mark.parametrize('pad_small_map', [False, True])
def test_swin_equals_naive_at_any_size(shape, pad_small_map):
    assert_alike(
        *swin_pair(
            2, 'sequential', 'learned', shape, pad_small_map=pad_small_map))


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('relay_bias', RELAY_BIASES)
@pytest.mark.parametrize('shape, wide', [
    ((16, 16), (16, 16)),
    ((24, 12), (24, 12)),  # padded
    ((16, 16), (8, 8)),  # attention windows as small as the map
    ((16, 16), (4, 8)),
    ((16, 16), (24, 24)),
    ((8, 8), (12, 4)),
])
def test_swin_with_place_and_views_of_their_own_size(
        fusion, relay_bias, shape, wide):
    assert_alike(*swin_pair(
        2, fusion, relay_bias, shape, relay_place='bias', wide=wide))


def test_swin_equals_naive_with_extra_norm():
    assert_alike(
        *swin_pair(2, 'sequential', 'learned', (16, 16), extra_norm=2))


# Relay step -----------------------------------------------------------------


def fake_block(calls):
    """Records what it is given; its updates do not commute."""

    def block(x, relay, relay_only=False):
        assert not relay_only
        calls.append((x.clone(), relay.clone()))
        return 10 * x, 2 * relay + x[:, :1]

    return block


LOCAL, MIDDLE, WIDE = (torch.full((1, 2, 1), v) for v in (1., 3., 7.))
START = torch.full((1, 2, 1), 0.5)


def test_sequential_goes_from_the_widest_view_to_the_local_one():
    calls = []
    branches, relay = relay_step(
        [fake_block(calls)] * 3, (LOCAL, MIDDLE, WIDE), START, 'sequential')
    seen = [x[0, 0].item() for x, _ in calls]
    given = [r[0, 0].item() for _, r in calls]
    assert seen == [7, 3, 1]
    assert given == [0.5, 2 * 0.5 + 7, 2 * 8 + 3]
    assert relay.unique().item() == 2 * 19 + 1
    assert [x.unique().item() for x in branches] == [10, 30, 70]


def test_mean_gives_all_views_the_same_relay_tokens():
    calls = []
    branches, relay = relay_step(
        [fake_block(calls)] * 3, (LOCAL, MIDDLE, WIDE), START, 'mean')
    seen = torch.cat([x for x, _ in calls])[:, 0, 0].tolist()
    given = torch.cat([r for _, r in calls])
    assert sorted(seen) == [1, 3, 7]
    assert given.unique().item() == 0.5
    assert relay.shape == START.shape
    assert relay.unique().item() == pytest.approx(1 + (1 + 3 + 7) / 3)
    assert [x.unique().item() for x in branches] == [10, 30, 70]


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('num_views', [1, 2, 3, 4])
def test_any_number_of_views_and_of_relay_tokens(num_views, fusion):
    branches = tuple(torch.randn(2, 5, 3) for _ in range(num_views))

    def block(x, r, relay_only=False):
        return x + 1, r + 1

    for num_relay in (0, 1, 4):
        relay = torch.randn(2, num_relay, 3)
        updated, after = relay_step(
            [block] * num_views, branches, relay, fusion)
        assert isinstance(updated, tuple)
        assert len(updated) == num_views
        for x, before in zip(updated, branches):
            assert torch.equal(x, before + 1)
        calls = num_views if fusion == 'sequential' else 1
        torch.testing.assert_close(after, relay + calls)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_samples_of_a_batch_do_not_mix(fusion):
    """Each sample alone gives what it gives in the batch."""
    branches = tuple(torch.randn(3, 5, 2) for _ in range(3))
    relay = torch.randn(3, 4, 2)

    def block(x, r, relay_only=False):
        return x + r.mean(1, True), r + x.mean(1, True)

    blocks = [block] * 3
    batch = relay_step(blocks, branches, relay, fusion)
    for i in range(3):
        one = slice(i, i + 1)
        alone = relay_step(blocks, tuple(x[one] for x in branches),
                           relay[one], fusion)
        torch.testing.assert_close(alone[1], batch[1][one])
        for a, b in zip(alone[0], batch[0]):
            torch.testing.assert_close(a, b[one])


@pytest.mark.parametrize('fusion', FUSIONS)
def test_leaves_what_it_is_given(fusion):
    branches, relay = (LOCAL.clone(), WIDE.clone()), START.clone()
    relay_step([fake_block([])] * 2, branches, relay, fusion)
    assert torch.equal(relay, START)
    assert torch.equal(branches[0], LOCAL)
    assert torch.equal(branches[1], WIDE)
