_base_ = 'plain_vit_s.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(
        _delete_=True,
        type='RelayViT',
        arch='deit-small',
        img_size=256,
        patch_size=16,
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        layer_scale_init_value=1e-4))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
