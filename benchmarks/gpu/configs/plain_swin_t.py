"""SwinV2-T of configs/plain/, in the experiments."""
_base_ = '../../evidence/configs/plain_swin.py'
model = dict(
    backbone=dict(
        arch='tiny',
        img_size=256,
        window_size=[8, 8, 8, 8],
        pretrained_window_sizes=[0, 0, 0, 0],
        drop_path_rate=0.2,
        out_indices=[0, 1, 2, 3]),
    decode_head=dict(
        in_channels=[96, 192, 384, 768], in_index=[0, 1, 2, 3],
        channels=128))
