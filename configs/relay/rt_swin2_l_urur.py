_base_ = '../plain/swin2_l_urur.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(type='RelaySwinV2'))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
