from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from torch import Tensor

from relay_seg.structures import view_labels


@MODELS.register_module()
class ViewsDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device and normalise it, all views alike.

    Args:
        mean: Mean of each band; None where the config takes it from the data
            (see :func:`relay_seg.config.set_statistics`): such a model can be
            built, but not given an image.
        std: Standard deviation of each band.
        non_blocking: Do not wait for copies to the device. They are such
            only from pinned memory (``pin_memory`` of the data loader).
    """

    def __init__(self, mean: Sequence[float | None],
                 std: Sequence[float | None],
                 non_blocking: bool = True) -> None:
        super().__init__(non_blocking)
        self.unknown = None in (*mean, *std)
        mean, std = ([float('nan') if x is None else x for x in part]
                     for part in (mean, std))
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f'mean={mean} and std={std} need one value for '
                             'each band, and deviations above zero.')
        shape = (-1, 1, 1)
        self.register_buffer(
            'mean', torch.tensor(mean, dtype=torch.float32).view(shape), False)
        self.register_buffer(
            'std', torch.tensor(std, dtype=torch.float32).view(shape), False)

    # Types and paths differ from batch to batch: a compiled step would be
    # compiled again for them.
    @torch.compiler.disable
    def forward(self, data: dict, training: bool = False) -> dict:
        """Stack and normalise.

        Args:
            data: 'inputs' and 'data_samples' as collated.
            training: Inputs are views of windows; else whole scenes.

        Returns:
            'inputs': in training a tuple of views, each (B, C, H, W); else
            scenes of one size, (B, C, H, W). 'data_samples' on the device,
            in training with local labels as int64, as the host's losses want
            them.
        """
        data = self.cast_data(data)
        inputs, samples = data['inputs'], data.get('data_samples')
        if training:
            inputs = tuple(self.normalise(view) for view in inputs)
            if samples:
                labels = view_labels(samples, 0).long()
                for sample, label in zip(samples, labels):
                    sample.gt_sem_seg = PixelData(data=label[None])
        else:
            inputs = self.normalise(inputs)
        return dict(inputs=inputs, data_samples=samples)

    def normalise(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise images (C, H, W) of one size, of any types; stack them."""
        self.check_known()
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise ValueError(f'images of one batch differ in shape: {shapes}; '
                             'use batch_size=1 for whole scenes.')
        batch = torch.stack(tuple(images))
        if batch.shape[1] != len(self.mean):
            raise ValueError(
                f'images have {batch.shape[1]} bands, mean and std '
                f'{len(self.mean)}; set them, and in_channels, alike.')
        return (batch.float() - self.mean) / self.std

    def check_known(self) -> None:
        """Refuse to work without mean and deviation."""
        if self.unknown:
            raise ValueError(
                'mean and std of this config are those of its training data, '
                'which are not at data_root. Use the config that training '
                'wrote to the work dir, which holds the numbers, or convert '
                'the data.')
