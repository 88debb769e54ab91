_base_ = 'default_runtime.py'
env_cfg = dict(matmul_precision='high')  # TF32
randomness = dict(seed=42)
sync_bn = 'torch'
