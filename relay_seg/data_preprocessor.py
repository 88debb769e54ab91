from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ViewsDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device and normalise it, all views alike.

    Args:
        mean: Mean of each band.
        std: Standard deviation of each band.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float],
                 non_blocking: bool = False) -> None:
        super().__init__(non_blocking)
        if len(mean) != len(std) or not all(value > 0 for value in std):
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
