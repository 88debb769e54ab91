from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from relay_seg.drawing import draw_prediction
from relay_seg.rasters import write_class_ids


@HOOKS.register_module()
class WritePredictions(Hook):
    """Write what a model predicts in a test.

    Args:
        ids: Folder for class ids, a GeoTIFF with colour table for each
            scene, under the name of the scene; None for none.
        pictures: Folder for pictures: scene, truth and prediction side by
            side; None for none.
    """

    def __init__(self, ids: str | None = None,
                 pictures: str | None = None) -> None:
        self.ids = Path(ids) if ids else None
        self.pictures = Path(pictures) if pictures else None

    def after_test_iter(self, runner: Runner, batch_idx: int,
                        data_batch: dict | None = None,
                        outputs: Sequence[SegDataSample] | None = None
                        ) -> None:
        dataset = runner.test_dataloader.dataset
        palette = dataset.metainfo['palette']
        bands = getattr(dataset.pipeline.transforms[0], 'bands', None)
        for sample in outputs or ():
            path = Path(sample.img_path)
            pred = sample.pred_sem_seg.data[0].cpu().numpy()
            pred = pred.astype(np.uint8)
            if self.ids:
                write_class_ids(self.ids / f'{path.stem}.tif', pred, palette,
                                like=path)
            if self.pictures:
                truth = None
                if 'gt_sem_seg' in sample:
                    truth = sample.gt_sem_seg.data[0].cpu().numpy()
                picture = draw_prediction(
                    path, truth, pred, palette, bands)
                self.pictures.mkdir(parents=True, exist_ok=True)
                picture.save(self.pictures / f'{path.stem}.png')
