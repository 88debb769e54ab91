from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from mmengine.model import ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.positions import fit_position
from relay_seg.relay import Block, relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone, find_blocks
from .place import PlaceBias, check_relay_place
from .timm_block import (
    add_lora,
    build_plain,
    prefix_bias,
    resized_position,
    rotary,
    scaled_rotary,
    timm_block,
)


@MODELS.register_module()
class RelayTimmViT(RelayBackbone):
    """Any plain ViT of timm with relay tokens between the views of a window.

    DINOv3, DINOv2, DeiT-III, SigLIP and others. Layers and names of weights
    are timm's; without relay tokens so are the values, to the last bit.

    Class and register tokens are shared at the start and belong to a branch
    from the first block on: they sum up what one view shows, as in
    pretraining. Relay tokens alone carry anything to another view.

    Args:
        arch: Name in timm, such as 'vit_small_patch16_dinov3'.
        img_size: Window side or (height, width) in pixels that the position
            embedding is made for; others work, it is resized.
        patch_size: Side of a patch in pixels; by default that of ``arch``.
        in_channels: Bands.
        out_indices: Blocks that give a feature map; negative ones count from
            the last. After the last block follows the final norm.
        drop_path_rate: Stochastic depth of the last block; rises from 0.
        timm_cfg: More arguments of ``timm.create_model``.
        frozen_stages: Blocks to freeze, with the stems; -1 for none.
        frozen: Freeze all weights of timm. Relay tokens, what tells them
            their place, and LoRA learn.
        lora_rank: Rank of what attention learns beside frozen weights
            (LoRA, arXiv 2106.09685); 0 for none.
        rotary_scales: Of each global view, what its rotary coordinates are
            multiplied with: its context factor for those of the local view,
            1 (default) for its own from border to border.
        with_cp: Activation checkpointing: less memory, one more forward.
        num_views: Views of a window, the local one included.
        num_relay_tokens: R.
        fusion: 'sequential' or 'mean', see
            :func:`relay_seg.relay.relay_step`.
        relay_place: As in :class:`relay_seg.backbones.RelayViT`.
        init_cfg: As in the host. Files of timm and the official ones of
            DINOv2 and DINOv3.
    """

    #: Position embeddings are resized as timm does.
    interpolate_mode, antialias = 'bicubic', True

    def __init__(self,
                 arch: str = 'vit_small_patch16_dinov3',
                 img_size: int | tuple[int, int] = 256,
                 patch_size: int | None = None,
                 in_channels: int = 3,
                 out_indices: int | Sequence[int] = -1,
                 drop_path_rate: float = 0.,
                 timm_cfg: Mapping[str, Any] = dict(),
                 frozen_stages: int = -1,
                 frozen: bool = False,
                 lora_rank: int = 0,
                 rotary_scales: Sequence[float] | None = None,
                 with_cp: bool = False,
                 num_views: int = 2,
                 num_relay_tokens: int = 4,
                 fusion: str = 'sequential',
                 relay_place: str = 'none',
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(num_views, num_relay_tokens, fusion, frozen_stages,
                         init_cfg)
        sizes = {} if patch_size is None else dict(patch_size=patch_size)
        plain: Any = build_plain(arch, **dict(
            img_size=img_size, in_chans=in_channels, num_classes=0,
            global_pool='', dynamic_img_size=True,
            drop_path_rate=drop_path_rate) | sizes | dict(timm_cfg))
        self.embed_dims = plain.embed_dim
        self.patch_size = plain.patch_embed.patch_size[0]
        self.patch_resolution = tuple(plain.patch_embed.grid_size)
        self.num_layers = len(plain.blocks)
        self.with_cp = with_cp
        self.out_indices = find_blocks(out_indices, self.num_layers)

        # In timm's order.
        self.cls_token = plain.cls_token  # (1, 1, C) or None
        self.reg_token = plain.reg_token
        self.pos_embed = plain.pos_embed  # (1, rows, C) or None
        self.patch_embed = plain.patch_embed
        self.pos_drop = plain.pos_drop
        self.norm_pre = plain.norm_pre
        self.rope: Any = getattr(plain, 'rope', None)
        self.blocks = plain.blocks
        self.norm = plain.norm
        self.prefix = plain.num_prefix_tokens
        #: Rows of prefix tokens in the position embedding.
        self.prefix_rows = 0 if plain.no_embed_class else self.prefix
        self.stem = {'patch_embed': 'global_patch_embed'}
        if self.pos_embed is not None:
            self.stem['pos_embed'] = 'global_pos_embed'

        scales = tuple(rotary_scales or [1.] * (num_views - 1))
        if len(scales) != num_views - 1:
            raise ValueError(
                f'rotary_scales={list(scales)} for {num_views - 1} global '
                'views; give one number for each.')
        if self.rope is None and set(scales) - {1.}:
            raise ValueError(f'rotary_scales={list(scales)}, but {arch} has '
                             'no rotary positions; leave them out.')
        self.scales = 1., *map(float, scales)
        self.ropes = nn.ModuleDict({
            str(i): scaled_rotary(self.rope, scale)
            for i, scale in enumerate(self.scales) if scale != 1})
        for block in self.blocks:
            if self.rope is not None:  # relay tokens are not turned
                block.attn.num_prefix_tokens += num_relay_tokens
            if lora_rank:
                add_lora(block.attn, lora_rank)
        if lora_rank and not frozen:
            raise ValueError(f'lora_rank={lora_rank} is learned beside '
                             'frozen weights; set frozen=True.')
        if frozen:
            self.frozen_stages = self.num_layers
        if check_relay_place(relay_place) == 'bias' and num_relay_tokens:
            self.relay_places = ModuleList([
                PlaceBias(block.attn.num_heads, num_relay_tokens)
                for block in self.blocks])
        self._build_relay(self.embed_dims)
        self._register_load_state_dict_pre_hook(self._fit_pos_embed)

    def forward(self, views: Views,
                local_only: bool = False) -> tuple[Pyramid, ...]:
        """Feature maps of every view.

        Args:
            views: Views of a batch of windows, local first, each
                (B, in_channels, H, W) of its own size; H and W are multiples
                of the patch.
            local_only: Give the pyramid of the local view alone.

        Returns:
            One pyramid for each view: for each of ``out_indices`` a map
            (B, embed_dims, H / patch, W / patch).
        """
        views = self._checked(views, self.patch_size, local_only)
        branches, shapes = self._embed(views)
        relay = self._initial_relay(branches[0])
        pyramids = self._pyramids(views, local_only)
        ropes = self._rotary(shapes)
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            branches, relay = relay_step(
                self._prepare(i, shapes, ropes), branches, relay,
                self.fusion, local_only and last)
            if last:
                branches = tuple(
                    self.norm(x) for x in branches[:len(pyramids)])
            if i in self.out_indices:
                for pyramid, x, shape in zip(pyramids, branches, shapes):
                    x = x[:, self.prefix:]
                    pyramid.append(x.mT.unflatten(2, shape))  # (B, C, h, w)
        return tuple(map(tuple, pyramids))

    def _embed(self, views: Views) -> tuple[tuple[Tensor, ...], list[tuple]]:
        patch_embeds = self.patch_embed, *self.global_patch_embed
        pos_embeds = [self.pos_embed] * len(views)
        if self.pos_embed is not None:
            pos_embeds[1:] = self.global_pos_embed.parameters()
        first = [token for token in (self.cls_token, self.reg_token)
                 if token is not None]
        branches, shapes = [], []
        for view, patch_embed, pos in zip(views, patch_embeds, pos_embeds):
            x = patch_embed(view)  # (B, h, w, C)
            shape = tuple(x.shape[1:3])
            x = x.flatten(1, 2)
            tokens = first
            if pos is not None:
                pos = resized_position(pos, self.patch_resolution, shape,
                                       self.prefix_rows)
                x = x + pos[:, self.prefix_rows:]
                if self.prefix_rows:
                    tokens = [torch.cat(first, 1) + pos[:, :self.prefix_rows]]
            tokens = [token.expand(x.shape[0], -1, -1) for token in tokens]
            x = torch.cat((*tokens, x), dim=1)  # (B, P + N, C)
            branches.append(self.norm_pre(self.pos_drop(x)))
            shapes.append(shape)
        return tuple(branches), shapes

    def _rotary(self, shapes: Sequence[tuple]) -> list[Tensor | None]:
        """Rotary positions of each view."""
        if self.rope is None:
            return [None] * len(shapes)
        return [rotary(self.rope if scale == 1 else self.ropes[str(i)], shape)
                for i, (scale, shape) in enumerate(zip(self.scales, shapes))]

    def _prepare(self, i: int, shapes: Sequence[tuple],
                 ropes: Sequence[Tensor | None]) -> list[Block]:
        """Block i as each view passes it, one object for views alike."""
        keys = list(zip(self.scales, shapes))
        of_key = dict(zip(keys, ropes))
        return self._for_views(
            keys, lambda key: self._step(i, key[1], of_key[key]))

    def _step(self, i: int, shape: tuple[int, int],
              rope: Tensor | None) -> Block:
        bias = None
        if self.relay_places is not None:
            bias = prefix_bias(
                cast(PlaceBias, self.relay_places[i]).of_maps(shape, shape),
                self.prefix, self.num_relay_tokens)
        if rope is not None and rope.ndim > 3:  # one for each block
            rope = rope[i]
        return partial(timm_block, self.blocks[i], bias, rope)

    def _block_names(self) -> list[str]:
        return [f'blocks.{i}.' for i in range(self.num_layers)]

    def get_layer_depth(self, param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """As in other backbones; prefix tokens are of the stem."""
        name = param_name.removeprefix(prefix)
        depth, depths = super().get_layer_depth(param_name, prefix)
        if name.startswith(('cls_token', 'reg_token', 'norm_pre.')):
            return 0, depths
        return (depths - 1 if '.lora_' in name else depth), depths

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.pos_drop, self.norm_pre,
                 *self.global_patch_embed,
                 *self.blocks[:self.frozen_stages]]
        parts += [x for x in (self.pos_embed, self.cls_token, self.reg_token)
                  if x is not None]
        if self.pos_embed is not None:
            parts += self.global_pos_embed
        if self.frozen_stages == self.num_layers:
            parts.append(self.norm)
        return parts

    def train(self, mode: bool = True) -> 'RelayTimmViT':
        super().train(mode)
        for name, parameter in self.named_parameters():
            if '.lora_' in name:  # within what is frozen
                parameter.requires_grad_(True)
        return self

    def _fit_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Resize loaded position embeddings of square maps to this size."""
        for key in state_dict:
            if key.startswith((f'{prefix}pos_embed',
                               f'{prefix}global_pos_embed')):
                state_dict[key] = fit_position(
                    state_dict[key], self.patch_resolution,
                    self.interpolate_mode, name=key, antialias=True,
                    class_tokens=self.prefix_rows, keep=self.prefix_rows)


@MODELS.register_module()
class TimmViT(RelayTimmViT):
    """A plain ViT of timm: :class:`RelayTimmViT` of one view, no relay.

    Args:
        kwargs: Those of :class:`RelayTimmViT` but of views and relay.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(num_views=1, num_relay_tokens=0, **kwargs)

    def forward(self, x: Tensor) -> Pyramid:  # type: ignore[override]
        """Feature maps of an image, (B, in_channels, H, W)."""
        return super().forward((x, ))[0]
