import atexit
import logging
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

if TYPE_CHECKING:
    from rich.progress import Progress

PAUSE = 0.1  # seconds between two drawings of the bars


@dataclass
class _Task:
    """A loop that is under way; times are those of the monotonic clock."""
    total: int
    first: int  # done before this process began
    since: float
    told: float
    bar: Any = None  # id of rich's task

    def pace(self, done: int, now: float) -> float:
        """Iterations a second."""
        return (done - self.first) / max(now - self.since, 1e-9)

    def line(self, name: str, done: int, now: float) -> str:
        pace = self.pace(done, now)
        left = timedelta(seconds=round((self.total - done) / pace))
        return (f'{name}: {done} of {self.total} '
                f'({100 * done / self.total:.0f} %), {pace:.3g}/s, '
                f'{left} left')


@HOOKS.register_module()
class ProgressHook(Hook):
    """Bars with rate and time left on a terminal, plain lines elsewhere.

    Log lines appear above the bars. In a file or a pipe there are no bars:
    training is told by the host's log, validation and test by a line now and
    then.

    Args:
        interval: Seconds between two such lines.
    """

    def __init__(self, interval: float = 30) -> None:
        self.interval = interval
        self._bars: Progress | None = None
        self._tasks: dict[str, _Task] = {}
        self._trained_from = 0.
        self._drawn = 0.
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def before_train(self, runner: Runner) -> None:
        self._trained_from = time.monotonic()
        self._begin(runner, 'train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, *args,
                         **kwargs) -> None:
        self._advance(runner, 'train', runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        self._end('train')

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin(runner, 'val', len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, *args,
                       **kwargs) -> None:
        self._advance(runner, 'val', batch_idx + 1)

    def after_val_epoch(self, runner: Runner, *args, **kwargs) -> None:
        self._weigh(runner)
        self._end('val')

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin(runner, 'test', len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, *args,
                        **kwargs) -> None:
        self._advance(runner, 'test', batch_idx + 1)

    def after_test_epoch(self, runner: Runner, *args, **kwargs) -> None:
        self._end('test')

    @master_only
    def _begin(self, runner: Runner, name: str, total: int,
               done: int = 0) -> None:
        if self._bars is None and sys.stdout.isatty() and sys.stderr.isatty():
            self._open(runner)
        now = time.monotonic()
        self._tasks[name] = task = _Task(total, done, now, now)
        if self._bars is not None:
            task.bar = self._bars.add_task(
                name, total=total, completed=done, rate='')
            self._bars.refresh()

    @master_only
    def _advance(self, runner: Runner, name: str, done: int) -> None:
        task, now = self._tasks[name], time.monotonic()
        if self._bars is not None:
            rate = f'{task.pace(done, now):.3g}/s'
            self._bars.update(task.bar, completed=done, rate=rate)
            if now - self._drawn > PAUSE:
                self._bars.refresh()
                self._drawn = now
        elif name != 'train' and now - task.told > self.interval:
            task.told = now
            runner.logger.info(task.line(name, done, now))

    @master_only
    def _weigh(self, runner: Runner) -> None:
        """Say what a validation cost beside the training before it."""
        if 'train' not in self._tasks:
            return
        began, now = self._tasks['val'].since, time.monotonic()
        trained = began - self._trained_from
        runner.logger.info(
            f'Validation took {now - began:.1f} s, training before it '
            f'{trained:.1f} s.')
        self._trained_from = now

    @master_only
    def _end(self, name: str) -> None:
        task = self._tasks.pop(name)
        if self._bars is None:
            return
        self._bars.refresh()
        if self._tasks:  # the bar of a validation goes, that of training stays
            self._bars.remove_task(task.bar)
        else:
            self.close()

    def _open(self, runner: Runner) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn

        from relay_seg.bars import rated_bars
        # No refreshing thread: data workers are forked from this process,
        # perhaps while the thread holds the lock of the output.
        bars = self._bars = rated_bars(
            MofNCompleteColumn(), '{task.description:5}',
            console=Console(file=sys.stdout), auto_refresh=False,
            speed_estimate_period=600)
        shown = sys.stdout, sys.stderr
        bars.start()
        # A process that is killed does not bring the cursor back.
        bars.console.show_cursor(True)
        for handler in runner.logger.handlers:
            if (isinstance(handler, logging.StreamHandler)
                    and handler.stream in shown):
                self._streams.append((handler, handler.setStream(sys.stdout)))
        atexit.register(self.close)

    def close(self) -> None:
        """Leave the terminal as it was; also after an error."""
        if self._bars is None:
            return
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._bars.stop()
        self._bars, self._streams = None, []
        atexit.unregister(self.close)
