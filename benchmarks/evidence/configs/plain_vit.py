"""ViT of four layers with patches of 8 pixels, small enough for a CPU."""
_base_ = 'base.py'
model = dict(
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(
            embed_dims=96, num_layers=4, num_heads=3,
            feedforward_channels=384),
        img_size=32,
        patch_size=8,
        out_indices=[0, 1, 2, 3],
        with_cls_token=False,
        out_type='featmap'),
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=96,
        rescales=[2, 1, 0.5, 0.25],
        norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(in_channels=[96] * 4, in_index=[0, 1, 2, 3]))
