"""SwinV2 of three stages, small enough for a CPU."""
_base_ = 'base.py'
model = dict(
    backbone=dict(
        type='mmpretrain.SwinTransformerV2',
        arch=dict(
            embed_dims=32, depths=[2, 2, 2], num_heads=[2, 4, 8],
            extra_norm_every_n_blocks=0),
        img_size=32,
        window_size=[4, 2, 2],
        pretrained_window_sizes=[0, 0, 0],
        drop_path_rate=0.,
        out_indices=[0, 1, 2]),
    decode_head=dict(in_channels=[32, 64, 128]))
