# As the authors' released code has it: docs/reference_differences.md.
_base_ = 'archaeoscape.py'
# 128 m, at 0.5 m a pixel.
window = (256, 256)
input_size = (256, 256)
# Those of the converted scenes, filled in when the config is loaded.
band_statistics = dict(splits=['train', 'val'])
mean = [None] * 4
std = [None] * 4
model_settings = dict(
    data_preprocessor=dict(
        type='ViewsDataPreprocessor', mean=mean, std=std),
    relative_bands=(3, ),
    backbone=dict(in_channels=4, init_cfg=dict(bands='rgb+normal')),
    decode_head=dict(num_classes=4),
    test_cfg=dict(
        crop_size=window, input_size=input_size, stride=(128, 128),
        blend='center'))
train_pipeline = [
    dict(
        type='SampleWindow', window=window, input_size=input_size,
        scale_law='uniform', angles=(0, 89), whole_angles=True,
        min_inside=0.2),
    dict(type='ReadViews', fill=mean),
    dict(type='PackViews')
]
train_dataloader = dict(
    batch_size=64,
    sampler=dict(
        _delete_=True, type='WindowSampler', coverage=2.,
        window=window),
    dataset=dict(pipeline=train_pipeline, area='labelled'))
