"""Weights of classes, read and checked in one way for all losses."""
from collections.abc import Sequence
from math import isfinite

from mmseg.models.losses.utils import get_class_weight
from torch import Tensor, nn


def read_class_weight(
        class_weight: Sequence[float] | str | None) -> list[float] | None:
    """Weights as a list.

    Args:
        class_weight: Weight of each class in the order of the data set, a
            file that the host reads them from, or None.

    Raises:
        ValueError: A weight is negative or not finite, or all are zero.
    """
    if class_weight is None:
        return None
    weights = [float(value) for value in get_class_weight(class_weight)]
    if not all(isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ValueError(f'class_weight={weights}; use finite numbers of at '
                         'least 0, not all of them 0.')
    return weights


def weights_like(loss: nn.Module, logits: Tensor) -> Tensor | None:
    """Weights of the classes of a loss, of the type and place of logits.

    They are copied there once: a list would be in each step, and the device
    waited for.

    Args:
        loss: With ``class_weight``, a list or None.
        logits: Of any shape.
    """
    if loss.class_weight is None:
        return None
    kept = getattr(loss, 'kept_weights', None)
    if kept is None or (kept.dtype, kept.device) != (
            logits.dtype, logits.device):
        kept = loss.kept_weights = logits.new_tensor(loss.class_weight)
    return kept


def check_class_weights(module: nn.Module, num_classes: int) -> None:
    """Refuse losses that do not have one weight for each class.

    Args:
        module: A loss, or a model with losses.
        num_classes: Channels of the logits.
    """
    for loss in module.modules():
        weights = getattr(loss, 'class_weight', None)
        if weights is not None and len(weights) != num_classes:
            raise ValueError(
                f'class_weight of {type(loss).__name__} has {len(weights)} '
                f'weights, but the model has {num_classes} classes; give one '
                'for each class, in the order of the data set.')
