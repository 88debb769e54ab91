from .dubai import DubaiDataset
from .gleason import GleasonDataset
from .scene_dataset import SceneDataset

__all__ = ['DubaiDataset', 'GleasonDataset', 'SceneDataset']
