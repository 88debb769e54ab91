dataset_type = 'URURDataset'
data_root = 'data/urur'
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
data_preprocessor = dict(type='ViewsDataPreprocessor', mean=mean, std=std)
train_pipeline = [
    dict(type='SampleWindow', window=(256, 256)),
    dict(type='ReadViews', fill=mean),
    dict(type='FlipViews'),
    dict(type='PhotoMetricViews'),
    dict(type='PackViews')
]
test_pipeline = [
    dict(type='ReadScene', num_bands=3),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='WindowSampler', samples_per_epoch=51200),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='img_dir/test', seg_map_path='ann_dir/test'),
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='ConfusionMetric')
test_evaluator = val_evaluator
