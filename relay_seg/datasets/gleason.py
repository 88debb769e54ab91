from mmseg.registry import DATASETS

from .scene_dataset import SceneDataset


@DATASETS.register_module()
class GleasonDataset(SceneDataset):
    """Tissue cores of prostate cancer, Gleason 2019 challenge (MICCAI).

    Labels are the majority of up to six pathologists.
    """

    METAINFO = dict(
        classes=('benign', 'gleason_3', 'gleason_4', 'gleason_5'),
        palette=[[190, 220, 190], [250, 210, 80], [240, 130, 50],
                 [190, 30, 45]])
