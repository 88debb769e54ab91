max_iters = 20000
optim_wrapper = dict(
    type='CheckedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5.),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.),
            relay_tokens=dict(decay_mult=0.),
            relay_bias=dict(decay_mult=0.),
            relay_place=dict(decay_mult=0.),
            logit_scale=dict(decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,
        end=max_iters // 20),
    dict(
        type='PolyLR', power=1., eta_min=0., by_epoch=False,
        begin=max_iters // 20, end=max_iters)
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2000)
val_cfg = dict(type='SceneValLoop')
test_cfg = dict(type='SceneTestLoop')
default_hooks = dict(
    runtime_info=dict(type='GatheredInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=2000,
        max_keep_ckpts=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(by_epoch=False)
