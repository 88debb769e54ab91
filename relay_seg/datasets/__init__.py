from .archaeoscape import ArchaeoscapeDataset
from .cityscapes import CityscapesSceneDataset
from .dubai import DubaiDataset
from .gleason import GleasonDataset
from .sampling import WindowSampler
from .scene_dataset import SceneDataset
from .several import SceneConcatDataset, parts_of, steps_of
from .urur import URURDataset

__all__ = [
    'ArchaeoscapeDataset', 'CityscapesSceneDataset', 'DubaiDataset',
    'GleasonDataset', 'SceneConcatDataset', 'SceneDataset', 'URURDataset',
    'WindowSampler', 'parts_of', 'steps_of'
]
