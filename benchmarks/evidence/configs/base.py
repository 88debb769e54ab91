"""Data, schedule and head that all models of the experiments share.

What differs between data sets and budgets (classes, mean, files, iterations)
is filled in by ``runs.py``.
"""
_base_ = '../../../configs/_base_/schedules/adamw_20k.py'
default_scope = 'mmseg'
norm_cfg = dict(type='BN', requires_grad=True)
window = 32
model = dict(
    type='PlainEncoderDecoder',
    data_preprocessor=dict(type='ViewsDataPreprocessor'),
    decode_head=dict(
        type='UPerHead',
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 3, 6),
        channels=48,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(
        mode='slide', crop_size=(window, window), stride=(window, window),
        blend='mean', batch_size=128))
dataset = dict(
    type='SceneDataset',
    data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(
    batch_size=24,
    num_workers=0,
    sampler=dict(type='WindowSampler', samples_per_epoch=4096),
    dataset=dict(
        class_balanced=True,
        pipeline=[
            dict(type='SampleWindow', window=(window, window), scale_prob=0.,
                 rotate_prob=0.),
            dict(type='ReadViews'),
            dict(type='FlipViews'),
            dict(type='PackViews')
        ],
        **dataset))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        test_mode=True,
        pipeline=[
            dict(type='ReadScene', num_bands=3),
            dict(type='PackSegInputs')
        ],
        **dataset))
test_evaluator = dict(type='ConfusionMetric')
test_cfg = dict(type='TestLoop')
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20000)
val_cfg = None
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(
        _delete_=True, type='CheckpointHook', by_epoch=False, interval=10**9,
        save_last=True, save_optimizer=False, save_param_scheduler=False))
log_level = 'WARNING'
vis_backends = [dict(type='CSVVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends,
                  name='visualizer')
