from .confusion import ConfusionMetric, confusion_matrix, scores

__all__ = ['ConfusionMetric', 'confusion_matrix', 'scores']
