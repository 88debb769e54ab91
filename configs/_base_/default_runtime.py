default_scope = 'mmseg'
custom_imports = dict(imports=['relay_seg'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
custom_hooks = [dict(type='BroadcastBuffersHook')]
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
load_from = None
resume = False
randomness = dict(seed=0)
