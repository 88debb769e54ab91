_base_ = 'segformer_b1.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/'
            'pretrain/segformer/mit_b1_20220624-02e5a6a1.pth')))
