"""Of every backbone: what goes in, what comes out, and what is refused."""
import copy
import re

import pytest
from backbone_cases import (
    ALL,
    DINO,
    EVERY,
    MIT,
    SWIN,
    TIMM,
    VIT,
    VITS,
    assert_equal,
    build,
    build_random,
    make_views,
)
from mmengine.config import ConfigDict
from mmseg.registry import MODELS


@EVERY
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_one_pyramid_for_each_view(cfg, num_views):
    model = build_random(cfg, num_views=num_views)
    pyramids = model(make_views(num_views))
    shapes = [[tuple(x.shape) for x in pyramid] for pyramid in pyramids]
    expected = ([(2, 12, 4, 4)] * 2 if cfg['type'] in VITS else
                [(2, 6, 8, 8), (2, 12, 4, 4)])
    assert shapes == [expected] * num_views


@EVERY
@pytest.mark.parametrize('size', [
    (32, 64),
    (24, 56),  # padded attention windows
    (8, 8),  # smaller than an attention window
    (64, 64),  # other than img_size
])
def test_any_multiple_of_the_patch(cfg, size):
    model = build_random(cfg)
    for pyramid in model(make_views(size=size)):
        first = pyramid[0].shape[-2:]
        patch_size = cfg.get('patch_size', 4)
        assert first == tuple(side // patch_size for side in size)
        assert all(x.isfinite().all() for x in pyramid)


@ALL
@pytest.mark.parametrize('channels', [1, 4, 7])
def test_any_number_of_bands(cfg, channels):
    model = build_random(cfg, in_channels=channels)
    assert model(make_views(channels=channels))[0][0].isfinite().all()


@pytest.mark.parametrize('given, meant', [
    (-1, [2]),
    (1, [1]),
    ([-1], [2]),
    ((0, -2), [0, 1]),
    (range(3), [0, 1, 2]),
    ([2, 0], [0, 2]),
])
def test_vit_out_indices_in_any_form(given, meant):
    model = build_random(VIT, out_indices=given)
    whole = copy.deepcopy(model)
    whole.out_indices = (0, 1, 2)
    views = make_views()
    every = whole(views)[0]
    assert_equal(model(views)[0], [every[i] for i in meant])


@pytest.mark.parametrize('cfg', [SWIN, MIT], ids=['swin', 'mit'])
@pytest.mark.parametrize('given', [[1], (0, 1), range(2)])
def test_out_indices_of_stages_in_any_form(cfg, given):
    model = build_random(cfg, out_indices=given)
    assert len(model(make_views())[0]) == len(given)


@ALL
def test_leaves_the_config_as_it_is(cfg):
    cfg = copy.deepcopy(cfg)
    if cfg['type'] in VITS:
        cfg['out_indices'] = [-1, 0]
    before = copy.deepcopy(cfg)
    MODELS.build(ConfigDict(cfg))
    type(build(cfg))(**{k: v for k, v in cfg.items() if k != 'type'})
    assert cfg == before


WRONG = [
    (VIT, dict(arch='deit-smal'), "arch='deit-smal'.*use one of.*deit-small"),
    (SWIN, dict(arch='nano'), "arch='nano'.*use one of.*tiny"),
    (VIT, dict(arch=dict(embed_dims=8)), 'num_heads'),
    (SWIN, dict(arch=dict(embed_dims=8)), 'depths'),
    (VIT, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(relay_bias='none'), "relay_bias='none'.*learned.*zero"),
    (VIT, dict(num_views=0), 'num_views=0.*at least 1'),
    (SWIN, dict(num_relay_tokens=-1), 'num_relay_tokens=-1.*0 tokens'),
    (VIT, dict(out_indices=[3]), r'out_indices=\[3\].*3'),
    (VIT, dict(out_indices=-4), r'out_indices=\[-4\]'),
    (SWIN, dict(out_indices=[2]), 'out_indices.*0 to 1'),
    (MIT, dict(out_indices=[0, 2]), 'out_indices.*0 to 1'),
    (MIT, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (SWIN, dict(window_size=[4, 4, 4]), 'window_size has 3 values for 2'),
    (TIMM, dict(fusion='sum'), "fusion='sum'.*sequential.*mean"),
    (TIMM, dict(out_indices=[3]), r'out_indices=\[3\].*3'),
    (TIMM, dict(arch='vit_small_patch16_dino3'),
     'arch=.*dino3.*unknown.*vit_small_patch16_dinov3'),
    (TIMM, dict(arch='resnet18', timm_cfg={}), 'ResNet.*plain ViT.*dinov3'),
    (TIMM, dict(arch='deit_tiny_distilled_patch16_224'),
     'istil.*plain ViT.*dinov3'),
    (TIMM, dict(timm_cfg=dict(widths=3)), 'widths.*timm_cfg'),
    (TIMM, dict(rotary_scales=[4, 8]), 'rotary_scales.*1 global'),
    (DINO, dict(rotary_scales=[4]), 'no rotary.*leave them out'),
    (TIMM, dict(arch='vit_small_patch16_rope_224', rotary_scales=[4]),
     'rotary_scales=4.*DINOv3.*use 1'),
    (TIMM, dict(lora_rank=2), 'lora_rank=2.*frozen=True'),
    (TIMM, dict(arch='vit_small_patch16_dinov3_qkvb', lora_rank=2,
                frozen=True), 'lora_rank=2.*q_bias.*without'),
]


@pytest.mark.parametrize('cfg, changes, message', WRONG)
def test_wrong_arguments(cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        build(cfg, **changes)


@ALL
@pytest.mark.parametrize('views, message', [
    (make_views(1), 'num_views=2 but got 1 views.*context_factors'),
    (make_views(3), 'num_views=2 but got 3 views.*context_factors'),
    (make_views(size=(33, 32)), '33 x 32.*patch_size.*use 32 x'),
    (make_views(size=(32, 42)), '32 x 42.*patch_size.*use 32 x'),
    (make_views(size=(3, 3)), '3 x 3.*patch_size'),
    ((make_views(1)[0][:1], *make_views(1)), 'differ in windows or bands'),
    (make_views(1) + make_views(1, channels=4), 'differ in windows or bands'),
])
def test_wrong_views(cfg, views, message):
    with pytest.raises(ValueError, match=message):
        build(cfg)(views)


@ALL
def test_remedy_of_a_wrong_window_works(cfg):
    """The window that the error names is one that runs."""
    model = build_random(cfg)
    with pytest.raises(ValueError) as error:
        model(make_views(size=(33, 42)))
    height, width = re.search(
        r'use (\d+) x (\d+)', str(error.value)).groups()
    model(make_views(size=(int(height), int(width))))
