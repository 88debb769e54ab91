from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS

from .sampling import NUMBERS, draw_scene, seed_words


@DATASETS.register_module(name='ConcatDataset')
class SceneConcatDataset(ConcatDataset):
    """The host's data set of several, which ``WindowSampler`` can draw from.

    A data set is drawn in proportion to its area, then a sample of it as
    :class:`relay_seg.datasets.SceneDataset` draws it. Arguments are those of
    the host's.
    """

    @property
    def areas(self) -> np.ndarray:
        """Native pixels of each scene, or of its labelled part."""
        return np.concatenate([part.areas for part in self.datasets])

    def __getitem__(self, idx: int) -> dict:
        if idx < NUMBERS:
            return super().__getitem__(idx)
        # The part draws from the number itself: another word tells them apart.
        np.random.seed([*seed_words(idx), 1])
        part = draw_scene(np.array([x.areas.sum() for x in self.datasets]))
        return self.datasets[part][idx]


def parts_of(dataset: Any) -> Iterator[Any]:
    """Data sets that a data set is made of; itself if of none."""
    inside = getattr(dataset, 'datasets', None) or (
        [dataset.dataset] if hasattr(dataset, 'dataset') else [])
    for part in inside:
        yield from parts_of(part)
    if not inside:
        yield dataset


def steps_of(dataset: Any, index: int) -> Sequence[Any]:
    """Steps of the pipeline through which a scene of a data set passes."""
    while hasattr(dataset, '_get_ori_dataset_idx'):  # around others
        where = dataset._get_ori_dataset_idx(index)
        if isinstance(dataset, ConcatDataset):
            part, index = where
            dataset = dataset.datasets[part]
        else:
            dataset, index = dataset.dataset, where
    return dataset.pipeline.transforms
