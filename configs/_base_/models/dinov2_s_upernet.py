_base_ = 'dinov3_s_upernet.py'
# Patches of 16 pixels: weights, of 14, are resampled, so that windows are
# those of all other models.
model = dict(backbone=dict(arch='vit_small_patch14_reg4_dinov2'))
