norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='PlainEncoderDecoder',
    backbone=dict(
        type='mmpretrain.SwinTransformerV2',
        arch='tiny',
        img_size=256,
        window_size=8,
        drop_path_rate=0.2,
        out_indices=[0, 1, 2, 3]),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
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
        blend='gaussian'))
