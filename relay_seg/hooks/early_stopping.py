"""Early stopping that goes on where a run was stopped."""
import operator

from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import HOOKS


@HOOKS.register_module(name='EarlyStoppingHook')
class ResumedEarlyStoppingHook(EarlyStoppingHook):
    """The host's hook, whose patience goes on where a run was stopped.

    A validation after the last checkpoint is not in it and does not count.
    Unlike in the host, a score that equals the best one, plus ``min_delta``,
    is no improvement.

    Args:
        min_epochs: Epochs to train at least, for training by epochs. A stop
            that is due before takes effect at the first validation from
            there on, whatever the score does in between, as in Lightning.
        kwargs: Those of the host's hook.
    """

    priority = 'LOW'  # before the best checkpoint is saved
    rule_map = {'greater': operator.ge, 'less': operator.le}

    def __init__(self, *args, min_epochs: int = 0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if min_epochs < 0:
            raise ValueError(f'min_epochs={min_epochs}; use at least 0.')
        self.min_epochs = min_epochs
        self.due = False

    def before_run(self, runner: Runner) -> None:
        """Nothing: the host builds the training data here, also in a test."""

    def before_train(self, runner: Runner) -> None:
        if self.min_epochs and isinstance(
                runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                f'min_epochs={self.min_epochs} in EarlyStoppingHook, but '
                'training goes by iterations; leave it out.')
        key = f'early_stopping/{self.monitor}'
        if key in runner.message_hub.runtime_info:
            state = runner.message_hub.get_info(key)
            self.wait_count = state['wait_count']
            self.best_score = state['best_score']
            self.due = state.get('due', False)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        loop = runner.train_loop
        stopped = loop.stop_training  # by another hook
        super().after_val_epoch(runner, metrics)
        self.due |= loop.stop_training and not stopped
        now = self.due and runner.epoch >= self.min_epochs
        loop.stop_training = stopped or now
        if self.due and not now:
            runner.logger.info(f'Training will stop when {self.min_epochs} '
                               'epochs are done.')
        runner.message_hub.update_info(
            f'early_stopping/{self.monitor}',
            dict(wait_count=self.wait_count, best_score=self.best_score,
                 due=self.due))
