"""What a model consists of and what it costs."""
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from torch import nn

from relay_seg.backbones.base import RelayBackbone

from .measuring import activation_bytes, forward_flops
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
        views: Views of a window.
        flops: Operations of one window in a test; a multiplication and an
            addition are two.
        activation_bytes: Kept for the backward pass by a training step, for
            each window, float32.
    """
    config: str
    parts: dict[str, int]
    window: tuple[int, int]
    input_size: tuple[int, int]
    stride: tuple[int, int]
    views: int
    flops: int
    activation_bytes: int

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
        flops = forward_flops(model, window)
        memory = activation_bytes(model, window)
    return Description(
        config=Path(cfg.filename or 'config').stem,
        parts=count_parts(model), window=window.native,
        input_size=window.size, stride=window.stride,
        views=1 + len(getattr(model, 'context_factors', ())), flops=flops,
        activation_bytes=memory)


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
