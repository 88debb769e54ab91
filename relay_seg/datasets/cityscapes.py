from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .scene_dataset import SceneDataset


@DATASETS.register_module()
class CityscapesSceneDataset(SceneDataset):
    """Street scenes, the 19 classes of the Cityscapes benchmark.

    The classes are those of the host's ``CityscapesDataset``, which reads
    the folders of the download; this one reads converted scenes.
    """

    METAINFO = CityscapesDataset.METAINFO
