_base_ = 'swin2_t_upernet.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
