_base_ = 'dinov3_s_upernet.py'
model = dict(
    backbone=dict(arch='vit_base_patch16_dinov3'),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768, 768, 768, 768]))
