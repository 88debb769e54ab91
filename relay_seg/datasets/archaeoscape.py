from mmseg.registry import DATASETS

from .classes import ARCHAEOSCAPE
from .scene_dataset import SceneDataset


@DATASETS.register_module()
class ArchaeoscapeDataset(SceneDataset):
    """Traces of Angkor under the forest: orthophoto and laser-scanned ground.

    Bands are red, green, blue and the elevation in metres. "Archaeoscape:
    Bringing Aerial Laser Scanning Archaeology to the Deep Learning Era",
    NeurIPS 2024.
    """

    METAINFO = ARCHAEOSCAPE | dict(pixel_size=0.5)
