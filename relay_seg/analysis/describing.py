"""What a model consists of and what it costs."""
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from torch import nn

from relay_seg.backbones.base import RelayBackbone
from relay_seg.views import view_sizes

from .measuring import Flops, activation_bytes, forward_flops
from .window import window_input

#: First modules of backbones, before their blocks.
STEM = ('patch_embed', 'pos_embed', 'absolute_pos_embed', 'cls_token', 'stem',
        'conv1', 'bn1', 'norm1')


@dataclass(frozen=True)
class Description:
    """Parts of a model and their cost.

    Args:
        config: Name of the config.
        parts: Parameters of each part; together all of the model.
        window: Height and width in native pixels.
        input_size: Height and width of its views in pixels.
        stride: Steps between windows in a test.
        views: Height and width of each view, the local one first.
        costs: Operations of the model with the local view alone, without
            relay tokens, then with each global view more; a multiplication
            and an addition are two.
        activation_bytes: Kept for the backward pass by a training step, for
            each window, float32.
    """
    config: str
    parts: dict[str, int]
    window: tuple[int, int]
    input_size: tuple[int, int]
    stride: tuple[int, int]
    views: tuple[tuple[int, int], ...]
    costs: tuple[Flops, ...]
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Operations of one window in a test."""
        return self.costs[-1].test

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(self.parts.values())

    @property
    def backbone_parameters(self) -> int:
        """Parameters of the backbone, with what relay adds."""
        return sum(n for part, n in self.parts.items()
                   if part.startswith('backbone'))

    @property
    def relay_share(self) -> float:
        """What relay adds, over the backbone without it."""
        added = self.parts['backbone: added by relay']
        return added / (self.backbone_parameters - added)

    @property
    def flops_per_megapixel(self) -> float:
        """Operations for a million native pixels of a large scene."""
        return self.flops * 1e6 / (self.stride[0] * self.stride[1])

    def as_dict(self) -> dict:
        """All numbers, for JSON."""
        return asdict(self) | dict(
            flops=self.flops, costs=[cost._asdict() for cost in self.costs],
            parameters=self.parameters,
            backbone_parameters=self.backbone_parameters,
            relay_share=self.relay_share,
            flops_per_megapixel=self.flops_per_megapixel)


def describe(cfg: Config,
             size: tuple[int, int] | None = None) -> Description:
    """Build the model of a config and look at it; reads no weights.

    Args:
        cfg: Config of a relay model, a plain one or one of the host's.
        size: Height and width of a window, where the config does not say.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    window = window_input(cfg, size)
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(cfg.model)
        contexts = getattr(model, 'contexts', ())
        costs = [forward_flops(MODELS.build(_with_views(cfg.model, n)), window)
                 for n in range(len(contexts))]
        costs.append(forward_flops(model, window))
        memory = activation_bytes(model, window)
    return Description(
        config=Path(cfg.filename or 'config').stem,
        parts=count_parts(model), window=window.native,
        input_size=window.size, stride=window.stride,
        views=tuple(view_sizes(window.size, contexts)), costs=tuple(costs),
        activation_bytes=memory)


def _with_views(model: ConfigDict, number: int) -> ConfigDict:
    """A relay model with its first global views; without relay tokens if none.
    """
    model = deepcopy(model)
    for key in ('context_factors', 'context_reductions'):
        if model.get(key) is not None:
            model[key] = model[key][:number]
    model.backbone.num_views = 1 + number
    if not number:
        model.backbone.num_relay_tokens = 0
    return model


def count_parts(model: BaseSegmentor) -> dict[str, int]:
    """Parameters of each part of a segmentor.

    Args:
        model: Segmentor with a backbone, neck and heads.

    Returns:
        Stem, blocks and what relay adds of the backbone, then each other
        module. Relay adds the relay tokens, their bias and merging layers, and
        the stems of the global views.
    """
    parts = {'backbone: stem': 0, 'backbone: blocks': 0,
             'backbone: added by relay': 0}
    added = _added_by_relay(model.backbone)
    for name, parameter in model.backbone.named_parameters():
        top = name.split('.')[0]
        part = ('added by relay' if name in added
                else 'stem' if top in STEM else 'blocks')
        parts[f'backbone: {part}'] += parameter.numel()
    for name, module in model.named_children():
        if name != 'backbone':
            count = sum(p.numel() for p in module.parameters())
            if count:
                parts[name] = count
    loose = sum(p.numel() for p in model.parameters()) - sum(parts.values())
    return parts | (dict(other=loose) if loose else {})


def _added_by_relay(backbone: nn.Module) -> set[str]:
    """Names of parameters of relay tokens and of the global views' stems."""
    if not isinstance(backbone, RelayBackbone):
        return set()
    twins = tuple(backbone.stem.values())
    return {name for name, _ in backbone.named_parameters()
            if 'relay' in name or name.startswith(twins)}
