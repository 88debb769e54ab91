from mmseg.registry import DATASETS

from .classes import GLEASON
from .scene_dataset import SceneDataset


@DATASETS.register_module()
class GleasonDataset(SceneDataset):
    """Tissue cores of prostate cancer, Gleason 2019 challenge (MICCAI).

    Labels are the majority of up to six pathologists.
    """

    METAINFO = GLEASON
