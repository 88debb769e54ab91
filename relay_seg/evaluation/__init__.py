from .confusion import ConfusionMetric, confusion_matrix
from .loops import SceneTestLoop, SceneValLoop
from .report import make_report, scores

__all__ = [
    'ConfusionMetric', 'SceneTestLoop', 'SceneValLoop', 'confusion_matrix',
    'make_report', 'scores'
]
