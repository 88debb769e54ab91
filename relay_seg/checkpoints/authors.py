"""Trained models of the authors of the method, for segmentors of ours."""
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .namings import Weights, find_naming
from .unwrapping import CLASSIFIERS, split, unwrap

#: Their decoder, and ours.
HEAD = 'seg_head.layers.0.', 'decode_head.upsample.'
#: In their files but without a part in their results.
UNUSED = re.compile(r'(^|\.)(' + '|'.join(map(re.escape, CLASSIFIERS)) + ')')
FINAL_NORM = 'backbone.ln1.'
LAYER_SCALE = re.compile(
    r'^backbone\.layers\.\d+\.(attn\.gamma1|ffn\.gamma2)\.weight$')


def is_theirs(names: Iterable[str]) -> bool:
    """Whether these are the names of a whole model of theirs."""
    return any(re.search(r'(^|\.)seg_head\.', name) for name in names)


def our_head(name: str) -> str:
    """Our name of a weight of their decoder; other names stay."""
    theirs, ours = HEAD
    return name.replace(theirs, ours) if name.startswith(theirs) else name


def to_ours(weights: Mapping[str, Tensor], model: nn.Module,
            source: str) -> tuple[Weights, list[str]]:
    """A model of theirs under the names of a segmentor of ours.

    Args:
        weights: All weights of a file.
        model: Segmentor, whose LayerScale gets ones: theirs has none.
        source: File, for errors.

    Returns:
        Weights, of which those that ours has no name for keep theirs; and
        what there is to know of them.
    """
    weights = unwrap(weights, source)
    parts = split(weights, source)
    try:
        naming = find_naming(parts.backbone, source)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    renamed, unknown = naming.to_ours(parts.backbone)
    ours = {f'backbone.{k}': v for k, v in renamed.items()}
    ours |= {our_head(k): v for k, v in parts.others.items()}
    ours |= {k: parts.backbone[k] for k in unknown}
    ours |= {k: weights[k] for k in parts.strange}

    # Their ViT gives its last layer to the head as it is.
    dropped = [k for k in ours if UNUSED.search(k) or (
        k.startswith(FINAL_NORM) and naming.family == 'ViT')]
    ours = {k: v for k, v in ours.items() if k not in dropped}
    notes = [f'{source} is a model of the authors of relay tokens, named as '
             f'by {naming.name}: it got the names of relay_seg']
    if dropped:
        notes.append('dropped, without a part in their results: '
                     + ', '.join(dropped))
    scales = {k: v for k, v in model.state_dict().items()
              if LAYER_SCALE.match(k)}
    if scales and not any(map(LAYER_SCALE.match, ours)):
        ours |= {k: torch.ones_like(v) for k, v in scales.items()}
        notes.append(f'LayerScale is new: {len(scales)} weights of ones, '
                     'which change nothing')
    backbone = getattr(model, 'backbone', None)
    fusion = getattr(backbone, 'fusion', 'mean')
    if 'backbone.relay_tokens' in ours and fusion != 'mean':
        notes.append("trained with fusion='mean', but the config has "
                     f'fusion={fusion!r}: results will differ')
    return ours, notes
