from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

WHY = {
    'loss': 'the loss is not finite',
    'gradient': 'the gradient is not finite',
    'scale': 'the loss scale of fp16 is too large',
}


@HOOKS.register_module()
class StopAfterBadSteps(Hook):
    """Say which scenes gave a loss that is not finite; stop if it stays so.

    ``CheckedOptimWrapper`` skips steps whose loss or gradient is not finite.
    Each is logged with losses and scenes of all processes; a run of them ends
    the training. Steps by which fp16 finds its loss scale are logged but do
    not count, nor do steps that are taken with a part of the gradient set to
    zero.

    Args:
        limit: Bad iterations in a row after which training stops.
    """

    def __init__(self, limit: int = 10) -> None:
        if limit < 1:
            raise ValueError(f'limit={limit}; use at least 1.')
        self.limit = limit
        self.in_a_row = 0

    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict[str, Tensor] | None = None) -> None:
        reason = getattr(runner.optim_wrapper, 'skipped', None)
        if reason is None:
            self.in_a_row = 0
            zeroed = getattr(runner.optim_wrapper, 'zeroed', 0)
            if zeroed:
                runner.logger.warning(
                    f'Iteration {runner.iter + 1} makes its step with '
                    f'{zeroed} entries of the gradient set to zero: they are '
                    'not finite.')
            return
        said = f'Iteration {runner.iter + 1} makes no step: {WHY[reason]}.'
        if reason == 'scale':
            scale = runner.optim_wrapper.loss_scaler.get_scale()
            runner.logger.info(f'{said} It is {scale:g} now.')
            return
        self.in_a_row += 1
        # All processes skip a step together, so that all come here.
        batches = all_gather_object(
            _describe(data_batch or {}, outputs or {}))
        said = '\n'.join([said, *batches])
        runner.logger.warning(
            f'{said}\n{self.in_a_row} in a row, training stops at '
            f'{self.limit}.')
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f'{self.in_a_row} iterations in a row are bad, the last was '
                f'this.\n{said}\nThe parameters are those of before. Look at '
                'these scenes, lower the learning rate or clip the gradient '
                'lower, use bf16 or fp32 in place of fp16; then go on from '
                'the last checkpoint with --resume.')


def _describe(data_batch: dict, outputs: dict[str, Tensor]) -> str:
    """Losses and scenes of this process, one line each."""
    losses = ', '.join(f'{k}={float(v):g}' for k, v in outputs.items())
    lines = [f'  process {get_rank()}: {losses}']
    for sample in data_batch.get('data_samples', ()):
        window = f' {sample.window}' if 'window' in sample else ''
        lines.append(f'    {sample.img_path}{window}')
    return '\n'.join(lines)
