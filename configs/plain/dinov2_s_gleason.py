_base_ = [
    '../_base_/models/dinov2_s_pretrained.py',
    '../_base_/datasets/gleason.py',
    '../_base_/schedules/adamw_plateau_50e.py',
    '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    decode_head=dict(num_classes=4))
