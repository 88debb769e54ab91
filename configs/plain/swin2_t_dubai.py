_base_ = [
    '../_base_/models/swin2_t_upernet.py', '../_base_/datasets/dubai.py',
    '../_base_/schedules/adamw_20k.py', '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    # Within chance of 512, at a third of the time: docs/performance_cpu.md.
    decode_head=dict(num_classes=5, channels=128))
