from mmseg.registry import DATASETS

from .classes import URUR
from .scene_dataset import SceneDataset


@DATASETS.register_module()
class URURDataset(SceneDataset):
    """Land cover in satellite scenes of about 5120 x 5120 pixels.

    "Ultra-High Resolution Segmentation with Ultra-Rich Context: A Novel
    Benchmark", CVPR 2023.
    """

    METAINFO = URUR
