_base_ = 'adamw_plateau_50e.py'
max_epochs = 30
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0,
        end=0.05 * max_epochs, convert_to_iter_based=True),
    dict(
        type='ReduceOnPlateauLR', monitor='mIoU', rule='greater', factor=0.2,
        patience=4, by_epoch=True, end=10**6)
]
train_cfg = dict(max_epochs=max_epochs)
