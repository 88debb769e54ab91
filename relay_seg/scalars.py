"""All logged numbers of a training in one CSV file."""
import csv
import io
from pathlib import Path
from typing import Any

from mmengine.logging import MessageHub
from mmengine.visualization import BaseVisBackend
from mmseg.registry import VISBACKENDS

from relay_seg.rasters.files import replacing

COLUMNS = ['iter', 'epoch', 'name', 'value']


@VISBACKENDS.register_module()
class CSVVisBackend(BaseVisBackend):
    """Write what is logged to ``scalars.csv`` in the work dir.

    One line for each number: iteration and epoch, both counted from 1, name,
    value. A training that goes on from a checkpoint goes on in the same
    file: what an earlier process logged at later iterations, and a line that
    it did not finish, make way. Nothing is written outside of training.

    Args:
        save_dir: ``vis_data`` of a run, as the host gives it; the work dir
            is two folders above, since each run has a folder of its own.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self._begun = False

    @property
    def path(self) -> Path:
        # Not found out before it is needed: the host makes backends without
        # a folder, too, and leaves them out then.
        return Path(self._save_dir).absolute().parents[1] / 'scalars.csv'

    @property
    def experiment(self) -> Any:
        return self

    def _init_env(self) -> None:
        pass  # there is nothing to set up

    def add_scalar(self, name: str, value: float, step: int = 0,
                   **kwargs) -> None:
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: dict, step: int = 0,
                    file_path: str | None = None, **kwargs) -> None:
        hub = MessageHub.get_current_instance()
        if 'iter' not in hub.runtime_info:
            return
        iteration = hub.get_info('iter') + 1
        epoch = hub.get_info('epoch', 0) + 1
        if not self._begun:
            self._begin(iteration)
        with self.path.open('a', newline='') as file:
            csv.writer(file).writerows(
                (iteration, epoch, name, float(value))
                for name, value in scalar_dict.items()
                if name not in ('step', 'iter', 'epoch'))

    def _begin(self, iteration: int) -> None:
        """Leave of an earlier file the whole lines before an iteration."""
        kept = [COLUMNS]
        if self.path.exists():
            with self.path.open(newline='') as file:
                kept += [row for row in csv.reader(file)
                         if len(row) == len(COLUMNS) and row[0].isdigit()
                         and int(row[0]) < iteration]
        text = io.StringIO()
        csv.writer(text).writerows(kept)
        with replacing(self.path) as unfinished:
            unfinished.write_text(text.getvalue(), newline='')
        self._begun = True
