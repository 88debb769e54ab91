_base_ = 'released_50e.py'
max_epochs = 30
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0,
        end=0.05 * max_epochs, convert_to_iter_based=True),
    dict(
        type='ReduceOnPlateauLR', monitor='aAcc', rule='greater', factor=0.2,
        patience=4, threshold=0.01, threshold_rule='rel', by_epoch=True,
        end=10**6)
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(early_stopping=dict(min_epochs=10))
