_base_ = 'swin2_t_upernet.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3),
    decode_head=dict(in_channels=[128, 256, 512, 1024]))
