_base_ = [
    '../_base_/models/dinov3_s_pretrained.py',
    '../_base_/datasets/archaeoscape.py',
    '../_base_/schedules/adamw_plateau_50e.py',
    '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    relative_bands=(3, ),
    backbone=dict(in_channels=4, init_cfg=dict(bands='rgb+zero')),
    decode_head=dict(num_classes=4))
