_base_ = 'plain_vit.py'
model = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=dict(
        _delete_=True,
        type='RelayViT',
        arch=dict(
            embed_dims=96, num_layers=4, num_heads=3,
            feedforward_channels=384),
        img_size=32,
        patch_size=8,
        out_indices=[0, 1, 2, 3]))
train_dataloader = dict(dataset=dict(context_factors=(4, )))
