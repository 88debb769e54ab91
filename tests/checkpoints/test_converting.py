"""Conversions lose nothing but what they say; publishing keeps weights."""
import hashlib
import runpy
import sys
from pathlib import Path

import golden_values
import pytest
import timm
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from relay_seg.backbones import RelaySwinV2, RelayTimmViT, RelayViT
from relay_seg.checkpoints import read_checkpoint
from relay_seg.checkpoints.converting import convert_checkpoint
from relay_seg.checkpoints.publishing import publish_checkpoint

TOOLS = Path(__file__).parents[2] / 'tools'
VIT = dict(
    arch=dict(embed_dims=12, num_layers=2, num_heads=3,
              feedforward_channels=48),
    img_size=64)
SWIN = dict(
    arch=dict(embed_dims=6, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4],
              extra_norm_every_n_blocks=0),
    img_size=128,
    window_size=4)
ALONE = dict(num_views=1, num_relay_tokens=0)
RELAY = {'vit': dict(type='RelayViT', **VIT),
         'swin': dict(type='RelaySwinV2', **SWIN)}
PLAIN = {'vit': dict(type='mmpretrain.VisionTransformer',
                     with_cls_token=False, out_type='featmap', **VIT),
         'swin': dict(type='mmpretrain.SwinTransformerV2', **SWIN)}
HEAD = dict(type='LinearHead', stride=16, in_channels=12, num_classes=2,
            in_index=0)
BOTH = pytest.mark.parametrize('kind', ['vit', 'swin'])


def timm_of(kind, randomise, **more):
    if kind == 'vit':
        return randomise(timm.models.VisionTransformer(
            64, embed_dim=12, depth=2, num_heads=3, **more))
    return randomise(timm.models.SwinTransformerV2(
        128, embed_dim=6, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4),
        window_size=4, **more))


def relay_of(kind, randomise, **more):
    build, cfg = (RelayViT, VIT) if kind == 'vit' else (RelaySwinV2, SWIN)
    return randomise(build(**cfg, **more))


def write(model, path, prefix=''):
    torch.save({f'{prefix}{k}': v for k, v in model.state_dict().items()},
               path)
    return path


def read(path):
    return read_checkpoint(path)['state_dict']


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def segmentor(backbone, type='PlainEncoderDecoder'):
    width = dict(in_channels=48 if 'Swin' in backbone['type'] else 12)
    return MODELS.build(dict(
        type=type, backbone=backbone, decode_head=HEAD | width,
        train_cfg=dict(), test_cfg=dict(mode='whole')))


@BOTH
@torch.no_grad()
def test_ours_to_timm_gives_the_same_output(kind, tmp_path, randomise):
    ours = relay_of(kind, randomise, **ALONE)
    convert_checkpoint(write(ours, tmp_path / 'a.pth'), tmp_path / 'b.pth',
                       'timm')
    more = (dict(class_token=False, global_pool='', num_classes=0)
            if kind == 'vit' else dict(num_classes=0))
    theirs = timm_of(kind, randomise, **more)
    theirs.load_state_dict(read(tmp_path / 'b.pth'))
    size = 64 if kind == 'vit' else 128
    image = torch.randn(1, 3, size, size)
    [[found]] = ours((image, ))
    expected = theirs.forward_features(image)
    expected = expected.flatten(1, -2).mT.reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_lora_becomes_part_of_the_weights_for_timm(tmp_path, randomise):
    settings = dict(img_size=64, embed_dim=12, depth=2, num_heads=3)
    arch = 'vit_small_patch16_224'
    ours = randomise(RelayTimmViT(
        arch, 64, timm_cfg=settings, frozen=True, lora_rank=2, **ALONE))
    source = write(ours, tmp_path / 'a.pth')
    convert_checkpoint(source, tmp_path / 'b.pth', 'timm')
    theirs = timm.create_model(arch, num_classes=0, **settings)
    theirs.load_state_dict(read(tmp_path / 'b.pth'))
    image = torch.randn(1, 3, 64, 64)
    [[found]] = ours((image, ))
    expected = theirs.forward_features(image)[:, 1:]
    torch.testing.assert_close(found, expected.mT.reshape(found.shape),
                               rtol=1e-4, atol=1e-5)

    weights = ours.state_dict()
    del weights['blocks.1.attn.qkv.lora_b']
    torch.save(weights, source)
    with pytest.raises(ValueError, match=r'lacks .*attn.qkv.lora_b'):
        convert_checkpoint(source, tmp_path / 'c.pth', 'timm')


