"""The host's hook that writes checkpoints.

It is registered in MMSegmentation's scope under the host's name, so that
configs and the host's own tools get it without a change.
"""
from collections import deque
from os.path import abspath, dirname
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import BaseStorageBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from relay_seg.rasters.files import remove_unfinished, replacing

from .host_types import plain


class _LaterRemoval:
    """A file backend that only notes what it is asked to remove."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend = backend
        self.noted: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.noted.append(path)

    rmtree = remove  # checkpoints of DeepSpeed are folders


@HOOKS.register_module(name='CheckpointHook')
class WholeCheckpointHook(CheckpointHook):
    """The host's hook, such that a kill never costs a checkpoint.

    An outdated file is removed when the one in its place is whole, not
    before. Files hold plain values, so that any weights-only reader takes
    them. Arguments are those of the host's hook.
    """

    #: Of the host, and what ConfusionMetric says of a class.
    _default_greater_keys = [*CheckpointHook._default_greater_keys, 'IoU/']

    file_backend: Any  # of the host: one of several, without a common type

    def before_train(self, runner: Runner) -> None:
        kept = runner.message_hub.get_info('keep_ckpt_ids', [])
        if any(type(step) is not int for step in kept):
            runner.message_hub.update_info('keep_ckpt_ids', [])
        super().before_train(runner)
        self._warned = False
        if is_main_process():
            remove_unfinished(runner.work_dir)
            if Path(self.out_dir).is_dir():
                remove_unfinished(self.out_dir)

    def before_save_checkpoint(self, runner: Runner,
                               checkpoint: dict) -> None:
        foreign: list[str] = []
        for key, value in checkpoint.items():
            checkpoint[key] = plain(value, key, foreign)
        if foreign and not getattr(self, '_warned', False):
            self._warned = True
            runner.logger.warning(
                'Checkpoints of this run hold more than weights and plain '
                'values; --resume will need --trust-checkpoint: '
                + '; '.join(foreign[:10]))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best and _has_one_class(runner):
            return
        backend = self.file_backend
        self.file_backend = later = _LaterRemoval(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {})
        kept = {getattr(self, 'best_ckpt_path', None), *best.values()}
        for path in later.noted:
            if path not in kept:
                self._remove(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        outdated = None
        if self.max_keep_ckpts > 0:
            kept: deque = self.keep_ckpt_ids
            if step not in kept:
                if len(kept) == self.max_keep_ckpts:
                    outdated = kept.popleft()
                kept.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, name, self.file_client_args, meta=meta,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            by_epoch=self.by_epoch, backend_args=self.backend_args,
            **self.args)
        if not is_main_process():
            return
        with replacing(Path(runner.work_dir, 'last_checkpoint')) as pointer:
            pointer.write_text(str(self.last_ckpt))
        if outdated is not None:
            self._remove(self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(outdated)))

    def _remove(self, path: str) -> None:
        # Paths of a resumed run come from its checkpoint: a file from
        # elsewhere must not choose what is deleted here.
        if abspath(dirname(path)) != abspath(self.out_dir):
            return
        if self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
        elif self.file_backend.isfile(path):
            self.file_backend.remove(path)


def _has_one_class(runner: Runner) -> bool:
    """Whether saying one class everywhere would be right in a validation.

    It is said in the log. Known in the first process, told to all.
    """
    found = []
    for metric in runner.val_loop.evaluator.metrics:
        report = getattr(metric, 'report', None)
        if report:
            found = [line['class'] for line in report['classes']
                     if line['true_pixels']]
    said = [len(found) == 1]
    broadcast_object_list(said)
    if said[0] and is_main_process():
        runner.logger.warning(
            f'The validation has true pixels of {found[0]} only: a model that '
            'says nothing else would score 100 %, so that this one is not '
            'saved as the best. Choose scenes for val that hold all classes.')
    return said[0]
