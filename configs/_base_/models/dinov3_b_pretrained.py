_base_ = 'dinov3_b_upernet.py'
# Meta gives the file to those who accept its licence: docs/pretrained.md.
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth')))
