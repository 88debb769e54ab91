_base_ = 'vit_s_upernet.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deit/'
            'deit_3_small_224_21k.pth')))
