"""What init_cfg says, changes and refuses, on small models."""
import itertools

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.models.utils import resize_pos_embed
from mmseg.registry import MODELS
from safetensors.torch import save_file

from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.checkpoints.pretrained import set_pretrained

WIDTH = 12
VIT = dict(
    type='RelayViT',
    arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=3,
              feedforward_channels=48),
    img_size=64)
SWIN = dict(
    type='RelaySwinV2',
    arch=dict(embed_dims=6, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4],
              extra_norm_every_n_blocks=0),
    img_size=64,
    window_size=4)
ALONE = dict(num_views=1, num_relay_tokens=0)
BOTH = pytest.mark.parametrize('cfg', [VIT, SWIN], ids=['vit', 'swin'])


def timm_of(cfg, size=64, **more):
    if cfg['type'] == 'RelayViT':
        model = timm.models.VisionTransformer(
            size, embed_dim=WIDTH, depth=2, num_heads=3, **more)
    else:
        model = timm.models.SwinTransformerV2(
            size, embed_dim=6, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4),
            window_size=4, **more)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def load(cfg, path, bands=None, prefix=None, **changes):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    init_cfg |= {k: v for k, v in dict(bands=bands, prefix=prefix).items()
                 if v is not None}
    model = MODELS.build(cfg | changes | dict(init_cfg=init_cfg))
    model.init_weights()
    return model.eval()


