from mmseg.registry import DATASETS

from .scene_dataset import SceneDataset


@DATASETS.register_module()
class URURDataset(SceneDataset):
    """Land cover in satellite scenes of about 5120 x 5120 pixels.

    "Ultra-High Resolution Segmentation with Ultra-Rich Context: A Novel
    Benchmark", CVPR 2023.
    """

    METAINFO = dict(
        classes=('others', 'building', 'greenhouse', 'woodland', 'farmland',
                 'bareland', 'water', 'road'),
        palette=[[0, 0, 0], [230, 230, 230], [100, 100, 100],
                 [200, 230, 160], [95, 163, 7], [255, 255, 100],
                 [150, 200, 250], [240, 100, 80]])
