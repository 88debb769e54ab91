from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.model import ModuleDict, ModuleList
from mmseg.registry import MODELS
from torch import nn

from relay_seg.relay import Block, relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone
from .layers import MixVisionTransformer
from .mix_block import mix_block
from .place import PlaceBias, check_relay_place


@MODELS.register_module()
class RelayMiT(RelayBackbone):
    """Mix Transformer (SegFormer) with relay tokens between the views.

    Layers and parameter names are those of ``mmseg.MixVisionTransformer``;
    without relay tokens so are the values. See :func:`mix_block`.

    Args:
        out_indices: Stages that give a feature map.
        frozen_stages: Last stage to freeze, with the stems; -1 for none.
        with_cp: Activation checkpointing: less memory, one more forward.
        num_views: Views of a window, the local one included.
        num_relay_tokens: R.
        fusion: See :func:`relay_seg.relay.relay_step`.
        relay_place: As in :class:`RelayViT`.
        init_cfg: As in the host.
        kwargs: Others of the host: in_channels, embed_dims, num_layers, ...
    """

    stem = {'layers.0.0': 'global_patch_embed'}

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1, with_cp: bool = False,
                 num_views: int = 2, num_relay_tokens: int = 4,
                 fusion: str = 'sequential', relay_place: str = 'none',
                 init_cfg: dict | list | None = None, **kwargs) -> None:
        host = MixVisionTransformer(
            out_indices=(0, ), init_cfg=init_cfg, **kwargs)
        super().__init__(num_views, num_relay_tokens, fusion, frozen_stages,
                         host.init_cfg)
        stages = range(host.num_stages)
        if not set(out_indices) <= set(stages):
            raise ValueError(f'out_indices={tuple(out_indices)} names a stage '
                             f'that is not among 0 to {stages[-1]}.')
        self.out_indices, self.with_cp = tuple(out_indices), with_cp
        self.patch_size = host.strides[0]
        self.layers = host.layers  # of each stage: embedding, blocks, norm
        widths = [embed.embed_dims for embed, _, _ in self.layers]
        if num_relay_tokens:
            self.relay_merge = ModuleList(map(nn.Linear, widths, widths[1:]))
        if check_relay_place(relay_place) == 'bias' and num_relay_tokens:
            self.relay_places = ModuleDict({
                f'{i}_{j}': PlaceBias(block.attn.num_heads, num_relay_tokens)
                for i, (_, blocks, _) in enumerate(self.layers)
                for j, block in enumerate(blocks)})
        self._build_relay(widths[0])

    def forward(self, views: Views,
                local_only: bool = False) -> tuple[Pyramid, ...]:
        """Feature maps of every view: one pyramid for each.

        Args:
            views: Views of a batch of windows, local first, each
                (B, in_channels, H, W) of its own size; H and W are multiples
                of the stride of the stem, 32 pixels or more with the usual
                reductions.
            local_only: Give the pyramid of the local view alone, and leave
                out what only others need.
        """
        views = self._checked(views, self.patch_size, local_only)
        branches, pyramids = views, self._pyramids(views, local_only)
        last = self.layers[-1][1][-1]
        for i, (embed, blocks, norm) in enumerate(self.layers):
            embeds = (embed, *(self.global_patch_embed if i == 0
                               else [embed] * (len(views) - 1)))
            embedded = [f(x) for f, x in zip(embeds, branches)]
            branches = tuple(x for x, _ in embedded)
            shapes = [shape for _, shape in embedded]
            if i == 0 or not self.num_relay_tokens:
                relay = self._initial_relay(branches[0])
            else:
                relay = self.relay_merge[i - 1](relay)
            for j, block in enumerate(blocks):
                branches, relay = relay_step(
                    self._prepare(i, j, shapes), branches, relay,
                    self.fusion, local_only and block is last)
            relay = norm(relay)
            branches = tuple(norm(x).mT.unflatten(2, shape)
                             for x, shape in zip(branches, shapes))
            if i in self.out_indices:
                for pyramid, x in zip(pyramids, branches):
                    pyramid.append(x)  # (B, C, h, w)
        return tuple(map(tuple, pyramids))

    def _prepare(self, i: int, j: int,
                 shapes: Sequence[tuple[int, int]]) -> list[Block]:
        """Block j of stage i as each view passes it."""
        place: Any = self.relay_places and self.relay_places[f'{i}_{j}']
        return self._for_views(shapes, partial(
            partial, mix_block, self.layers[i][1][j], place))

    def _init_tokens(self) -> None:
        super()._init_tokens()
        if self.init_cfg is None:  # the host's rule, by type of layer
            MixVisionTransformer.init_weights(self)
            for module in self.modules():
                if isinstance(module, PlaceBias):
                    module.draw()

    def _block_names(self) -> list[str]:
        return [f'layers.{i}.1.{j}.' for i, (_, blocks, _) in enumerate(
            self.layers) for j in range(len(blocks))]

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        frozen = self.layers[:self.frozen_stages + 1]
        return [*self.global_patch_embed, *frozen] if frozen else []
