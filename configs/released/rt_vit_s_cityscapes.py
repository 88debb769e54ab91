_base_ = [
    '../_base_/models/released_rt_vit_s.py',
    '../_base_/datasets/released_cityscapes.py',
    '../_base_/schedules/released_50e.py', '../_base_/released_runtime.py'
]
model = {{_base_.model_settings}}
train_dataloader = dict(dataset=dict(context_factors=(4, )))
