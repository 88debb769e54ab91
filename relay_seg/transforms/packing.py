from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from relay_seg.structures import label_field


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Pack views and labels for a model.

    Required Keys: views, labels. Gives ``inputs``, a tuple of views, local
    first, and ``data_samples``, a ``SegDataSample`` with a label for each
    view (see :mod:`relay_seg.structures`).

    Args:
        meta_keys: Keys to keep as metas of the sample.
    """

    def __init__(self, meta_keys: Sequence[str] = (
            'img_path', 'seg_map_path', 'window', 'img_shape',
            'ori_shape')) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        sample = SegDataSample(
            metainfo={k: results[k] for k in self.meta_keys if k in results})
        for i, label in enumerate(results['labels']):
            # The host's losses want int64 for the local view; a global label
            # has k * k times its pixels and stays small.
            dtype = np.int64 if i == 0 else np.uint8
            label = torch.from_numpy(np.ascontiguousarray(label, dtype))
            sample.set_data({label_field(i): PixelData(data=label[None])})
        views = tuple(
            torch.from_numpy(np.ascontiguousarray(view))
            for view in results['views'])
        return dict(inputs=views, data_samples=sample)
