# As the authors': AdamW, 64 windows a step, 5 % warm-up, the learning rate
# falls to a fifth when the mIoU of the validation split stalls.
max_epochs = 50
auto_scale_lr = dict(enable=True, base_batch_size=64)
optim_wrapper = dict(
    type='CheckedOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=0.05),
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
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0,
        end=0.05 * max_epochs, convert_to_iter_based=True),
    dict(
        type='ReduceOnPlateauLR', monitor='mIoU', rule='greater', factor=0.2,
        patience=4, by_epoch=True, end=10**6)
]
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='SceneValLoop')
test_cfg = dict(type='SceneTestLoop')
default_hooks = dict(
    runtime_info=dict(type='GatheredInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=True, interval=1, max_keep_ckpts=2,
        save_best='mIoU'),
    early_stopping=dict(
        type='EarlyStoppingHook', monitor='mIoU', rule='greater',
        min_delta=0., patience=15),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(by_epoch=True)
