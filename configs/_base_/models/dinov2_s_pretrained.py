_base_ = 'dinov2_s_upernet.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/'
            'dinov2_vits14_reg4_pretrain.pth',
            patches='resample')))
