_base_ = [
    '../_base_/models/released_swin2_s.py',
    '../_base_/datasets/released_urur.py',
    '../_base_/schedules/released_30e.py', '../_base_/released_runtime.py'
]
model = {{_base_.model_settings}}
