_base_ = 'released_swin2_s.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    loss_global=dict(
        type='GlobalViewLoss', extent='center', avg_non_ignore=False),
    loss_agree=dict(type='AgreementLoss', mask_ignored=False),
    backbone=dict(
        type='RelaySwinV2', fusion='mean', relay_bias='zero'))
