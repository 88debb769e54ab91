"""Trainings that are resumed, and on several processes."""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from relay_seg.checkpoints import read_checkpoint
from relay_seg.engine import build_runner

from .records import Records
from .setting import ROOT, Setting, config

MODEL = 'RT-ViT-S'
ITERS, RESUMED_AT = 4, 2


def short_training(setting: Setting, work_dir: Path, iters: int) -> Config:
    """Some iterations on the sample scenes, as alike as they can be.

    Without dropout, whose random numbers are not resumed. Without an epsilon
    as large as a gradient, AdamW turns a rounding error of a gradient that is
    zero into a whole step.
    """
    cfg = config(setting, MODEL)
    sample = str(ROOT / 'data_prep/sample/dubai')
    cfg.merge_from_dict({
        'work_dir': str(work_dir),
        'launcher': 'none',
        'experiment_name': f'{work_dir.name}_{time.monotonic_ns()}',
        'randomness': dict(seed=0),
        'env_cfg.cudnn_benchmark': False,  # it chooses by the clock
        'model.backbone.drop_path_rate': 0.,
        'model.decode_head.dropout_ratio': 0.,
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 1,
        'train_dataloader.dataset.data_root': sample,
        'train_cfg.max_iters': iters,
        'optim_wrapper.optimizer.lr': 1e-3,
        'optim_wrapper.optimizer.eps': 1e-3,
        'param_scheduler': None,
        'default_hooks.checkpoint': dict(
            _delete_=True, type='CheckpointHook', by_epoch=False,
            interval=RESUMED_AT),
        'default_hooks.logger.interval': 1,
        'visualizer.vis_backends': [dict(type='CSVVisBackend')],
    })
    for name in ('cfg', 'dataloader', 'evaluator'):
        cfg[f'val_{name}'] = cfg[f'test_{name}'] = None
    return cfg


def train(cfg: Config) -> None:
    runner = build_runner(cfg)
    runner.train()
    for kind in MMLogger, type(runner.visualizer):
        kind._instance_dict.clear()


def weights(path: Path) -> torch.Tensor:
    """All weights of a checkpoint in a row, in double precision."""
    state = read_checkpoint(path)['state_dict']
    return torch.cat([x.double().flatten() for x in state.values()
                      if x.is_floating_point()])


def resume(setting: Setting, records: Records) -> None:
    """A training that goes on from its middle ends where it ended."""
    whole, resumed = setting.scratch / 'whole', setting.scratch / 'resumed'
    train(short_training(setting, whole, ITERS))
    resumed.mkdir()
    shutil.copy(whole / f'iter_{RESUMED_AT}.pth', resumed)
    cfg = short_training(setting, resumed, ITERS)
    cfg.resume = True
    train(cfg)
    middle, end, again = (weights(path) for path in (
        whole / f'iter_{RESUMED_AT}.pth', whole / f'iter_{ITERS}.pth',
        resumed / f'iter_{ITERS}.pth'))
    records.check(
        f'training of {ITERS} = {RESUMED_AT} + resume + '
        f'{ITERS - RESUMED_AT} iterations: weights',
        (again - end).norm() / (end - middle).norm(), 1e-2,
        'of the way from the checkpoint on; other samples or a lost state of '
        'the optimiser give more than 0.1')


def processes(setting: Setting, records: Records) -> None:
    """One step on as many GPUs as there are, as torchrun starts it."""
    on_gpu = setting.device == 'cuda'
    count = torch.cuda.device_count() if on_gpu else 2
    out = setting.scratch / 'ddp.json'
    # The name of a machine without network may lead nowhere.
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone',
               '--local-addr=127.0.0.1', f'--nproc-per-node={count}',
               '-m', 'gpu.ddp_step', str(out),
               *(['--smoke'] if setting.smoke else [])]
    path = os.pathsep.join([str(ROOT / 'benchmarks'),
                            os.environ.get('PYTHONPATH', '')])
    # What it says is in the log, also if it never ends.
    done = subprocess.run(command, env=os.environ | dict(
        OMP_NUM_THREADS='1', NCCL_DEBUG='WARN', PYTHONPATH=path))
    if done.returncode or not out.exists():
        raise RuntimeError(f'{" ".join(command)} ended with '
                           f'{done.returncode}; see log.txt.')
    found = json.loads(out.read_text())
    records.note(**found)
    wanted = 'nccl' if on_gpu else 'gloo'
    records.check(f'one step with DDP over {wanted}: processes that differ',
                  found['spread'] if found['backend'] == wanted
                  else float('nan'), 0,
                  'all processes take the same step')
    records.check('one step with DDP: weights that are not finite',
                  found['bad'], 0, 'as after any step')


def trainings(setting: Setting, records: Records) -> None:
    """Resume, then several processes."""
    with records.attempt('resume'):
        resume(setting, records)
    with records.attempt('processes'):
        processes(setting, records)
