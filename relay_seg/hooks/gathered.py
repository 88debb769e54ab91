import torch
from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor


@HOOKS.register_module()
class GatheredInfoHook(RuntimeInfoHook):
    """The host's ``RuntimeInfoHook``, which lets losses wait on the device.

    The host asks for each number of each iteration when the device has just
    been told to make a step, and waits for it each time. Here they come in one
    piece before a line of the log is written, which is the same.
    """

    def __init__(self) -> None:
        self.waiting: list[dict[str, Tensor]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict[str, Tensor] | None = None) -> None:
        if outputs:
            # Their graph is not kept waiting.
            self.waiting.append({k: v.detach() for k, v in outputs.items()})
        if self._are_wanted(runner, batch_idx):
            self._bring(runner)

    def _are_wanted(self, runner: Runner, batch_idx: int) -> bool:
        """Does a line of the log, or a checkpoint, come next?"""
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                wanted = self.every_n_inner_iters(batch_idx, hook.interval)
            else:
                wanted = (isinstance(hook, CheckpointHook)
                          and not hook.by_epoch
                          and self.every_n_train_iters(runner, hook.interval))
            if wanted:
                return True
        return (self.end_of_epoch(runner.train_dataloader, batch_idx)
                or runner.iter + 1 == runner.max_iters)

    def _bring(self, runner: Runner) -> None:
        names = [name for losses in self.waiting for name in losses]
        values = [value.float() for losses in self.waiting
                  for value in losses.values()]
        self.waiting = []
        if values:
            for name, value in zip(
                    names, torch.stack(values).cpu().tolist()):
                runner.message_hub.update_scalar(f'train/{name}', value)
