from mmseg.registry import DATASETS

from .scene_dataset import SceneDataset


@DATASETS.register_module()
class ArchaeoscapeDataset(SceneDataset):
    """Traces of Angkor under the forest: orthophoto and laser-scanned ground.

    Bands are red, green, blue and the elevation in metres. "Archaeoscape:
    Bringing Aerial Laser Scanning Archaeology to the Deep Learning Era",
    NeurIPS 2024.
    """

    METAINFO = dict(
        classes=('background', 'mound', 'water', 'temple_site'),
        palette=[[200, 200, 200], [190, 120, 60], [60, 130, 220],
                 [220, 50, 50]],
        pixel_size=0.5)
