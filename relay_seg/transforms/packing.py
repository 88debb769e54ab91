from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS

from relay_seg.structures import ViewsSample, label_field


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Pack views and labels for a model.

    Required Keys: views, labels. Gives ``inputs``, a tuple of views, local
    first, and ``data_samples``, a ``ViewsSample`` with a label for each view
    (see :mod:`relay_seg.structures`). They are small on the way to the
    device: labels are uint8, and so is a view that holds nothing but bytes.

    Args:
        meta_keys: Keys to keep as metas of the sample.
    """

    def __init__(self, meta_keys: Sequence[str] = (
            'img_path', 'seg_map_path', 'window', 'img_shape',
            'ori_shape')) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        sample = ViewsSample(
            metainfo={k: results[k] for k in self.meta_keys if k in results})
        for i, label in enumerate(results['labels']):
            label = torch.from_numpy(np.ascontiguousarray(label))
            sample.set_data({label_field(i): PixelData(data=label[None])})
        views = tuple(
            torch.from_numpy(np.ascontiguousarray(as_bytes(view)))
            for view in results['views'])
        return dict(inputs=views, data_samples=sample)


def as_bytes(view: np.ndarray) -> np.ndarray:
    """A view as uint8 if all of its numbers are bytes; else as it is."""
    if view.dtype == np.uint8:
        return view
    with np.errstate(invalid='ignore'):  # NaN is no byte
        whole = view.astype(np.uint8)
    return whole if np.array_equal(whole, view) else view
