_base_ = 'swin2_b_upernet.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
            'swinv2_base_patch4_window8_256.pth')))
