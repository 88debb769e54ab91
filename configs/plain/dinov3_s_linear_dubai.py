_base_ = [
    '../_base_/models/dinov3_s_linear.py', '../_base_/datasets/dubai.py',
    '../_base_/schedules/adamw_20k.py', '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    decode_head=dict(num_classes=5))
