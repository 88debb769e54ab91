_base_ = 'swin2_s_pretrained.py'
model = dict(
    backbone=dict(out_indices=[3], drop_path_rate=0.1),
    decode_head=dict(
        _delete_=True,
        type='LinearHead',
        stride=32,
        in_channels=768,
        in_index=0,
        num_classes=2,
        loss_decode={{_base_.model.decode_head.loss_decode}}))
