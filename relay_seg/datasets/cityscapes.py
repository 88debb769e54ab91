from mmseg.registry import DATASETS

from .classes import CITYSCAPES
from .scene_dataset import SceneDataset


@DATASETS.register_module()
class CityscapesSceneDataset(SceneDataset):
    """Street scenes, the 19 classes of the Cityscapes benchmark.

    The classes are those of the host's ``CityscapesDataset``, which reads
    the folders of the download; this one reads converted scenes.
    """

    METAINFO = CITYSCAPES
