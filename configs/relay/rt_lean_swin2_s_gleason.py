# Context at less work: the same surroundings in half as many pixels along each
# side, no losses on the global view, and a bias by place.
_base_ = 'rt_swin2_s_gleason.py'
model = dict(
    context_reductions=(8, ),
    loss_global=None,
    loss_agree=None,
    backbone=dict(relay_place='bias'))
train_dataloader = dict(dataset=dict(context_reductions=(8, )))
