"""Where the labels of each view stand in a ``SegDataSample``."""
from collections.abc import Sequence

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor


class ViewsSample(SegDataSample):
    """Labels of views, which a data loader can pin.

    It looks for this method, which the host's sample does not have.
    """

    def pin_memory(self) -> 'ViewsSample':
        """The same with labels in memory that a GPU copies from by itself."""
        pinned = self.new()
        for name, label in self.items():
            pinned.set_data(
                {name: PixelData(data=label.data.pin_memory())})
        return pinned


def label_field(view: int) -> str:
    """Name of the label of a view: 0 is the local one, then wider."""
    return 'gt_sem_seg' if view == 0 else f'gt_global_seg_{view}'


def view_labels(samples: Sequence[SegDataSample], view: int) -> Tensor:
    """Labels of one view of all samples, in native pixels.

    Returns:
        Class ids, (B, H, W) for the local view, (B, k*H, k*W) for a global
        one with context factor k.
    """
    field = label_field(view)
    for sample in samples:
        if field not in sample:
            raise ValueError(
                f'{sample.get("img_path")} has no label of view {view}; give '
                'the pipeline the context_factors of the model, or set '
                "loss_global's extent to 'center'.")
    return torch.cat([sample.get(field).data for sample in samples])
