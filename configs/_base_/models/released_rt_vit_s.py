_base_ = 'released_vit_s.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    loss_global=dict(
        type='GlobalViewLoss', extent='center', avg_non_ignore=False),
    loss_agree=dict(type='AgreementLoss', mask_ignored=False),
    backbone=dict(
        _delete_=True,
        type='RelayViT',
        arch='deit-small',
        img_size=256,
        patch_size=16,
        out_indices=[11],
        layer_scale_init_value=1e-4,
        final_norm=False,
        fusion='mean',
        init_cfg={{_base_.model.backbone.init_cfg}}))
