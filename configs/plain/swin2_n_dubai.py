# Trains from scratch in minutes on a CPU.
_base_ = [
    '../_base_/models/swin2_n_upernet.py', '../_base_/datasets/dubai.py',
    '../_base_/schedules/adamw_20k.py', '../_base_/default_runtime.py'
]
mean = {{_base_.mean}}
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    decode_head=dict(num_classes=5))
train_pipeline = [
    dict(type='SampleWindow', window=(128, 128)),
    dict(type='ReadViews', fill=mean),
    dict(type='FlipViews'),
    dict(type='PhotoMetricViews'),
    dict(type='PackViews')
]
train_dataloader = dict(
    num_workers=1, dataset=dict(pipeline=train_pipeline))
max_iters = 300
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,
        end=max_iters // 20),
    dict(
        type='PolyLR', power=1., eta_min=0., by_epoch=False,
        begin=max_iters // 20, end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=max_iters // 2))