@BOTH
@pytest.mark.parametrize('way', ['mmpretrain', 'plain'])
def test_there_and_back(kind, way, tmp_path, randomise):
    theirs = timm_of(kind, randomise)
    write(theirs, tmp_path / 'a.pth')
    report = convert_checkpoint(
        tmp_path / 'a.pth', tmp_path / 'b.pth', way)
    convert_checkpoint(tmp_path / 'b.pth', tmp_path / 'c.pth', 'timm')
    before = {k: v for k, v in theirs.state_dict().items()
              if not k.startswith('head.')}
    assert equal(read(tmp_path / 'c.pth'), before)
    kept = sum(v.numel() for v in before.values())
    total = sum(v.numel() for v in theirs.state_dict().values())
    assert report.startswith(f'{kept:,} of {total:,} parameters (')
    assert 'dropped: head.' in report


@BOTH
def test_relay_to_mmpretrain_drops_what_relay_adds(kind, tmp_path, randomise):
    relay = relay_of(kind, randomise)
    plain = relay_of(kind, randomise, **ALONE)
    report = convert_checkpoint(
        write(relay, tmp_path / 'a.pth', 'backbone.'), tmp_path / 'b.pth',
        'mmpretrain')
    plain.load_state_dict(read(tmp_path / 'b.pth'))
    for name, value in plain.named_parameters():
        assert torch.equal(value, relay.state_dict()[name])
    assert 'dropped: relay_tokens, ' in report
    assert 'global_patch_embed.*.projection.weight' in report


@pytest.mark.parametrize('kind', PLAIN)
def test_segmentor_from_relay_to_plain_and_back(kind, tmp_path, randomise):
    backbone = RELAY[kind]
    relay = randomise(segmentor(backbone, 'RelayEncoderDecoder'))
    torch.save(dict(state_dict=relay.state_dict(), optimizer={},
                    meta=dict(dataset_meta=dict(classes=('a', 'b')))),
               tmp_path / 'a.pth')
    report = convert_checkpoint(
        tmp_path / 'a.pth', tmp_path / 'b.pth', 'plain')
    plain = segmentor(PLAIN[kind])
    plain.load_state_dict(read(tmp_path / 'b.pth'))
    for name, value in plain.state_dict().items():  # tables too
        assert torch.equal(value, relay.state_dict()[name]), name
    assert 'decode_head' not in report.partition('dropped')[2]
    meta = read_checkpoint(tmp_path / 'b.pth')['meta']
    assert meta['dataset_meta'] == dict(classes=('a', 'b'))

    report = convert_checkpoint(
        tmp_path / 'b.pth', tmp_path / 'c.pth', 'relay', num_views=3)
    again = read(tmp_path / 'c.pth')
    missing, surplus = segmentor(
        backbone | dict(num_views=3)).load_state_dict(again, strict=False)
    assert not surplus
    assert missing and all('.relay_' in name for name in missing)
    for view in (0, 1):
        twin = f'backbone.global_patch_embed.{view}.projection.bias'
        assert torch.equal(
            again[twin], again['backbone.patch_embed.projection.bias'])
    assert 'no relay tokens in the file' in report


@BOTH
def test_timm_to_relay_has_no_class_token(kind, tmp_path, randomise):
    write(timm_of(kind, randomise), tmp_path / 'a.pth')
    convert_checkpoint(tmp_path / 'a.pth', tmp_path / 'b.pth', 'relay')
    relay = relay_of(kind, randomise, num_relay_tokens=0)
    relay.load_state_dict(read(tmp_path / 'b.pth'))
    assert torch.equal(relay.patch_embed.projection.weight,
                       relay.global_patch_embed[0].projection.weight)


