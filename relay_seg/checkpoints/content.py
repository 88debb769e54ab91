"""What the content of a checkpoint is, however odd the file."""
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError


def meta_of(checkpoint: Mapping) -> dict:
    """Facts beside the weights; none if they are no facts by name."""
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def model_weights(checkpoint: Mapping, source: str | Path) -> dict:
    """Weights of a whole model by name.

    Args:
        checkpoint: With or without ``state_dict`` around the weights.
        source: Where it comes from, for the error.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not weights or not all(
            isinstance(x, Tensor) for x in weights.values()):
        raise CheckpointError(
            f'{source} holds no weights of a model, only '
            f'{", ".join(map(str, list(checkpoint)[:10])) or "an empty dict"}.'
            ' Give a checkpoint that tools/train.py wrote.')
    return {str(k).removeprefix('module.'): v for k, v in weights.items()}


def check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are no numbers: every pixel would be class 0.

    Args:
        weights: Parameters and buffers by name.
        source: Where they come from, for the error.
    """
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f'{source} holds {name} without its numbers (layout '
                f'{value.layout}, device {value.device}); write it as a '
                'dense tensor.')
        bad = value.numel() - int(torch.isfinite(value).sum())
        if bad:
            raise CheckpointError(
                f'{source} is of no use: {bad:,} of {value.numel():,} values '
                f'of {name} are NaN or infinite. Its training diverged; take '
                'an earlier checkpoint, or train with a lower learning rate.')
