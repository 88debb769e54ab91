import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from PIL.PngImagePlugin import PngInfo

from relay_seg.datasets import steps_of
from relay_seg.drawing import draw_prediction
from relay_seg.rasters import (
    MARK,
    refuse_overwriting,
    replacing,
    write_class_ids,
)


@HOOKS.register_module()
class WritePredictions(Hook):
    """Write what a model predicts in a test.

    Scenes of one file name in different folders keep their folders.

    Args:
        ids: Folder for class ids, a GeoTIFF with colour table for each
            scene, under the name of the scene; None for none.
        pictures: Folder for pictures: scene, truth and prediction side by
            side; None for none.
        overwrite: Write over files that no prediction wrote, but never over
            scenes and labels.
    """

    def __init__(self, ids: str | None = None,
                 pictures: str | None = None,
                 overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._folders = {suffix: Path(folder) for suffix, folder in (
            ('.tif', ids), ('.png', pictures)) if folder}
        self._names: dict[str, str] = {}
        self._bands: dict[str, Sequence[int] | None] = {}

    def before_test(self, runner: Runner) -> None:
        """Names of the files.

        Raises:
            ValueError: A file is there that no prediction wrote.
        """
        dataset = runner.test_dataloader.dataset
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        self._bands = {
            info['img_path']: getattr(steps_of(dataset, i)[0], 'bands', None)
            for i, info in enumerate(infos)}
        self._names = distinct([info['img_path'] for info in infos])
        refuse_overwriting(
            {f'the prediction of {path}, {suffix}': self._path(path, suffix)
             for path in self._names for suffix in self._folders},
            [Path(info[key]) for info in infos
             for key in ('img_path', 'seg_map_path') if info.get(key)],
            self._overwrite)

    def _path(self, scene: str, suffix: str) -> Path:
        name = self._names.get(scene, Path(scene).stem)
        return self._folders[suffix] / f'{name}{suffix}'

    def after_test_iter(self, runner: Runner, batch_idx: int,
                        data_batch: dict | None = None,
                        outputs: Sequence[SegDataSample] | None = None
                        ) -> None:
        palette = runner.test_dataloader.dataset.metainfo['palette']
        for sample in outputs or ():
            path = sample.img_path
            pred = sample.pred_sem_seg.data[0].cpu().numpy()
            pred = pred.astype(np.uint8)
            if '.tif' in self._folders:
                write_class_ids(self._path(path, '.tif'), pred, palette,
                                like=Path(path))
            if '.png' in self._folders:
                truth = None
                if 'gt_sem_seg' in sample:
                    truth = sample.gt_sem_seg.data[0].cpu().numpy()
                picture = draw_prediction(
                    Path(path), truth, pred, palette,
                    self._bands.get(path))
                mark = PngInfo()
                mark.add_text(MARK, 'picture')
                with replacing(self._path(path, '.png')) as unfinished:
                    picture.save(unfinished, format='PNG', pnginfo=mark)


def distinct(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each file: its stem, where these differ.

    Else with the folders in which they differ, else with the suffix, too.
    """
    full = {path: Path(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath([path.parent for path in full.values()])
    names: dict[str, str] = {}
    for name in (lambda path: path.with_suffix('').name,
                 lambda path: path.relative_to(root).with_suffix(''),
                 lambda path: path.relative_to(root)):
        names = {path: str(name(full[path])) for path in paths}
        if len(set(names.values())) == len(names):
            break
    return names
