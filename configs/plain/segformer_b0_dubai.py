# Trains from scratch in minutes on a CPU.
_base_ = [
    '../_base_/models/segformer_b0.py', '../_base_/datasets/dubai.py',
    '../_base_/schedules/adamw_20k.py', '../_base_/default_runtime.py'
]
mean = {{_base_.mean}}
# Colours of a map, in place of the publisher's.
metainfo = dict(palette=[[201, 77, 59], [233, 218, 186], [70, 72, 84],
                         [88, 146, 76], [72, 133, 196]])
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(drop_path_rate=0.),
    decode_head=dict(
        num_classes=5,
        # Buildings and roads are a tenth of the pixels.
        loss_decode=dict(class_weight=[4., 1., 4., 1., 1.])),
    test_cfg=dict(stride=(192, 192), input_size=(128, 128), batch_size=16))
train_pipeline = [
    dict(type='SampleWindow', window=(256, 256), input_size=(128, 128)),
    dict(type='ReadViews', fill=mean),
    dict(type='FlipViews'),
    dict(type='PhotoMetricViews'),
    dict(type='PackViews')
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
max_iters = 500
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
