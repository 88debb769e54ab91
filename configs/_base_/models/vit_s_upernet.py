norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='PlainEncoderDecoder',
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        img_size=256,
        patch_size=16,
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        layer_scale_init_value=1e-4,
        with_cls_token=False,
        out_type='featmap'),
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=384,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=norm_cfg),
    decode_head=dict(
        type='UPerHead',
        in_channels=[384, 384, 384, 384],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type='CheckedCrossEntropyLoss',
            loss_weight=1.0,
            avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(
        mode='slide', crop_size=(256, 256), stride=(128, 128),
        blend='gaussian', batch_size=8))
