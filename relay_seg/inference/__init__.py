"""Prediction of scenes larger than memory."""
from relay_seg.sample_model import sample_model

from .command import join_scenes, predict_scenes
from .inputs import Scene, find_scenes
from .model import load_model
from .predict import Prediction, predict_array, predict_raster
from .settings import Progress, Report, Settings

__all__ = [
    'Prediction', 'Progress', 'Report', 'Scene', 'Settings', 'find_scenes',
    'join_scenes', 'load_model', 'predict_array', 'predict_raster',
    'predict_scenes', 'sample_model'
]
