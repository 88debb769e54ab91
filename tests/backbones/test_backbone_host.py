"""Of every backbone: without relay tokens it is the plain model."""
import pytest
import torch
from backbone_cases import (
    ALL,
    DINO,
    EVERY,
    MIT,
    SWIN,
    TIMM,
    VIT,
    assert_equal,
    build,
    host_of,
    make_views,
)

HOST_CASES = [
    (VIT, dict()),
    (VIT, dict(final_norm=False)),
    (VIT, dict(layer_scale_init_value=1e-4, qkv_bias=False)),
    (VIT, dict(out_indices=-1, patch_cfg=dict(bias=False))),
    (VIT, dict(norm_cfg=dict(type='LN', eps=1e-3))),
    (VIT, dict(img_size=(16, 48), interpolate_mode='bilinear')),
    (SWIN, dict()),
    (SWIN, dict(norm_cfg=None, out_indices=(1, ))),
    (SWIN, dict(window_size=[8, 2], pad_small_map=True)),
    (SWIN, dict(pretrained_window_sizes=[8, 6])),
    (SWIN, dict(arch=SWIN['arch'] | dict(extra_norm_every_n_blocks=2))),
    (MIT, dict()),
    (MIT, dict(out_indices=(1, ), qkv_bias=False, mlp_ratio=2)),
    (MIT, dict(norm_cfg=dict(type='LN', eps=1e-3), sr_ratios=[3, 2])),
    (TIMM, dict()),
    (TIMM, dict(arch='vit_small_patch16_dinov3_qkvb')),
    (TIMM, dict(arch='vit_small_patch16_rope_mixed_224')),
    (DINO, dict()),
    (DINO, dict(img_size=(16, 48))),
    (DINO, dict(arch='vit_small_patch14_dinov2')),
    (DINO, dict(arch='deit3_small_patch16_224')),
    (DINO, dict(arch='vit_base_patch16_clip_224')),
    (DINO, dict(arch='vit_base_patch16_siglip_224')),
]
HOST = pytest.mark.parametrize('cfg, changes', HOST_CASES)


@HOST
@pytest.mark.parametrize('size', [(32, 32), (40, 64)])
def test_without_relay_tokens_equals_the_host(cfg, changes, size):
    host = host_of(cfg, **changes)
    model = build(cfg, num_views=1, num_relay_tokens=0, **changes).eval()
    assert model.state_dict().keys() == host.state_dict().keys()
    assert ([n for n, _ in model.named_parameters()] == [
        n for n, _ in host.named_parameters()
    ])
    model.load_state_dict(host.state_dict())
    x, = make_views(1, size)
    assert_equal(model((x, ))[0], host(x))


@EVERY
def test_without_relay_tokens_local_view_equals_the_host(cfg):
    plain = {k: v for k, v in cfg.items() if k != 'fusion'}
    host = host_of(plain)
    model = build(cfg, num_relay_tokens=0).eval()
    model.load_state_dict(host.state_dict())
    views = make_views()
    ours = model(views)
    if cfg['fusion'] == 'sequential':
        assert_equal(ours[0], host(views[0]))
        assert_equal(ours[1], host(views[1]))  # stems are alike
    else:  # one call on a larger batch, which may round otherwise
        for view, pyramid in zip(views, ours):
            for a, b in zip(pyramid, host(view), strict=True):
                torch.testing.assert_close(a, b)


@ALL
def test_one_view_training_equals_the_host(cfg):
    """Same gradients; dropout and stochastic depth draw the same numbers."""
    changes = dict(drop_rate=0.2, drop_path_rate=0.3)
    if cfg['type'] == 'RelayTimmViT':
        rate = dict(proj_drop_rate=changes.pop('drop_rate'))
        changes['timm_cfg'] = cfg['timm_cfg'] | rate
    host = host_of(cfg, **changes)
    host.train()
    model = build(cfg, num_views=1, num_relay_tokens=0, **changes).train()
    model.load_state_dict(host.state_dict())
    x, = make_views(1)
    torch.manual_seed(1)
    ours = model((x, ))[0]
    torch.manual_seed(1)
    theirs = host(x)
    assert_equal(ours, theirs)
    sum(y.square().sum() for y in ours).backward()
    sum(y.square().sum() for y in theirs).backward()
    for (name, p), q in zip(model.named_parameters(), host.parameters()):
        if cfg['type'] == 'RelayTimmViT':  # its maps add up otherwise
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-3)
        else:
            assert torch.equal(p.grad, q.grad), name
