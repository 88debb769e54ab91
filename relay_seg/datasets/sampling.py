"""Which scene and window each training sample shows."""
from collections.abc import Iterator
from math import ceil

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

#: Sample numbers of a seed start here, beyond any number of scenes.
NUMBERS = 2**40


@DATA_SAMPLERS.register_module()
class WindowSampler(Sampler):
    """Numbers of the samples to draw, a fixed count for each epoch.

    A number alone decides what a sample shows (see
    :class:`relay_seg.datasets.SceneDataset`): a run repeats for any number of
    workers, and goes on with the next samples when it is resumed.

    Args:
        dataset: Data set, as the host's runner passes it.
        samples_per_epoch: Samples of all processes together, rounded up to
            as many for each.
        seed: Seed of the run; None draws one for all processes.
        coverage: In place of a number, how often the windows of an epoch
            cover the area of the data set, on average.
        window: With coverage, height and width of a window in native pixels.
    """

    def __init__(self, dataset: BaseDataset,
                 samples_per_epoch: int | None = None,
                 seed: int | None = None,
                 coverage: float | None = None,
                 window: tuple[int, int] | None = None) -> None:
        if (samples_per_epoch is None) == (coverage is None):
            raise ValueError(
                f'samples_per_epoch={samples_per_epoch} and coverage='
                f'{coverage}: give one of them (_delete_=True in a config '
                'drops what its base has).')
        count = samples_per_epoch or 0
        if coverage is not None:
            if not window:
                raise ValueError(f'coverage={coverage} needs the window.')
            count = ceil(
                coverage * dataset.areas.sum() / (window[0] * window[1]))
        if count < 1:
            raise ValueError(f'{count} samples for each epoch; '
                             'use 1 or more.')
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.samples = -(-count // self.world_size)
        self.epoch = self.skipped = 0

    def __iter__(self) -> Iterator[int]:
        first = (self.seed + 1) * NUMBERS
        first += self.epoch * self.samples * self.world_size
        start, self.skipped = self.skipped, 0
        for i in range(start, self.samples):
            yield first + i * self.world_size + self.rank

    def __len__(self) -> int:
        """Samples of this process in an epoch."""
        return self.samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        self.epoch, self.skipped = epoch, 0

    def skip(self, num_samples: int) -> None:
        """Go on after so many samples of this process, from the first epoch.

        What is left of an epoch comes next, without reading what is skipped.
        """
        self.epoch, self.skipped = divmod(num_samples, self.samples)


def seed_words(number: int) -> list[int]:
    """A sample number as 32-bit words, to seed a generator with."""
    words = []
    while number:
        words.append(number & 0xFFFFFFFF)
        number >>= 32
    return words


def draw_scene(areas: np.ndarray) -> int:
    """Index of a scene, in proportion to its area (or another weight)."""
    ends = np.cumsum(areas, dtype=np.float64)
    return int(np.searchsorted(ends, np.random.rand() * ends[-1], 'right'))
