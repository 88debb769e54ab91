_base_ = 'swin2_t_upernet.py'
model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3),
    decode_head=dict(in_channels=[192, 384, 768, 1536]))
