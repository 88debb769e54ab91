from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ViewsDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device and normalise it, all views alike.

    Args:
        mean: Mean of each band; None where the config takes it from the data
            (see :func:`relay_seg.config.set_statistics`): such a model can be
            built, but not given an image.
        std: Standard deviation of each band.
        non_blocking: As in the host.
    """

    def __init__(self, mean: Sequence[float | None],
                 std: Sequence[float | None],
                 non_blocking: bool = False) -> None:
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

    def forward(self, data: dict, training: bool = False) -> dict:
        """Stack and normalise.

        Args:
            data: 'inputs' and 'data_samples' as collated.
            training: Inputs are views of windows; else whole scenes.

        Returns:
            'inputs': in training a tuple of views, each (B, C, H, W); else
            scenes of one size, (B, C, H, W). 'data_samples' as they came.
        """
        data = self.cast_data(data)
        inputs, samples = data['inputs'], data.get('data_samples')
        if training:
            inputs = tuple(self.normalise(view) for view in inputs)
        else:
            inputs = self.normalise(inputs)
        return dict(inputs=inputs, data_samples=samples)

    def normalise(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise images (C, H, W) of one size and stack them."""
        self.check_known()
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise ValueError(f'images of one batch differ in shape: {shapes}; '
                             'use batch_size=1 for whole scenes.')
        images = torch.stack(tuple(images))
        if images.shape[1] != len(self.mean):
            raise ValueError(
                f'images have {images.shape[1]} bands, mean and std '
                f'{len(self.mean)}; set them, and in_channels, alike.')
        return (images.float() - self.mean) / self.std

    def check_known(self) -> None:
        """Refuse to work without mean and deviation."""
        if self.unknown:
            raise ValueError(
                'mean and std of this config are those of its training data, '
                'which are not at data_root. Use the config that training '
                'wrote to the work dir, which holds the numbers, or convert '
                'the data.')
