_base_ = '../plain/dinov3_b_dubai.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(type='RelayTimmViT'))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
