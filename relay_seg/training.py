"""Training by iterations that goes on where it was stopped."""
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS


@LOOPS.register_module(name='IterBasedTrainLoop')
class ResumedTrainLoop(IterBasedTrainLoop):
    """The host's loop, which reads nothing again when it is resumed.

    A sampler that can ``skip``, such as ``WindowSampler``, goes on with the
    samples that would have come next. Arguments are those of the host's loop.
    """

    def run(self) -> Any:
        """Train to the last iteration; the model."""
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        batches = self._batches(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if (runner.val_loop is not None and self._iter >= self.val_begin
                    and (self._iter % self.val_interval == 0
                         or self._iter == self._max_iters)):
                runner.val_loop.run()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _batches(self, done: int) -> Iterator[Any]:
        """Batches without end, after so many that were trained on."""
        loader: Any = self.dataloader
        sampler: Any = loader.sampler
        endless = isinstance(sampler, InfiniteSampler)
        epoch, seen = (0, done) if endless else divmod(done, len(loader))
        while True:
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
            if seen and hasattr(sampler, 'skip'):
                # The last batch of an epoch may be a smaller one.
                sampler.skip(epoch * len(sampler) + seen * loader.batch_size)
                seen = 0
            batches = iter(loader)
            if seen:
                self.runner.logger.info(
                    f'{type(sampler).__name__} cannot skip: {seen} batches '
                    'are read that were trained on before.')
            for _ in range(seen):
                next(batches)
            yield from batches
            epoch, seen = epoch + 1, 0
