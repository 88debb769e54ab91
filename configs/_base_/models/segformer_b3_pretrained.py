_base_ = 'segformer_b3.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/'
            'pretrain/segformer/mit_b3_20220624-13b1141c.pth')))
