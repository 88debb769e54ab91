# As the authors' released code has it: docs/reference_differences.md.
_base_ = 'cityscapes.py'
window = (256, 256)
input_size = (256, 256)
# Units are mixed there, and weights trained so expect it.
mean = [0.485, 0.456, 0.406]
std = [58.4, 57.1, 57.4]
model_settings = dict(
    data_preprocessor=dict(
        type='ViewsDataPreprocessor', mean=mean, std=std),
    decode_head=dict(num_classes=19),
    test_cfg=dict(
        crop_size=window, input_size=input_size, stride=(128, 128),
        blend='center'))
train_pipeline = [
    dict(
        type='SampleWindow', window=window, input_size=input_size,
        scale_law='uniform', angles=(0, 89), whole_angles=True,
        min_inside=1.),
    dict(type='ReadViews', fill=mean),
    dict(type='PackViews')
]
train_dataloader = dict(
    batch_size=64,
    sampler=dict(
        _delete_=True, type='WindowSampler', coverage=1.,
        window=window),
    dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(ann_file='frankfurt.txt'))
