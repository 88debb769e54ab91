# As the authors' released code has it: docs/reference_differences.md.
max_epochs = 50
min_epochs = 20
auto_scale_lr = dict(enable=False, base_batch_size=64)
optim_wrapper = dict(
    type='CheckedOptimWrapper',
    nonfinite_gradient='zero',
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0,
        end=0.05 * max_epochs, convert_to_iter_based=True),
    dict(
        type='ReduceOnPlateauLR', monitor='aAcc', rule='greater', factor=0.2,
        patience=4, threshold=0.01, threshold_rule='rel', by_epoch=True,
        end=10**6)
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
        save_best='aAcc', rule='greater'),
    early_stopping=dict(
        type='EarlyStoppingHook', monitor='aAcc', rule='greater',
        min_delta=0., patience=10, min_epochs=min_epochs),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(by_epoch=True)
