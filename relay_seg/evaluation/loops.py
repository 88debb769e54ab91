"""Validation and test of scenes of any size, row by row."""
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop, ValLoop
from mmengine.structures import PixelData
from mmseg.registry import LOOPS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import DataLoader

from relay_seg.datasets import parts_of, steps_of
from relay_seg.datasets.labels import IGNORE, as_ids, map_labels
from relay_seg.hooks import WritePredictions
from relay_seg.inference.deciding import (
    are_numbers,
    check_numbers,
    decide,
    to_cpu,
)
from relay_seg.inference.forward import Forward, forget
from relay_seg.inference.model import bands_of
from relay_seg.inference.plan import Plan
from relay_seg.inference.raster_source import RasterSource
from relay_seg.inference.stream import Timer, stream
from relay_seg.rasters import read_region, reused_raster
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.transforms import ReadScene
from relay_seg.views import Window

from .confusion import ConfusionMetric, confusion_matrix
from .report import SceneCount

THREADS = 2  # that read a scene
METAS = 'img_path', 'seg_map_path', 'label_lookup', 'scene_shape'


if TYPE_CHECKING:  # or TestLoop, which has the same
    from mmengine.runner import ValLoop as _Loop
else:
    _Loop = object


class SceneList:
    """The scenes of a data loader, none of them read.

    Args:
        loader: Data loader of scenes, one in a batch.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.dataset: Any = loader.dataset
        self.sampler: Any = loader.sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict]:
        for index in self.sampler:
            info = self.dataset.get_data_info(index)
            sample = SegDataSample(metainfo={
                key: info[key] for key in METAS if key in info} | dict(
                    bands=steps_of(self.dataset, index)[0].bands))
            yield dict(inputs=[], data_samples=[sample])


class _Streaming(_Loop):
    """What validation and test have in common, before the host's loop.

    Scenes are streamed as in prediction: memory holds the rows that windows
    look at, and pixels are counted band by band. What this cannot do (scenes
    as one window, other models, metrics or pipelines) is left to the host.
    """

    validation: bool
    dataloader: Any

    def run(self) -> dict:
        """Evaluate all scenes."""
        if not isinstance(self.dataloader, SceneList) and self._can_stream():
            self.dataloader = SceneList(self.dataloader)
        try:
            return super().run()
        finally:  # training needs the memory
            forget(self._model)

    def _can_stream(self) -> bool:
        model, loader = self._model, self.dataloader
        pipelines: list[Sequence] = [
            getattr(getattr(part, 'pipeline', None), 'transforms', ())
            for part in parts_of(loader.dataset)]
        return (isinstance(model, SlideEncoderDecoder)
                and model.test_cfg.mode == 'slide' and not self.fp16
                and loader.batch_size == 1
                and all(len(steps) == 2 and isinstance(steps[0], ReadScene)
                        for steps in pipelines)
                and all(isinstance(metric, ConfusionMetric)
                        for metric in self.evaluator.metrics))

    @property
    def _model(self) -> Any:  # a segmentor of any kind
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Evaluate one scene."""
        if not isinstance(self.dataloader, SceneList):
            super().run_iter(idx, data_batch)
            return
        name = 'val' if self.validation else 'test'
        self.runner.call_hook(
            f'before_{name}_iter', batch_idx=idx, data_batch=data_batch)
        sample, = data_batch['data_samples']
        keep = any(isinstance(hook, WritePredictions)
                   for hook in self.runner.hooks)
        for metric in self.evaluator.metrics:
            metric.results.append(self._count(sample, metric, keep))
        self.runner.call_hook(
            f'after_{name}_iter', batch_idx=idx, data_batch=data_batch,
            outputs=[sample])

    def _count(self, sample: SegDataSample, metric: ConfusionMetric,
               keep: bool) -> SceneCount:
        """Pixels of a scene by true and by predicted class.

        Args:
            sample: Names the scene; gets truth and prediction if ``keep``.
            metric: Whose classes and ignored label count.
            keep: Whether somebody wants the pixels.
        """
        model: SlideEncoderDecoder = self._model  # see _can_stream
        path = sample.img_path
        source = RasterSource([path], bands_of(model, sample.bands))
        slide = model.slide(self.validation)
        plan = Plan(source.shape, slide.window, slide.stride, slide.blend,
                    slide.batch_size, model.contexts,
                    slide.input_size, touched=slide.touched(source.shape))
        classes = len(metric.dataset_meta['classes'])
        device = model.data_preprocessor.device
        matrix = torch.zeros(classes, classes, dtype=torch.int64,
                             device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        kept: list[tuple[Tensor, np.ndarray]] = []
        for band in stream(
                model, source, [plan.whole], threads=THREADS,
                forward=Forward(model, plan.size, plan.batch_size),
                timer=Timer(), advance=_ignore, skip_empty=False):
            low, high = band.top, band.bottom
            finite &= are_numbers(band.logits).to(device)
            ids = decide(model, band.logits)
            truth = _labels(sample, low, high, source.shape[1])
            truth[~plan.covered(low, high)] = metric.ignore_index
            try:
                matrix += confusion_matrix(
                    ids, torch.from_numpy(truth).to(ids.device), classes,
                    metric.ignore_index).to(device)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
            if keep:
                moved, wait = to_cpu([ids])
                wait()
                kept.append((moved[0], truth))
        check_numbers(finite, source.name, 0, source.shape[0])
        if keep:
            parts = torch.cat([ids for ids, _ in kept]), torch.from_numpy(
                np.concatenate([truth for _, truth in kept]))
            sample.pred_sem_seg, sample.gt_sem_seg = (
                PixelData(data=part[None]) for part in parts)
        found = matrix.cpu().numpy()
        pixels = source.shape[0] * source.shape[1]
        return SceneCount(path=path, matrix=found,
                          ignored=pixels - int(found.sum()))


def _labels(sample: SegDataSample, low: int, high: int,
            width: int) -> np.ndarray:
    """Class ids of some rows of a scene's label, uint8."""
    path = sample.seg_map_path
    with reused_raster(path) as raster:
        dtype = np.promote_types(raster.dtypes[0], np.uint8).type
        rows = read_region(raster, Window(low, 0, high - low, width),
                           bands=[1], fill=[IGNORE], dtype=dtype)[0]
    return map_labels(as_ids(rows, path), sample.label_lookup, path)


def _ignore(count: int) -> None:
    """Scenes are counted, not windows."""


@LOOPS.register_module()
class SceneValLoop(_Streaming, ValLoop):
    """The host's validation, over scenes that need not fit into memory."""
    validation = True


@LOOPS.register_module()
class SceneTestLoop(_Streaming, TestLoop):
    """The host's test, over scenes that need not fit into memory."""
    validation = False

