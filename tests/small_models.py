"""Models of configs made small: what must fit together is left as it is."""
from relay_seg.backbones.layers import SWINV2_ARCHS, VIT_ARCHS

SIDE, STRIDE = 64, 48  # of windows
SHRINK = 8


def small_model(cfg):
    """Overrides that make the model of a config small.

    All widths are divided alike, those of backbone, neck and head each on
    its own: they still have to fit. The attention window keeps its share of
    the window.
    """
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    changed = dict(init_cfg=None)
    model = dict(backbone=changed)
    if head.type == 'LinearHead':
        model['decode_head'] = dict(in_channels=head.in_channels // SHRINK)
    else:
        model['decode_head'] = dict(
            in_channels=[x // SHRINK for x in head.in_channels], channels=8)
    model['test_cfg'] = dict(
        crop_size=(SIDE, SIDE), stride=(STRIDE, STRIDE), input_size=None)
    if head.type == 'SegformerHead':
        changed['embed_dims'] = backbone.embed_dims // SHRINK
        changed['num_layers'] = [min(x, 3) for x in backbone.num_layers]
        return model
    if backbone.type.endswith('TimmViT'):
        dims = model['decode_head']['in_channels']
        dims = dims if isinstance(dims, int) else dims[0]
        changed['timm_cfg'] = dict(embed_dim=dims, num_heads=dims // 8)
        changed['img_size'] = SIDE
        if cfg.model.get('neck'):
            model['neck'] = dict(embed_dim=dims)
        return model
    is_vit = 'out_type' in backbone or backbone.type == 'RelayViT'
    arch = dict((VIT_ARCHS if is_vit else SWINV2_ARCHS)[backbone.arch])
    arch['embed_dims'] //= SHRINK
    changed['img_size'] = SIDE
    if is_vit:
        arch['feedforward_channels'] //= SHRINK
        if cfg.model.get('neck'):
            model['neck'] = dict(
                embed_dim=cfg.model.neck.embed_dim // SHRINK)
    else:
        arch['depths'] = [1, 2, 2, 1]
        changed['window_size'] = (
            SIDE * backbone.window_size // backbone.img_size)
    changed['arch'] = dict(arch, _delete_=True)
    return model
