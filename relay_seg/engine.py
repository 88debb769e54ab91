"""From a config to a run of the host's runner."""
import gc
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from relay_seg.checkpoints import (
    CheckpointError,
    check_class_order,
    check_optimizer,
    is_training_state,
    last_loadable,
    model_weights,
    place_weights,
    register_loaders,
    trained_weights,
    warn_of_settings,
    with_our_names,
    with_own_classifier,
)
from relay_seg.processes import warn_of_shared_store
from relay_seg.schedules import follow_new_length, lengths, rising

#: Of float32 matrix products, as PyTorch names them.
MATMUL_PRECISIONS = 'highest', 'high', 'medium'
#: Settings of a process, all but the last of the host.
ENVIRONMENT = {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit',
               'matmul_precision'}


class RelayRunner(Runner):
    """The host's runner, strict about checkpoints.

    Every weight of a file must find its place, and every place its weight,
    in training, test and resume; but for the classifier, where a training
    starts from a model of other classes. A run resumes from the last
    checkpoint of its work dir that loads; from ``load_from`` if the work dir
    has none.
    """

    _has_loaded: bool
    _load_from: str | None
    _resume: bool
    _trains = False
    _schedules: Any = None  # that the schedules are built from

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the process as the host does, and its matrix products.

        Args:
            env_cfg: The host's settings, and ``matmul_precision``: 'highest'
                (the default), 'high' (TF32 on GPUs that have it) or
                'medium', see ``torch.set_float32_matmul_precision``.
        """
        unknown = set(env_cfg) - ENVIRONMENT
        if unknown:
            raise ValueError(f'env_cfg has {sorted(unknown)}, which nothing '
                             f'reads; it takes {sorted(ENVIRONMENT)}.')
        precision = env_cfg.get('matmul_precision', 'highest')
        if precision not in MATMUL_PRECISIONS:
            raise ValueError(f'matmul_precision={precision!r} in env_cfg; use '
                             f'one of {list(MATMUL_PRECISIONS)}.')
        torch.set_float32_matmul_precision(precision)
        super().setup_env(env_cfg)

    def train(self) -> nn.Module:
        """Train, if model and data fit."""
        from relay_seg.checking import (
            check_data,
            check_monitors,
            check_training,
        )
        self._trains = True
        if self.train_loop is not None:
            loader = self.train_dataloader
            check_training(
                self._bare_model, loader.dataset, loader.sampler,
                loader.batch_size, 0 if loader.drop_last or isinstance(
                    loader.sampler, InfiniteSampler) else len(loader.sampler))
        if self.val_loop is not None:
            check_data(self._bare_model, self.val_dataloader.dataset,
                       'validation')
            check_monitors(self)
        return super().train()

    def test(self) -> dict:
        """Test, if model and data fit."""
        from relay_seg.checking import check_data
        if self.test_loop is not None:
            check_data(self._bare_model, self.test_dataloader.dataset, 'test')
        return super().test()

    @property
    def _classes(self) -> Sequence[str]:
        """Names of the classes, as the config has them."""
        from relay_seg.inference.model import dataset_meta
        cfg = getattr(self, 'cfg', None) or {}
        return dataset_meta(cfg).get('classes') or ()

    @property
    def _bare_model(self) -> nn.Module:
        model = self.model
        return model.module if is_model_wrapper(model) else model

    def build_param_scheduler(self, scheduler: Any) -> Any:
        scheduler = rising(scheduler, len(self.train_dataloader))
        if isinstance(scheduler, dict) or any(
                isinstance(x, dict) for x in scheduler):
            self._schedules = scheduler
        return super().build_param_scheduler(scheduler)

    def resume(self, *args, **kwargs) -> None:
        """Resume as the host does, with schedules as long as this run."""
        wanted = lengths(self.param_schedulers)
        super().resume(*args, **kwargs)
        follow_new_length(self, wanted, self._schedules)
        if self.iter >= self.max_iters:
            self.logger.warning(
                f'The checkpoint is at iteration {self.iter} of '
                f'{self.max_iters}: nothing is left to train. To go on, set '
                'train_cfg to more iterations or epochs.')

    def load_or_resume(self) -> None:
        if self._resume and not self._has_loaded:
            last = last_loadable(self.work_dir)
            self._load_from = last or self._load_from
            if self._load_from is None:
                self.logger.info(f'No checkpoint in {self.work_dir}: the run '
                                 'starts from the beginning.')
                self._resume = False
        super().load_or_resume()

    def load_checkpoint(self, filename: str, map_location='cpu',
                        strict: bool = True, revise_keys: list = []) -> dict:
        """Load weights, or refuse the file and say what does not fit.

        Args:
            filename: Local path or URL.
            map_location: As in the host; tensors pass through the CPU.
            strict: False for the host's way, with ``revise_keys``.
            revise_keys: As in the host.
        """
        if not strict:
            return super().load_checkpoint(
                filename, map_location, False, revise_keys)
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
        if self._resume:
            self._check_training_state(checkpoint, filename)
        if self._resume or not self._trains:
            check_class_order(checkpoint, self._classes, filename)
            warn_of_settings(checkpoint, self.cfg, filename)
        # Before hooks look at it: one of averaged weights copies them.
        weights: Mapping = model_weights(checkpoint, filename)
        if self._resume and not any(
                isinstance(hook, EMAHook) for hook in self.hooks):
            weights = trained_weights(checkpoint, weights, filename)
        weights = with_our_names(self.model, weights, filename)
        if self._trains and not self._resume:
            weights = with_own_classifier(self.model, weights, filename)
        checkpoint = (checkpoint if 'state_dict' in checkpoint else {}) | dict(
            state_dict=weights)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        place_weights(self.model, checkpoint, filename)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _check_training_state(self, checkpoint: dict, filename: str) -> None:
        remedy = ('To start a new run from its weights, give it as load_from '
                  'and leave out --resume.')
        if not is_training_state(checkpoint):
            raise CheckpointError(
                f'{filename} holds weights but not the state of optimiser '
                f'and log: there is nothing to resume. {remedy}')
        groups = checkpoint['optimizer'].get('param_groups')
        optimizer = getattr(self.optim_wrapper, 'optimizer', None)
        if groups is not None and optimizer is not None:
            _compare('groups of parameters in the optimiser', len(groups),
                     len(optimizer.param_groups), filename, remedy)
            check_optimizer(groups, optimizer, filename, remedy)
        saved = checkpoint.get('param_schedulers')
        if isinstance(saved, list) and isinstance(self.param_schedulers, list):
            _compare('schedules of the learning rate', len(saved),
                     len(self.param_schedulers), filename, remedy)


def _compare(what: str, file: int, run: int, filename: str,
             remedy: str) -> None:
    if file != run:
        raise CheckpointError(
            f'{filename} holds {file} {what}, this run has {run}; resume '
            f'with the config it was written with. {remedy}')


def build_runner(cfg: Config, trust: bool = False) -> RelayRunner:
    """The host's runner, also for several processes without a GPU.

    Args:
        cfg: Config with ``work_dir`` and ``launcher`` set.
        trust: Unpickle whatever a checkpoint asks for, which may run its
            code, wherever this process loads one.
    """
    import_module('relay_seg.registered')
    register_loaders(trust)
    warn_of_shared_store()
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _use_gloo(cfg)
    return RelayRunner.from_cfg(cfg)


def _use_gloo(cfg: Config) -> None:
    """The host asks for a GPU as soon as there are several processes."""
    settings = cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})
    settings['backend'] = 'gloo'
    start_processes(
        cfg.launcher, timedelta(seconds=settings.get('timeout', 1800)))
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False,  # as the host has it on GPUs
        find_unused_parameters=cfg.get('find_unused_parameters', False))


def start_processes(launcher: str,
                    patience: timedelta | None = None) -> None:
    """Join a process group for messages between CPUs.

    Args:
        launcher: How processes were started; nothing happens for ``none``.
        patience: How long processes wait for each other, if not as long as
            is usual.
    """
    if launcher == 'none':
        return
    for name, value in _slurm(launcher).items():
        os.environ.setdefault(name, value)
    torch.distributed.init_process_group('gloo', timeout=patience)


def _slurm(launcher: str) -> dict[str, str]:
    """What torchrun tells of a process, of one that Slurm started."""
    names = dict(RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID')
    return {} if launcher != 'slurm' else {
        name: os.environ[f'SLURM_{own}'] for name, own in names.items()}


def launched(launcher: str) -> tuple[tuple[int, int], str | None]:
    """What a process is to do that need not talk to others.

    Args:
        launcher: How processes were started.

    Returns:
        Number of its part, from 1, and of how many; its GPU, None if there
        is no choice.

    Raises:
        ValueError: It was not started so.
    """
    if launcher == 'none':
        return (1, 1), None
    try:
        facts = os.environ | _slurm(launcher)
        rank, size, local = (int(facts[name]) for name in (
            'RANK', 'WORLD_SIZE', 'LOCAL_RANK'))
    except KeyError as error:
        raise ValueError(
            f'--launcher {launcher}: {error} is not set; start processes '
            'with tools/dist_predict.sh or srun, or leave it out.') from error
    gpus = torch.cuda.device_count()
    return (rank + 1, size), f'cuda:{local % gpus}' if gpus else None


def leave_processes() -> None:
    """Wait for the others and end the process group, if there is one.

    A process that exits while another still talks to it may be aborted, and
    one that exits while threads of the group run. These end with the last
    reference to the group, and a runner holds some: let go of it before.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()  # runners refer to themselves
