"""From the content of a file to the weights of the backbone in it."""
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .namings import Weights

#: Keys under which files hold their weights, tried from the top.
WRAPPERS = ('state_dict', 'model', 'teacher')
#: Prefixes of every weight that say nothing: those of DDP, of trainers and of
#: compiled models.
PREFIXES = ('module.', 'network.', 'net.', '_orig_mod.')
#: Of the authors' plain ViT: ``ViT.``
BACKBONES = ('backbone.', 'model.', 'ViT.')
#: Parts of classifiers after pooling, and of losses; none is of use here.
CLASSIFIERS = ('head.', 'head_dist.', 'fc_norm.', 'attn_pool.', 'criterion.')
#: Parts of models beside the backbone.
HEADS = (*CLASSIFIERS, 'neck.', 'decode_head.', 'auxiliary_head.',
         'seg_head.')


@dataclass
class Unwrapped:
    """Weights of a file.

    Args:
        backbone: Those of the backbone, without prefix.
        others: Those of neck and heads, as named in the file.
        strange: Names of the rest.
    """

    backbone: Weights
    others: Weights
    strange: list[str]


def unwrap(content: Mapping, source: str) -> Weights:
    """The weights in the content of a file, without common prefixes."""
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return unwrap(content[key], source)
    # Masks of shifted windows follow from the size of the image.
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)
               and str(k).split('.')[-1] != 'attn_mask'}
    if not weights:
        raise ValueError(
            f'{source} holds no weights but {list(content)[:8]}; give a file '
            f'of weights, bare or under one of {list(WRAPPERS)}.')
    for prefix in PREFIXES:
        # Losses of a trainer stand beside its network.
        if (_below(prefix, weights) and all(
                key.startswith((prefix, 'criterion.')) for key in weights)):
            weights = {k.removeprefix(prefix): v for k, v in weights.items()}
            return unwrap(weights, source)
    return weights


def split(weights: Weights, source: str,
          prefix: str | None = None) -> Unwrapped:
    """Part the backbone from neck and heads.

    Args:
        weights: All weights of a file.
        source: File, for the error.
        prefix: Of the backbone, as in the file; without it ``backbone.``,
            ``model.``, ``ViT.`` or nothing is found out.
    """
    asked = prefix is not None
    if prefix is not None:
        given = prefix = prefix.rstrip('.') + '.'
        while not _below(prefix, weights) and prefix.startswith(PREFIXES):
            prefix = prefix.partition('.')[2]  # gone from the names already
    else:
        prefix = next((p for p in BACKBONES if _below(p, weights)), '')
    below = _below(prefix, weights)
    if not below:
        tops = sorted({key.split('.')[0] for key in weights})
        raise ValueError(f'prefix={given!r} is of no weight in {source}, '
                         f'whose names begin with {tops}.')
    # Heads stand beside the backbone or, in classifiers, within it.
    backbone = {k: v for k, v in below.items() if not k.startswith(HEADS)}
    others = {k: v for k, v in weights.items()
              if k.removeprefix(prefix).startswith(HEADS)
              or (asked and not k.startswith(prefix))}
    strange = [k for k in weights
               if not k.startswith(prefix) and k not in others]
    return Unwrapped(backbone, others, strange)


def _below(prefix: str, weights: Weights) -> Weights:
    return {key.removeprefix(prefix): value for key, value in weights.items()
            if key.startswith(prefix)}
