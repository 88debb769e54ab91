from mmseg.registry import DATASETS

from .classes import DUBAI
from .scene_dataset import SceneDataset


@DATASETS.register_module()
class DubaiDataset(SceneDataset):
    """Aerial scenes of Dubai.

    "Semantic segmentation of aerial imagery", Humans in the Loop with the
    Mohammed Bin Rashid Space Centre, CC0 1.0.
    """

    METAINFO = DUBAI
