_base_ = 'dinov3_s_upernet.py'
# Meta gives the file to those who accept its licence: docs/pretrained.md.
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='dinov3_vits16_pretrain_lvd1689m-08c60483.pth')))
