"""Of every backbone: how weights start, are loaded and are copied."""
import pytest
import torch
from backbone_cases import (
    ALL,
    MIT,
    RELAY,
    SWIN,
    VIT,
    assert_equal,
    build,
    build_random,
    flat,
    host_of,
    make_views,
    projection,
)
from mmengine.model import PretrainedInit
from mmengine.runner import load_checkpoint
from mmpretrain.models.utils import resize_pos_embed
from torch import nn


def twins(model):
    """Pairs of a local parameter and that of a global view."""
    parameters = dict(model.named_parameters())
    pairs = []
    local_of = {wide: local for local, wide in model.stem.items()}
    for name, p in parameters.items():
        if name.startswith('global_'):
            stem, _, *rest = name.split('.')
            pairs.append((parameters['.'.join([local_of[stem], *rest])], p))
    assert pairs
    return pairs


def assert_twins_are_copies(model):
    for local, wide in twins(model):
        assert torch.equal(local, wide)
        assert local.data_ptr() != wide.data_ptr()


@ALL
@pytest.mark.parametrize('num_views', [2, 3])
def test_stems_start_as_copies(cfg, num_views):
    model = build(cfg, num_views=num_views)
    assert_twins_are_copies(model)
    model.init_weights()
    assert_twins_are_copies(model)
    assert len(twins(model)) % (num_views - 1) == 0
    with torch.no_grad():
        for local, wide in twins(model):
            local.add_(1)
            assert not torch.equal(local, wide)


@ALL
def test_second_init_weights_changes_nothing(cfg):
    """As in the host, whose runner calls it whoever called it before."""
    model = build(cfg)
    model.init_weights()
    trained = build_random(cfg).state_dict()
    model.load_state_dict(trained)
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[name]), name


@ALL
def test_init_weights_leaves_no_zero_tokens(cfg):
    model = build(cfg)
    model.init_weights()
    names = ['relay_tokens'] + (['pos_embed'] if cfg is VIT else [])
    for name in names:
        value = getattr(model, name)
        assert 0.01 < value.std().item() < 0.03, name


@pytest.mark.parametrize('cfg', [VIT, SWIN, MIT])  # timm draws when it builds
def test_init_weights_starts_where_the_host_does(cfg):
    """Same spread of every parameter that the host has too."""
    model, host = build_random(cfg), host_of(cfg)
    model.load_state_dict(host.state_dict(), strict=False)
    model.init_weights()
    host.init_weights()
    ours = dict(model.named_parameters())
    for name, theirs in host.named_parameters():
        if theirs.numel() > 100:
            spread = pytest.approx(theirs.std().item(), rel=0.5, abs=1e-6)
            assert ours[name].std().item() == spread, name
        elif theirs.unique().numel() == 1:
            assert torch.equal(ours[name], theirs), name


