from mmseg.registry import DATASETS

from .scene_dataset import SceneDataset


@DATASETS.register_module()
class DubaiDataset(SceneDataset):
    """Aerial scenes of Dubai.

    "Semantic segmentation of aerial imagery", Humans in the Loop with the
    Mohammed Bin Rashid Space Centre, CC0 1.0.
    """

    METAINFO = dict(
        classes=('building', 'land', 'road', 'vegetation', 'water'),
        palette=[[60, 16, 152], [132, 41, 246], [110, 193, 228],
                 [254, 221, 58], [226, 169, 41]])
