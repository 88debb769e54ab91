from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.positions import fit_position
from relay_seg.relay import Block, relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone, find_arch, find_blocks
from .layers import (
    VIT_ARCHS,
    PatchEmbed,
    TransformerEncoderLayer,
    build_norm_layer,
    resize_pos_embed,
)
from .place import PlaceBias, check_relay_place
from .vit_block import vit_block


@MODELS.register_module()
class RelayViT(RelayBackbone):
    """Vision Transformer with relay tokens between the views of a window.

    Relay tokens stand before the image tokens and take part in full
    self-attention (Relay Tokens, TMLR 2026, arXiv 2601.05927). Layers and
    parameter names are those of ``mmpretrain.VisionTransformer`` without
    class token; without relay tokens so are the values.

    Args:
        arch: Name ('deit-tiny', 'deit-small', 'deit-base', ...) or a dict
            with embed_dims, num_layers, num_heads, feedforward_channels.
        img_size: Window side or (height, width) in pixels that the position
            embedding is made for; others work, it is resized.
        patch_size: Side of a patch in pixels.
        in_channels: Bands.
        out_indices: Layers that give a feature map; negative ones count from
            the last.
        drop_rate: Dropout in the stem, the projections and the MLPs.
        drop_path_rate: Stochastic depth of the last layer; rises from 0.
        qkv_bias: Bias of queries, keys and values.
        norm_cfg: Norm layers.
        final_norm: Whether a norm follows the last layer, for all views.
        frozen_stages: Layers to freeze, with the stems; -1 for none.
        interpolate_mode: How position embeddings are resized.
        layer_scale_init_value: LayerScale if above 0 (DeiT-III).
        patch_cfg: More arguments of the patch embedding.
        layer_cfgs: More arguments of all layers, or one dict for each.
        with_cp: Activation checkpointing: less memory, one more forward.
        num_views: Views of a window, the local one included.
        num_relay_tokens: R.
        fusion: 'sequential' or 'mean', see
            :func:`relay_seg.relay.relay_step`.
        relay_place: 'bias' lets relay tokens listen and be heard by place,
            see :class:`relay_seg.backbones.place.PlaceBias`; 'none' as
            published, where position embeddings alone say where.
        init_cfg: As in the host.
    """

    stem = {'patch_embed': 'global_patch_embed',
            'pos_embed': 'global_pos_embed'}

    def __init__(self,
                 arch: str | Mapping = 'deit-small',
                 img_size: int | tuple[int, int] = 224,
                 patch_size: int = 16,
                 in_channels: int = 3,
                 out_indices: int | Sequence[int] = -1,
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 qkv_bias: bool = True,
                 norm_cfg: dict = dict(type='LN', eps=1e-6),
                 final_norm: bool = True,
                 frozen_stages: int = -1,
                 interpolate_mode: str = 'bicubic',
                 layer_scale_init_value: float = 0.,
                 patch_cfg: dict = dict(),
                 layer_cfgs: dict | Sequence[dict] = dict(),
                 with_cp: bool = False,
                 num_views: int = 2,
                 num_relay_tokens: int = 4,
                 fusion: str = 'sequential',
                 relay_place: str = 'none',
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(num_views, num_relay_tokens, fusion, frozen_stages,
                         init_cfg)
        settings = find_arch(
            arch, VIT_ARCHS,
            ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'))
        self.embed_dims = settings['embed_dims']
        self.num_layers = settings['num_layers']
        self.patch_size = patch_size
        self.interpolate_mode = interpolate_mode
        self.final_norm = final_norm
        self.with_cp = with_cp

        self.out_indices = find_blocks(out_indices, self.num_layers)

        self.patch_embed = PatchEmbed(
            **dict(
                in_channels=in_channels,
                input_size=img_size,
                embed_dims=self.embed_dims,
                conv_type='Conv2d',
                kernel_size=patch_size,
                stride=patch_size) | patch_cfg)
        self.patch_resolution = self.patch_embed.init_out_size
        self.pos_embed = nn.Parameter(
            torch.zeros(1, int(np.prod(self.patch_resolution)),
                        self.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        if isinstance(layer_cfgs, Mapping):
            layer_cfgs = [layer_cfgs] * self.num_layers
        drop_path = np.linspace(0, drop_path_rate, self.num_layers).tolist()
        self.layers = ModuleList([
            TransformerEncoderLayer(
                **dict(
                    embed_dims=self.embed_dims,
                    num_heads=settings['num_heads'],
                    feedforward_channels=settings['feedforward_channels'],
                    layer_scale_init_value=layer_scale_init_value,
                    drop_rate=drop_rate,
                    drop_path_rate=drop_path[i],
                    qkv_bias=qkv_bias,
                    norm_cfg=norm_cfg) | layer_cfgs[i])
            for i in range(self.num_layers)
        ])
        if final_norm:
            self.ln1 = build_norm_layer(norm_cfg, self.embed_dims)
        if check_relay_place(relay_place) == 'bias' and num_relay_tokens:
            self.relay_places = ModuleList([
                PlaceBias(layer.attn.num_heads, num_relay_tokens)
                for layer in self.layers])

        self._build_relay(self.embed_dims)
        self._register_load_state_dict_pre_hook(self._fit_pos_embed)

    def forward(self, views: Views,
                local_only: bool = False) -> tuple[Pyramid, ...]:
        """Feature maps of every view.

        Args:
            views: Views of a batch of windows, local first, each
                (B, in_channels, H, W) of its own size; H and W are multiples
                of the patch.
            local_only: Give the pyramid of the local view alone, and leave
                out what only others need.

        Returns:
            One pyramid for each view: for each of ``out_indices`` a map
            (B, embed_dims, H / patch, W / patch).
        """
        views = self._checked(views, self.patch_size, local_only)
        branches, shapes = self._embed(views)
        relay = self._initial_relay(branches[0])
        pyramids = self._pyramids(views, local_only)
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            branches, relay = relay_step(
                self._prepare(i, shapes), branches, relay, self.fusion,
                local_only and last)
            if last and self.final_norm:
                branches = tuple(
                    self.ln1(x) for x in branches[:len(pyramids)])
            if i in self.out_indices:
                for pyramid, x, shape in zip(pyramids, branches, shapes):
                    pyramid.append(x.mT.unflatten(2, shape))  # (B, C, h, w)
        return tuple(map(tuple, pyramids))

    def _embed(self, views: Views) -> tuple[tuple[Tensor, ...], list[tuple]]:
        patch_embeds = self.patch_embed, *self.global_patch_embed
        pos_embeds = self.pos_embed, *self.global_pos_embed.parameters()
        branches, shapes = [], []
        for view, patch_embed, pos in zip(views, patch_embeds, pos_embeds):
            x, shape = patch_embed(view)  # (B, h*w, C)
            x = x + resize_pos_embed(pos, self.patch_resolution, shape,
                                     self.interpolate_mode, 0)
            branches.append(self.drop_after_pos(x))
            shapes.append(tuple(shape))
        return tuple(branches), shapes

    def _prepare(self, i: int, shapes: Sequence[tuple]) -> list[Block]:
        """Layer i as each view passes it."""
        return self._for_views(shapes, partial(self._step, i))

    def _step(self, i: int, shape: tuple[int, int]) -> Block:
        bias = None
        if self.relay_places is not None:  # here relay tokens come first
            r = self.num_relay_tokens
            bias = cast(PlaceBias, self.relay_places[i]).of_maps(
                shape, shape).roll((r, r), (1, 2))
        return partial(vit_block, self.layers[i], bias)

    def _init_tokens(self) -> None:
        super()._init_tokens()
        trunc_normal_(self.pos_embed, std=0.02)

    def _block_names(self) -> list[str]:
        return [f'layers.{i}.' for i in range(self.num_layers)]

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.pos_embed, self.drop_after_pos,
                 *self.global_patch_embed, *self.global_pos_embed]
        parts += self.layers[:self.frozen_stages]
        if self.frozen_stages == self.num_layers and self.final_norm:
            parts.append(self.ln1)
        return parts

    def _fit_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Resize loaded position embeddings of square maps to this size."""
        for key in state_dict:
            if key.startswith((f'{prefix}pos_embed',
                               f'{prefix}global_pos_embed')):
                state_dict[key] = fit_position(
                    state_dict[key], self.patch_resolution,
                    self.interpolate_mode, name=key,
                    class_tokens=int(f'{prefix}cls_token' in state_dict))
