_base_ = '../plain/dinov2_s_cityscapes.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(type='RelayTimmViT'))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
