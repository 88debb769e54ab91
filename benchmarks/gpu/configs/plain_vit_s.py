"""ViT-S of configs/plain/, in the experiments."""
_base_ = '../../evidence/configs/plain_vit.py'
model = dict(
    backbone=dict(
        arch='deit-small',
        img_size=256,
        patch_size=16,
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        layer_scale_init_value=1e-4),
    neck=dict(embed_dim=384, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[384] * 4, channels=128))
