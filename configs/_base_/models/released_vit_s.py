_base_ = 'vit_s_pretrained.py'
model = dict(
    # The authors have no LayerScale; their pretraining file does.
    backbone=dict(out_indices=[11], drop_path_rate=0., final_norm=False),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='LinearHead',
        stride=16,
        in_channels=384,
        in_index=0,
        num_classes=2,
        loss_decode={{_base_.model.decode_head.loss_decode}}))
