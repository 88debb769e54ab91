_base_ = 'dinov3_s_upernet.py'
# Frozen weights and one linear layer: what the features know already.
model = dict(
    backbone=dict(frozen=True, out_indices=[11], drop_path_rate=0.),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='LinearHead',
        stride=16,
        in_channels=384,
        in_index=0,
        num_classes=2,
        loss_decode={{_base_.model.decode_head.loss_decode}}))
