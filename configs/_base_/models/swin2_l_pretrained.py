_base_ = 'swin2_l_upernet.py'
model = dict(
    backbone=dict(
        # Distances as the file learned them, in windows of 12 at 192 pixels.
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
            'swinv2_large_patch4_window12_192_22k.pth')))
