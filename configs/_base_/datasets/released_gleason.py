# As the authors' released code has it: docs/reference_differences.md.
_base_ = 'gleason.py'
# Labels by their votes, or those that their notebook wrote.
conversion = dict(votes=('released', 'majority'))
window = (256, 256)
input_size = (256, 256)
mean = [0., 0., 0.]
std = [255., 255., 255.]
model_settings = dict(
    data_preprocessor=dict(
        type='ViewsDataPreprocessor', mean=mean, std=std),
    decode_head=dict(num_classes=4),
    test_cfg=dict(
        crop_size=window, input_size=input_size, stride=window,
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
        _delete_=True, type='WindowSampler', coverage=0.2,
        window=window),
    dataset=dict(pipeline=train_pipeline, conversion=conversion))
val_dataloader = dict(dataset=dict(conversion=conversion))
test_dataloader = dict(dataset=dict(conversion=conversion))
