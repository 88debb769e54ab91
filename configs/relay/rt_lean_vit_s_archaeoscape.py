# Context at less work: the same surroundings in half as many pixels along each
# side, and no losses on the global view.
_base_ = 'rt_vit_s_archaeoscape.py'
model = dict(
    context_reductions=(8, ),
    loss_global=None,
    loss_agree=None)
train_dataloader = dict(dataset=dict(context_reductions=(8, )))