@ALL
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_pretrained_of_the_host(cfg, prefix, num_views, tmp_path):
    host = host_of(cfg)
    path = str(tmp_path / 'host.pth')
    state = {prefix + k: v for k, v in host.state_dict().items()}
    state['head.fc.weight'] = torch.ones(3)
    torch.save(dict(state_dict=state), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    if prefix:
        init_cfg['prefix'] = prefix
    model = build(cfg, num_views=num_views, init_cfg=init_cfg)
    model.init_weights()
    ours = model.state_dict()
    for name, value in host.state_dict().items():
        assert torch.equal(ours[name], value), name
    assert model.relay_tokens.std() > 0.005
    if num_views > 1:
        assert_twins_are_copies(model)


@ALL
def test_pretrained_of_the_host_in_a_list_of_inits(cfg, tmp_path):
    host = host_of(cfg)
    path = str(tmp_path / 'host.pth')
    torch.save(dict(state_dict=host.state_dict()), path)
    model = build(cfg, init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Pretrained', checkpoint=path)])
    model.init_weights()
    ours = model.state_dict()
    for name, value in host.state_dict().items():
        assert torch.equal(ours[name], value), name
    assert_twins_are_copies(model)


@ALL
@pytest.mark.parametrize('init', ['Pretrained', PretrainedInit])
def test_own_checkpoint_keeps_its_global_stems(cfg, init, tmp_path):
    trained = build_random(cfg)
    path = str(tmp_path / 'relay.pth')
    torch.save(dict(state_dict=trained.state_dict()), path)
    model = build(cfg, init_cfg=dict(type=init, checkpoint=path))
    model.init_weights()
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not all(torch.equal(a, b) for a, b in twins(model))
    views = make_views()
    assert_equal(flat(model.eval()(views)), flat(trained(views)))


@ALL
def test_own_checkpoint_loads_strictly(cfg):
    trained = build_random(cfg, num_views=3)
    model = build(cfg, num_views=3)
    model.load_state_dict(trained.state_dict())
    views = make_views(3)
    assert_equal(flat(model.eval()(views)), flat(trained(views)))


@ALL
def test_loading_leaves_the_state_dict(cfg):
    changes = dict() if cfg is MIT else dict(img_size=64)
    state = host_of(cfg, **changes).state_dict()
    before = {name: value.clone() for name, value in state.items()}
    build(cfg).load_state_dict(state, strict=False)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


@ALL
def test_loading_tells_of_missing_and_surplus_keys(cfg):
    state = host_of(cfg).state_dict()
    state['surplus'] = torch.ones(1)
    wide = f'global_patch_embed.0.{projection(cfg)}.weight'
    name = next(k for k in state if k.endswith(
        ('projection.weight', 'patch_embed.proj.weight')))
    lost = state.pop(name)
    missing, surplus = build(cfg).load_state_dict(state, strict=False)
    assert surplus == ['surplus']
    assert {name, wide} <= set(missing)
    state[name] = lost
    missing, _ = build(cfg).load_state_dict(state, strict=False)
    assert missing
    assert all(any(r in name for r in RELAY) for name in missing)


@pytest.mark.parametrize('with_cls_token', [False, True])
@pytest.mark.parametrize('size', [(32, 32), (64, 64), (16, 16), (32, 48)])
def test_vit_position_embedding_fits(with_cls_token, size, tmp_path):
    """A class token's row goes; a square map is resized."""
    plain = host_of(VIT, with_cls_token=with_cls_token)
    path = str(tmp_path / 'host.pth')
    torch.save(dict(state_dict=plain.state_dict()), path)
    model = build(VIT, img_size=size, init_cfg=dict(
        type='Pretrained', checkpoint=path))
    model.init_weights()
    rows = plain.pos_embed[:, int(with_cls_token):]
    grid = size[0] // 8, size[1] // 8
    expected = resize_pos_embed(rows, (4, 4), grid, 'bicubic', 0)
    assert model.pos_embed.shape == (1, grid[0] * grid[1], 12)
    torch.testing.assert_close(model.pos_embed, expected)
    assert_twins_are_copies(model)
    assert model.eval()(make_views(size=size))[0][0].isfinite().all()


def test_vit_own_position_embeddings_are_resized_each():
    trained = build_random(VIT)
    model = build(VIT, img_size=64)
    model.load_state_dict(trained.state_dict())
    for name in ('pos_embed', 'global_pos_embed.0'):
        expected = resize_pos_embed(trained.state_dict()[name], (4, 4),
                                    (8, 8), 'bicubic', 0)
        torch.testing.assert_close(model.state_dict()[name], expected)


def test_swin_loads_weights_of_another_attention_window():
    """Tables of the checkpoint do not replace those of the model."""
    model = build(SWIN, window_size=8)
    tables = {k: v.clone() for k, v in model.named_buffers()}
    assert tables
    model.load_state_dict(build_random(SWIN).state_dict())
    for name, table in model.named_buffers():
        assert torch.equal(table, tables[name])
    assert model.eval()(make_views(size=(64, 64)))[0][0].isfinite().all()


@ALL
def test_loads_inside_a_segmentor_prefix(cfg, tmp_path):
    """Stems are filled in also where the backbone is a part of something."""
    whole = nn.ModuleDict(dict(backbone=build(cfg)))
    host = host_of(cfg)
    path = str(tmp_path / 'segmentor.pth')
    torch.save(dict(state_dict={f'backbone.{k}': v
                                for k, v in host.state_dict().items()}), path)
    load_checkpoint(whole, path, map_location='cpu', logger='silent')
    for name, value in host.state_dict().items():
        assert torch.equal(whole['backbone'].state_dict()[name], value), name
    assert_twins_are_copies(whole['backbone'])
