"""Of every backbone: what is frozen, and what that means."""
import pytest
from backbone_cases import (
    ALL,
    DINO,
    MIT,
    RELAY,
    STEMS,
    SWIN,
    TIMM,
    TOKENS,
    VIT,
    VITS,
    assert_equal,
    build,
    build_random,
    flat,
    host_of,
    make_views,
    randomise,
)

FROZEN = [
    (VIT, 0, STEMS[:2]),  # the host cannot freeze only the stem of its ViT
    (VIT, 2, STEMS[:2] + ('layers.0.', 'layers.1.')),
    (VIT, 3, STEMS[:2] + ('layers.', 'ln1.')),
    (SWIN, 0, ('patch_embed', 'stages.0.', 'norm0')),
    (SWIN, 1, ('patch_embed', 'stages.', 'norm')),
    (MIT, 0, ('layers.0.', )),
    (MIT, 1, ('layers.', )),
    (TIMM, 1, (*STEMS[:2], *TOKENS, 'blocks.0.')),
    (TIMM, 3, (*STEMS[:2], *TOKENS, 'blocks.', 'norm.')),
    (DINO, 2, (*STEMS[:2], *TOKENS, 'blocks.0.', 'blocks.1.')),
]


@pytest.mark.parametrize('cfg, frozen_stages, prefixes', FROZEN)
def test_frozen_stages(cfg, frozen_stages, prefixes):
    model = build(cfg, frozen_stages=frozen_stages)
    for name, p in model.named_parameters():
        frozen = name.startswith(prefixes + ('global_', ))
        frozen = frozen and not any(r in name for r in RELAY)
        assert p.requires_grad != frozen, name
    assert all(p.requires_grad
               for p in build(cfg, frozen_stages=-1).parameters())


@pytest.mark.parametrize(
    'cfg, frozen_stages, prefixes',
    [c for c in FROZEN[1:] if c[0] in (VIT, SWIN)])  # others cannot
def test_freezes_what_the_host_freezes(cfg, frozen_stages, prefixes):
    host = host_of(cfg, frozen_stages=frozen_stages)
    host.train()
    theirs = {n for n, p in host.named_parameters() if not p.requires_grad}
    model = build(cfg, frozen_stages=frozen_stages)
    ours = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n for n in ours if not n.startswith('global_')} == theirs


@pytest.mark.parametrize('cfg, frozen_stages, prefixes', FROZEN)
def test_train_keeps_frozen_parts_in_eval_mode(cfg, frozen_stages, prefixes):
    model = build(cfg, frozen_stages=frozen_stages)
    assert model.train() is model
    assert model.eval() is model
    model.train()
    assert model.training
    for name, m in model.named_modules():
        frozen = (name + '.').startswith(
            prefixes + ('drop_after_pos', 'pos_drop', 'norm_pre'))
        leaf = not any(m.children()) and 'relay' not in name
        if frozen and leaf:
            assert not m.training, name
        elif leaf and not name.startswith('global_'):
            assert m.training, name


@ALL
def test_frozen_parts_do_not_draw(cfg):
    """Frozen stages have no dropout of any kind, for all views."""
    layers = dict(attn_drop_rate=0.5, drop_rate=0.5)
    if cfg is VIT:
        changes = dict(frozen_stages=3, layer_cfgs=layers, drop_rate=0.5)
    elif cfg is MIT:
        changes = dict(frozen_stages=1, drop_path_rate=0.5, **layers)
    elif cfg['type'] == 'RelayTimmViT':
        changes = dict(frozen=True, drop_path_rate=0.5, timm_cfg=dict(
            pos_drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5))
        changes['timm_cfg'] |= cfg['timm_cfg']
    else:
        changes = dict(
            frozen_stages=1, drop_rate=0.5, drop_path_rate=0.5,
            stage_cfgs=dict(block_cfgs=dict(
                attn_cfgs=dict(attn_drop=0.5, proj_drop=0.5),
                ffn_cfgs=dict(ffn_drop=0.5))))
    for num_relay_tokens in (0, 4):
        model = build(cfg, num_relay_tokens=num_relay_tokens, **changes)
        randomise(model).train()
        views = make_views()
        assert_equal(flat(model(views)), flat(model(views)))


@ALL
def test_frozen_model_trains_the_rest(cfg):
    stages = 1 if cfg['type'] in VITS else 0
    model = build_random(cfg, frozen_stages=stages).train()
    sum(x.square().sum() for x in flat(model(make_views()))).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
