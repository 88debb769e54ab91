# Small enough to train from scratch in minutes on a CPU.
_base_ = 'swin2_t_dubai.py'
mean = {{_base_.mean}}
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=48,
            depths=[2, 2, 2, 2],
            num_heads=[2, 4, 8, 16],
            extra_norm_every_n_blocks=0),
        img_size=128,
        window_size=4,
        drop_path_rate=0.),
    decode_head=dict(in_channels=[48, 96, 192, 384], channels=64),
    test_cfg=dict(crop_size=(128, 128), stride=(96, 96), batch_size=16))
train_pipeline = [
    dict(type='SampleWindow', size=(128, 128)),
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