def save(state, path):
    torch.save(state, path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file.pth'


def flat(model, views):
    with torch.no_grad():
        return [x for pyramid in model(views) for x in pyramid]


# Wrappers -------------------------------------------------------------------

WRAPPED = {
    'bare': lambda s: s,
    'state_dict': lambda s: dict(state_dict=s, epoch=3),
    'model': lambda s: dict(model=s, optimizer={}),
    'module': lambda s: {f'module.{k}': v for k, v in s.items()},
    'both': lambda s: dict(
        state_dict={f'module.{k}': v for k, v in s.items()}),
    'teacher': lambda s: dict(
        student={}, teacher={f'module.backbone.{k}': v for k, v in s.items()}),
    'segmentor': lambda s: dict(
        state_dict={f'backbone.{k}': v for k, v in s.items()}
        | {'decode_head.conv_seg.weight': torch.ones(2, 3)}),
}


@BOTH
@pytest.mark.parametrize('wrapped', WRAPPED)
def test_wrappers(cfg, wrapped, path):
    state = timm_of(cfg, num_classes=0).state_dict()
    bare = load(cfg, save(state, path), **ALONE)
    model = load(cfg, save(WRAPPED[wrapped](state), path), **ALONE)
    views = (torch.randn(1, 3, 64, 64), )
    assert all(map(torch.equal, flat(model, views), flat(bare, views)))
    assert torch.equal(model.patch_embed.projection.weight,
                       state['patch_embed.proj.weight'])


def test_safetensors(tmp_path):
    state = timm_of(VIT).state_dict()
    save_file(state, tmp_path / 'file.safetensors')
    model = load(VIT, tmp_path / 'file.safetensors')
    assert torch.equal(model.layers[1].ln2.weight,
                       state['blocks.1.norm2.weight'])


def test_url_is_taken_as_it_is(tmp_path, monkeypatch, log):
    """No prefix of a path is cut off, and nothing is decoded."""
    monkeypatch.setenv('RELAY_SEG_WEIGHTS', str(tmp_path))
    state = timm_of(VIT).state_dict()
    save(state, tmp_path / 'a%20b.pth')
    model = load(VIT, 'https://host.org/a%20b.pth')
    assert torch.equal(model.ln1.weight, state['norm.weight'])
    assert 'from https://host.org/a%20b.pth, named' in log[-1]


def test_prefix_chooses_a_part(path):
    one, two = timm_of(VIT).state_dict(), timm_of(VIT).state_dict()
    state = {f'{name}.{k}': v for name, s in (('one', one), ('two', two))
             for k, v in s.items()}
    for prefix in ('two', 'two.'):
        model = load(VIT, save(state, path), prefix=prefix)
        assert torch.equal(model.ln1.weight, two['norm.weight'])


# The report -----------------------------------------------------------------


@BOTH
def test_report(cfg, path, log):
    state = timm_of(cfg).state_dict()
    model = load(cfg, save(state, path), out_indices=[0, 1])
    total = sum(p.numel() for p in model.parameters())
    new = sum(p.numel() for k, p in model.named_parameters()
              if 'relay' in k or k.startswith(('global', 'norm0', 'norm1')))
    loaded = total - new
    report = log[-1]
    assert report.startswith(
        f'{loaded:,} of {total:,} parameters '
        f'({int(1000 * loaded / total) / 10:.1f} %) from {path}')
    assert 'named as by timm' in report
    dropped = report.partition('dropped')[2]
    if cfg is VIT:
        assert 'cls_token' in dropped and 'head.weight' in dropped
    else:  # stage 3 gives no feature map
        assert 'norm3.weight' in dropped and 'head.fc.weight' in dropped
    copies = report.partition('copies of the local stem: ')[2]
    assert 'global_patch_embed.*.projection.weight' in copies
    assert 'relay_tokens' in report.partition('are new: ')[2]


@BOTH
def test_twins_are_copies_and_not_aliases(cfg, path):
    model = load(cfg, save(timm_of(cfg).state_dict(), path), num_views=3)
    local = model.patch_embed.projection.weight
    for twin in model.global_patch_embed:
        assert torch.equal(twin.projection.weight, local)
        assert twin.projection.weight is not local
    with torch.no_grad():
        local.add_(1)
    assert not torch.equal(local, model.global_patch_embed[0]
                           .projection.weight)


# Sizes ----------------------------------------------------------------------


@pytest.mark.parametrize('class_token', [True, False])
@pytest.mark.parametrize('size', [(64, 64), (96, 96), (64, 96)])
def test_position_embedding_is_resized(size, class_token, path, log):
    theirs = timm_of(VIT, class_token=class_token,
                     global_pool='token' if class_token else '',
                     num_classes=0)
    model = load(VIT, save(theirs.state_dict(), path), img_size=size)
    rows = theirs.pos_embed[:, int(class_token):]
    grid = size[0] // 16, size[1] // 16
    expected = resize_pos_embed(rows, (4, 4), grid, 'bicubic', 0)
    torch.testing.assert_close(model.pos_embed, expected)
    torch.testing.assert_close(model.global_pos_embed[0], expected)
    changed = theirs.pos_embed.shape[1] != expected.shape[1]
    assert (f'-> {grid[0] * grid[1]} rows' in log[-1]) == changed


def test_distilled_position_embedding(path):
    theirs = timm.models.deit.VisionTransformerDistilled(
        64, embed_dim=WIDTH, depth=2, num_heads=3)
    torch.nn.init.normal_(theirs.pos_embed)
    model = load(VIT, save(theirs.state_dict(), path))
    assert torch.equal(model.pos_embed, theirs.pos_embed[:, 2:])


def test_another_attention_window(path, log):
    """Tables follow the config; the file's window is told."""
    source = RelaySwinV2(**{k: v for k, v in SWIN.items() if k != 'type'},
                         **ALONE)
    save(source.state_dict(), path)
    model = load(SWIN, path, window_size=8, **ALONE)
    report = log[-1]
    fresh = MODELS.build(SWIN | dict(window_size=8) | ALONE)
    for (_, ours), (_, table) in zip(model.named_buffers(),
                                     fresh.named_buffers(), strict=True):
        assert torch.equal(ours, table)
    assert '[4, 4, 4, 4] -> [8, 8, 8, 8]' in report
    assert 'pretrained_window_sizes=[4, 4, 4, 4] keeps' in report
    load(SWIN, path, window_size=8, pretrained_window_sizes=[4] * 4, **ALONE)
    assert '[8, 8, 8, 8]' in log[-1] and 'keeps' not in log[-1]


def test_another_scale_of_the_same_window_is_refused(path):
    scales = [12, 12, 12, 6]
    source = MODELS.build(
        SWIN | ALONE | dict(pretrained_window_sizes=scales))
    save(source.state_dict(), path)
    with pytest.raises(ValueError, match=r'sizes=\[12, 12, 12, 6\]'):
        load(SWIN, path, **ALONE)
    load(SWIN, path, pretrained_window_sizes=scales, **ALONE)


# Bands ----------------------------------------------------------------------


@BOTH
def test_repeat_mean_keeps_what_a_grey_image_gives(cfg, path):
    state = timm_of(cfg).state_dict()
    rgb = load(cfg, save(state, path), **ALONE)
    grey = torch.randn(1, 1, 64, 64)
    expected = flat(rgb, (grey.expand(-1, 3, -1, -1), ))
    for n in (1, 5):
        model = load(cfg, path, 'repeat-mean', in_channels=n, **ALONE)
        found = flat(model, (grey.expand(-1, n, -1, -1), ))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_rgb_and_zero(cfg, path):
    """The fourth band changes nothing yet, in any view."""
    save(timm_of(cfg).state_dict(), path)
    rgb = load(cfg, path, num_relay_tokens=0)
    model = load(cfg, path, 'rgb+zero', in_channels=4, num_relay_tokens=0)
    views = tuple(torch.randn(2, 1, 4, 64, 64))
    expected = flat(rgb, tuple(v[:, :3] for v in views))
    torch.testing.assert_close(flat(model, views), expected)


@BOTH
def test_rgb_and_random(cfg, path, log):
    state = timm_of(cfg).state_dict()
    model = load(cfg, save(state, path), 'rgb+random', in_channels=5)
    weight = model.patch_embed.projection.weight
    assert torch.equal(weight[:, :3], state['patch_embed.proj.weight'])
    assert weight[:, 3:].std() > 0.01
    assert not torch.equal(weight[:, 3], weight[:, 4])
    assert torch.equal(weight, model.global_patch_embed[0].projection.weight)
    assert '3 -> 5 bands (rgb+random)' in log[-1]


@BOTH
def test_rgb_and_normal(cfg, path, log):
    """As in the authors' code: each view draws for itself."""
    state = timm_of(cfg).state_dict()
    model = load(cfg, save(state, path), 'rgb+normal', in_channels=23,
                 num_views=3)
    stems = [model.patch_embed, *model.global_patch_embed]
    weights = [stem.projection.weight for stem in stems]
    for weight in weights:
        assert torch.equal(weight[:, :3], state['patch_embed.proj.weight'])
        assert abs(weight[:, 3:].mean()) < 0.1
        assert abs(weight[:, 3:].std() - 1) < 0.1
    for one, two in itertools.combinations(weights, 2):
        correlation = (one[:, 3:] * two[:, 3:]).mean()
        assert abs(correlation) < 0.1
    changes = [x for x in log[-1].splitlines() if '(rgb+normal)' in x]
    assert len(changes) == 1 and '3 -> 23 bands' in changes[0]


@pytest.mark.parametrize('bands, n, message', [
    (None, 4, r'for 3 bands, in_channels=4.*repeat-mean.*rgb\+random'),
    ('error', 1, 'for 3 bands, in_channels=1'),
    ('rgb+zero', 2, "use bands='repeat-mean'"),
    ('mean', 4, "bands='mean'; use one of"),
])
def test_bands_without_a_rule(bands, n, message, path):
    save(timm_of(VIT).state_dict(), path)
    with pytest.raises(ValueError, match=message):
        load(VIT, path, bands, in_channels=n)


# Refusals -------------------------------------------------------------------


def test_patches_of_14_pixels_are_refused(path):
    theirs = timm_of(VIT, size=70, patch_size=14, init_values=1.)
    save(theirs.state_dict(), path)
    message = 'patches of 14 pixels, this model of 16.*patch_size=14'
    with pytest.raises(ValueError, match=message):
        load(VIT, path, layer_scale_init_value=1.)
    load(VIT, path, layer_scale_init_value=1., patch_size=14, img_size=70)


def change(**changes):
    return lambda state: state | changes


def without(name):
    return lambda state: {k: v for k, v in state.items() if k != name}


REFUSED = [
    (VIT, change(strange=torch.ones(2)), {},
     r'without a place \(1\).*strange'),
    (VIT, change(reg_token=torch.ones(1, 4, WIDTH)), {}, 'reg_token'),
    (VIT, without('blocks.1.attn.proj.bias'), {},
     r'Places without a weight \(1\): layers.1.attn.proj.bias'),
    (SWIN, without('layers.2.downsample.norm.bias'), {},
     'Places without a weight.*stages.2.downsample.norm.bias'),
    (VIT, dict, dict(layer_scale_init_value=1e-4),
     'gamma1.*set layer_scale_init_value=0'),
    (VIT, dict, dict(arch='deit-tiny'), r'another shape.*\(12, 3, 16, 16\)'),
    (SWIN, dict, dict(arch=SWIN['arch'] | dict(depths=[2, 2, 1, 2])),
     'without a place.*stages.2.blocks.1'),
    (SWIN, lambda s: {f'x.{k}': v for k, v in s.items()}, {},
     r'in no way known.*x\.patch_embed'),
    (VIT, lambda s: dict(epoch=3), {}, "no weights but .'epoch'"),
    (VIT, dict, dict(prefix='backbone'), "prefix='backbone.*blocks"),
]


@pytest.mark.parametrize('cfg, edit, changes, message', REFUSED)
def test_refused_with_the_list(cfg, edit, changes, message, path):
    save(edit(timm_of(cfg).state_dict()), path)
    with pytest.raises(ValueError, match=f'(?s){message}') as error:
        load(cfg, path, **changes)
    assert str(path) in str(error.value)


def test_layer_scale_needs_a_place(path):
    save(timm_of(VIT, init_values=1.).state_dict(), path)
    with pytest.raises(ValueError, match='(?s)gamma2.*_init_value above 0'):
        load(VIT, path)


def test_relay_weights_need_a_place(path):
    save(MODELS.build(VIT).state_dict(), path)
    with pytest.raises(ValueError, match='(?s)relay_tokens.*--to plain'):
        load(VIT, path, **ALONE)
    save(MODELS.build(SWIN | dict(relay_bias='zero')).state_dict(), path)
    with pytest.raises(ValueError, match="(?s)set relay_bias='zero'"):
        load(SWIN, path)


def test_another_family(path):
    save(timm_of(SWIN).state_dict(), path)
    with pytest.raises(ValueError, match='holds a SwinV2.*is a RelayV'):
        load(VIT, path)


def test_missing_file_and_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth'):
        load(VIT, tmp_path / 'none.pth')
    for wrong in (dict(), dict(checkpoint='a.pth', band='rgb+zero')):
        model = RelayViT(init_cfg=dict(type='Pretrained') | wrong)
        with pytest.raises(ValueError, match='needs checkpoint'):
            model.init_weights()


# Plain twins ----------------------------------------------------------------

PLAIN = {'RelayViT': dict(type='mmpretrain.VisionTransformer',
                          with_cls_token=False, out_type='featmap',
                          out_indices=-1),
         'RelaySwinV2': dict(type='mmpretrain.SwinTransformerV2')}


def segmentor_of(cfg, path):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    width = WIDTH if cfg is VIT else 48
    return MODELS.build(dict(
        type='PlainEncoderDecoder',
        backbone=cfg | PLAIN[cfg['type']] | dict(init_cfg=init_cfg),
        decode_head=dict(type='LinearHead', stride=16, in_channels=width,
                         num_classes=2, in_index=0),
        train_cfg=dict(), test_cfg=dict(mode='whole')))


@BOTH
def test_plain_twin_starts_from_the_same_weights(cfg, path, log):
    save(timm_of(cfg).state_dict(), path)
    relay = load(cfg, path)
    plain = segmentor_of(cfg, path)
    plain.init_weights()
    assert any(f'(100.0 %) from {path}' in message for message in log)
    ours = dict(relay.named_parameters())
    for name, value in plain.backbone.named_parameters():
        assert torch.equal(value, ours[name]), name
    plain.init_weights()  # a second time changes nothing, nor fails


@BOTH
def test_plain_twin_is_as_loud(cfg, path):
    save(timm_of(cfg).state_dict() | dict(strange=torch.ones(1)), path)
    with pytest.raises(ValueError, match='strange'):
        segmentor_of(cfg, path).init_weights()


# Other weights for a config --------------------------------------------------

URL = 'https://host.org/a.pth'
OTHER = dict(type='TruncNormal', std=0.02)


def with_init(init_cfg, source):
    cfg = Config(dict(model=dict(backbone=dict(type='RelayViT'))))
    if init_cfg != 'absent':
        cfg.model.backbone.init_cfg = init_cfg
    set_pretrained(cfg, source)
    return cfg.model.backbone.init_cfg


@pytest.mark.parametrize('init_cfg', [
    'absent', None, dict(type='Pretrained', checkpoint=URL, bands='rgb+zero')])
def test_none_takes_weights_away(init_cfg):
    assert with_init(init_cfg, 'none') is None


def test_other_weights_keep_bands_and_prefix(tmp_path):
    expected = dict(type='Pretrained', checkpoint=URL)
    assert with_init('absent', URL) == expected
    assert with_init(None, URL) == expected
    path = save(timm_of(VIT).state_dict(), tmp_path / 'b.pth')
    before = expected | dict(bands='rgb+normal', prefix='one', trust=True)
    assert with_init(before, str(path)) == dict(
        type='Pretrained', checkpoint=str(path), bands='rgb+normal',
        prefix='one')


def test_what_is_no_file_stays_in_init_cfg():
    assert with_init(OTHER, 'none') == OTHER
    both = [OTHER, dict(type='Pretrained', checkpoint='a.pth')]
    assert with_init(both, 'none') == OTHER
    assert with_init(both, URL) == [
        OTHER, dict(type='Pretrained', checkpoint=URL)]


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth is no file; give'):
        with_init('absent', str(tmp_path / 'none.pth'))


def test_config_with_other_weights_builds(tmp_path):
    """What is set is what init_cfg takes."""
    state = timm_of(VIT).state_dict()
    cfg = Config(dict(model=dict(backbone=VIT | dict(in_channels=4))))
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=URL, bands='rgb+zero')
    set_pretrained(cfg, str(save(state, tmp_path / 'a.pth')))
    model = MODELS.build(cfg.model.backbone)
    model.init_weights()
    assert torch.equal(model.ln1.weight, state['norm.weight'])
