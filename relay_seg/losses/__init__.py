from .class_weights import check_class_weights
from .cross_entropy import CheckedCrossEntropyLoss
from .global_view import AgreementLoss, GlobalViewLoss

__all__ = [
    'AgreementLoss', 'CheckedCrossEntropyLoss', 'GlobalViewLoss',
    'check_class_weights'
]
