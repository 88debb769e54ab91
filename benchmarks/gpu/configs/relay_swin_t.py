_base_ = 'plain_swin_t.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(type='RelaySwinV2'))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
