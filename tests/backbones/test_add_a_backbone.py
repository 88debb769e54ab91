"""The page docs/add_a_backbone.md, run as it stands there."""
import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from relay_seg.structures import label_field

PAGE = Path(__file__).parents[2] / 'docs/add_a_backbone.md'
ARCH = 'vit_small_patch14_reg4_dinov2'


@pytest.fixture(scope='module')
def page():
    """What the code blocks of the page define, taken together."""
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.S)
    names = {'__name__': 'page'}
    exec(compile('\n'.join(blocks), str(PAGE), 'exec'), names)
    yield names
    MODELS.module_dict.pop('RelayDINOv2')


def randomise(model, spread=0.02):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(spread * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize('window', [224, 252])
def test_without_relay_tokens_equals_timm(page, window):
    assert page['check'](window) < 1e-5


def test_is_a_dinov2_vit_s_14(page):
    model = page['RelayDINOv2']()
    assert model.patch_size == 14
    assert model.pos_embed.shape == (1, 37 * 37, 384)
    assert model.cls_token.shape == (1, 1, 384)
    assert model.reg_token.shape == (1, 4, 384)
    assert all(block.ls1.gamma.shape == (384, ) for block in model.blocks)


@torch.no_grad()
def test_views_meet_in_the_relay_tokens_only(page):
    local, wide = torch.randn(2, 1, 3, 56, 56)
    for num_relay_tokens in (0, 4):
        model = randomise(page['RelayDINOv2'](
            num_relay_tokens=num_relay_tokens), 0.1)
        before = model((local, wide))[0]
        after = model((local, -wide))[0]
        assert [x.shape for x in before] == [(1, 384, 4, 4)] * 4
        moved = (after[-1] - before[-1]).abs().max()
        assert moved > 1e-4 if num_relay_tokens else moved == 0


def test_plain_checkpoint_loads(page, tmp_path):
    plain = randomise(timm.create_model(ARCH, num_classes=0))
    path = str(tmp_path / 'dinov2.pth')
    torch.save(plain.state_dict(), path)
    model = page['RelayDINOv2'](
        init_cfg=dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    ours = model.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(ours[name], value), name
    new = {name.split('.')[0] for name in ours.keys()
           - plain.state_dict().keys()}
    assert new == {'relay_tokens', *model.stem.values()}
    assert torch.equal(ours['global_pos_embed.0'], plain.pos_embed)


def test_page_counts_what_relay_adds(page):
    model = page['RelayDINOv2']()
    plain = timm.create_model(ARCH, num_classes=0)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, plain)]
    added = counts[0] - counts[1]
    assert f'{added:,} of\n{counts[1] / 1e6:.1f} million' in PAGE.read_text()
    assert f'({100 * added / counts[1]:.1f} %)' in PAGE.read_text()
    small = plain.pos_embed.shape[1] - 16 * 16
    share = (added - small * 384) / (counts[1] - small * 384)
    assert f'adds {100 * share:.1f} %' in PAGE.read_text()


def test_freezes_the_first_blocks(page):
    model = page['RelayDINOv2'](frozen_stages=3)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    assert 'relay_tokens' in free
    assert not any(name.startswith(('blocks.2.', 'global_', 'pos_embed'))
                   for name in free)
    assert 'blocks.3.norm1.weight' in free


def batch_of_one(window, classes):
    sample = SegDataSample()
    for i, k in enumerate((1, 4)):
        label = torch.randint(classes, (1, k * window, k * window))
        label = label if i == 0 else label.byte()
        sample.set_data({label_field(i): PixelData(data=label)})
    views = tuple(255 * torch.rand(3, window, window) for _ in range(2))
    return pseudo_collate([dict(inputs=views, data_samples=sample)])


def test_trains_two_steps_with_the_config_of_the_page(page):
    init_default_scope('mmseg')
    cfg = ConfigDict(page['model'])
    cfg.decode_head.channels = 16  # faster; the backbone is as it is
    segmentor = MODELS.build(cfg)
    segmentor.init_weights()
    optimizer = torch.optim.AdamW(segmentor.parameters(), 1e-3)
    before = [p.detach().clone() for p in segmentor.parameters()]
    losses = []
    raw = batch_of_one(page['WINDOW'], 5)
    for _ in range(2):
        batch = segmentor.train().data_preprocessor(raw, training=True)
        loss, logs = segmentor.parse_losses(segmentor(**batch, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        unused = [name for name, p in segmentor.named_parameters()
                  if p.grad is None]
        assert not unused
        optimizer.step()
        losses.append(loss.item())
        assert {'loss_global', 'loss_agree'} <= set(logs)
    assert losses[1] < losses[0]
    moved = [not torch.equal(a, b)
             for a, b in zip(before, segmentor.parameters())]
    names = [name for name, _ in segmentor.named_parameters()]
    still = [name for name, m in zip(names, moved) if not m]
    assert still == []
    segmentor.eval()
    sample = SegDataSample(metainfo=dict(
        img_shape=(250, 300), ori_shape=(250, 300)))
    with torch.no_grad():
        result, = segmentor.test_step(dict(
            inputs=[255 * torch.rand(3, 250, 300)], data_samples=[sample]))
    assert result.pred_sem_seg.data.shape == (1, 250, 300)
