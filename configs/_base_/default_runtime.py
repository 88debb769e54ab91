default_scope = 'mmseg'
custom_imports = dict(
    imports=['relay_seg.registered'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds that a process waits for one that hangs; a dead one is noticed
    # at once. Longer than the longest scene takes in validation.
    dist_cfg=dict(backend='nccl', timeout=1800))
custom_hooks = [
    dict(type='BroadcastBuffersHook'),
    dict(type='StopAfterBadSteps', limit=10),
    dict(type='ProgressHook')
]
log_level = 'INFO'
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
    dict(type='CSVVisBackend')
]
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
load_from = None
resume = False
randomness = dict(seed=0)
