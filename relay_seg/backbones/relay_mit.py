from collections.abc import Sequence
from functools import partial

import torch.utils.checkpoint as cp
from mmengine.model import ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.relay import relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone
from .layers import MixVisionTransformer
from .mix_block import mix_block


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
        init_cfg: As in the host.
        kwargs: Others of the host: in_channels, embed_dims, num_layers, ...
    """

    stem = {'layers.0.0': 'global_patch_embed'}

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1, with_cp: bool = False,
                 num_views: int = 2, num_relay_tokens: int = 4,
                 fusion: str = 'sequential',
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
        self._build_relay(widths[0])

    def forward(self, views: Views) -> tuple[Pyramid, ...]:
        """Feature maps of every view: one pyramid for each.

        Args:
            views: Views of a batch of windows, local first, all
                (B, in_channels, H, W); H and W are multiples of the stride
                of the stem, 32 pixels or more with the usual reductions.
        """
        self._check_views(views, self.patch_size)
        branches = views
        pyramids: list[list[Tensor]] = [[] for _ in views]
        for i, (embed, blocks, norm) in enumerate(self.layers):
            embeds = (embed, *(self.global_patch_embed if i == 0
                               else [embed] * (len(views) - 1)))
            embedded = [f(x) for f, x in zip(embeds, branches)]
            branches, shape = tuple(x for x, _ in embedded), embedded[0][1]
            if i == 0 or not self.num_relay_tokens:
                relay = self._initial_relay(branches[0])
            else:
                relay = self.relay_merge[i - 1](relay)
            for block in blocks:
                step = partial(mix_block, block, shape)
                if self.with_cp and self.training:
                    step = partial(cp.checkpoint, step, use_reentrant=False)
                branches, relay = relay_step(
                    step, branches, relay, self.fusion)
            relay = norm(relay)
            branches = tuple(norm(x).mT.unflatten(2, shape) for x in branches)
            if i in self.out_indices:
                for pyramid, x in zip(pyramids, branches):
                    pyramid.append(x)  # (B, C, h, w)
        return tuple(map(tuple, pyramids))

    def _init_tokens(self) -> None:
        super()._init_tokens()
        if self.init_cfg is None:  # the host's rule, by type of layer
            MixVisionTransformer.init_weights(self)

    def _block_names(self) -> list[str]:
        return [f'layers.{i}.1.{j}.' for i, (_, blocks, _) in enumerate(
            self.layers) for j in range(len(blocks))]

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        frozen = self.layers[:self.frozen_stages + 1]
        return [*self.global_patch_embed, *frozen] if frozen else []