@torch.no_grad()
@pytest.mark.parametrize('file', ['vit_rt', 'swin_rt'])
def test_model_of_the_authors_to_ours_with_its_head(file, tmp_path):
    golden = golden_values.load(file)
    torch.save(golden_values.weights(golden), tmp_path / 'a.pth')
    convert_checkpoint(tmp_path / 'a.pth', tmp_path / 'b.pth', 'relay')
    is_vit = file == 'vit_rt'
    head = golden['state_dict/seg_head.layers.0.weight'].shape
    model = MODELS.build(dict(
        type='RelayEncoderDecoder',
        backbone=(dict(type='RelayViT', **golden_values.VIT) if is_vit else
                  dict(type='RelaySwinV2', **golden_values.SWIN)),
        decode_head=dict(type='LinearHead', in_channels=head[0], in_index=0,
                         num_classes=head[1], stride=head[2]),
        train_cfg=dict(), test_cfg=dict(mode='whole')))
    model.load_state_dict(read(tmp_path / 'b.pth'))
    views = golden['input/local'], golden['input/global']
    found = model.eval().window_logits(views)
    expected = golden['out/logits_local']
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_harmful_or_impossible_is_refused(tmp_path, randomise):
    source = write(timm_of('vit', randomise), tmp_path / 'a.pth')
    before = source.read_bytes()
    with pytest.raises(ValueError, match='is the file to read'):
        convert_checkpoint(source, source, 'timm')
    other = tmp_path / 'other.pth'
    other.write_text('the only copy')
    with pytest.raises(ValueError, match='other.pth is there already'):
        convert_checkpoint(source, other, 'timm')
    assert other.read_text() == 'the only copy'
    other.unlink()
    with pytest.raises(ValueError, match='does not end in .pth'):
        convert_checkpoint(source, tmp_path / 'b.safetensors', 'timm')
    with pytest.raises(FileNotFoundError, match='is no folder'):
        convert_checkpoint(source, tmp_path / 'no' / 'b.pth', 'timm')
    torch.save(dict(torch.load(source), strange=torch.ones(1)), source)
    with pytest.raises(ValueError, match='strange'):
        convert_checkpoint(source, tmp_path / 'b.pth', 'plain')
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']
    source.write_bytes(before)


# Publishing -----------------------------------------------------------------

CONFIG = "model = dict(type='PlainEncoderDecoder')\n"


@pytest.fixture
def trained(tmp_path, randomise):
    """A checkpoint as training writes it."""
    model = relay_of('vit', randomise)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    torch.save(dict(
        state_dict=model.state_dict(), optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars={}), param_schedulers=[dict(step=3)],
        ema_state_dict=model.state_dict(),
        meta=dict(cfg=CONFIG, iter=3, hook_msgs=dict(path='/home/me'),
                  dataset_meta=dict(classes=('a', ), palette=[[1, 2, 3]]))),
        tmp_path / 'iter_3.pth')
    return tmp_path / 'iter_3.pth'


def test_publish(trained, tmp_path):
    out = publish_checkpoint(trained, tmp_path / 'model.pth')
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.name == f'model-{digest[:8]}.pth'
    found = torch.load(out, weights_only=True)
    assert found.keys() == {'meta', 'state_dict'}
    assert equal(found['state_dict'], torch.load(trained)['state_dict'])
    assert found['meta']['cfg'] == CONFIG and found['meta']['iter'] == 3
    assert found['meta']['dataset_meta'] == dict(
        classes=['a'], palette=[[1, 2, 3]])
    assert '/home/me' not in str(found['meta'])
    assert out.stat().st_size < 0.4 * trained.stat().st_size
    assert {p.name for p in tmp_path.iterdir()} == {'iter_3.pth', out.name}


def test_publish_without_a_config(trained, tmp_path):
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=torch.load(trained)['state_dict']), bare)
    with pytest.raises(ValueError, match='--config'):
        publish_checkpoint(bare, tmp_path / 'model.pth')
    (tmp_path / 'config.py').write_text(CONFIG)
    out = publish_checkpoint(
        bare, tmp_path / 'model.pth', config=tmp_path / 'config.py')
    cfg = Config.fromstring(torch.load(out)['meta']['cfg'], '.py')
    assert cfg.model.type == 'PlainEncoderDecoder'
    torch.save(torch.load(bare)['state_dict'], bare)
    with pytest.raises(ValueError, match="no 'state_dict'"):
        publish_checkpoint(bare, tmp_path / 'model.pth')


# Commands -------------------------------------------------------------------


def command(name, *args, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')


def test_commands(trained, tmp_path, monkeypatch, capsys):
    plain = tmp_path / 'plain.pth'
    command('convert_checkpoint', trained, plain, '--to', 'plain',
            monkeypatch=monkeypatch)
    assert 'parameters (' in capsys.readouterr().out
    assert 'relay_tokens' not in read(plain)
    command('publish_checkpoint', trained, tmp_path / 'model.pth',
            monkeypatch=monkeypatch)
    assert Path(capsys.readouterr().out.strip()).is_file()
    with pytest.raises(SystemExit) as stop:
        command('convert_checkpoint', trained, trained, '--to', 'plain',
                monkeypatch=monkeypatch)
    assert stop.value.code == 2
    assert 'is the file to read' in capsys.readouterr().err
