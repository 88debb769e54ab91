from collections.abc import Mapping, Sequence
from functools import partial

import torch
from mmengine.model import ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.relay import Block, relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone, find_arch
from .layers import SWINV2_ARCHS, PatchEmbed, build_norm_layer
from .place import check_relay_place
from .swin_block import RELAY_BIASES, RelaySwinBlock, RelaySwinStage, Shape


@MODELS.register_module()
class RelaySwinV2(RelayBackbone):
    """Swin Transformer V2 with relay tokens between the views of a window.

    A copy of the relay tokens joins every attention window; the copies are
    averaged after attention (Relay Tokens, TMLR 2026, arXiv 2601.05927).
    Layers and parameter names are those of ``mmpretrain.SwinTransformerV2``;
    without relay tokens so are the values.

    Args:
        arch: 'tiny', 'small', 'base', 'large' or a dict with embed_dims,
            depths, num_heads, extra_norm_every_n_blocks.
        img_size: Usual window side in pixels; others work.
        patch_size: Side of a patch in pixels.
        in_channels: Bands.
        window_size: Side M of an attention window in tokens, or one for each
            stage.
        drop_rate: Dropout in the stem.
        drop_path_rate: Stochastic depth of the last block; rises from 0.
        out_indices: Stages that give a feature map.
        with_cp: Activation checkpointing: less memory, one more forward.
        frozen_stages: Last stage to freeze, with the stems; -1 for none.
        pad_small_map: Whether attention windows are shifted also on maps no
            larger than one of them. Such maps are padded in any case.
        norm_cfg: Norm layers of the feature maps; None for none.
        stage_cfgs: More arguments of all stages, or one dict for each, with
            the host's keys ``block_cfgs`` and ``downsample_cfg``.
        patch_cfg: More arguments of the patch embedding.
        pretrained_window_sizes: Attention window of the pretrained weights
            at each stage; 0 if it is the same.
        num_views: Views of a window, the local one included.
        num_relay_tokens: R.
        fusion: 'sequential' or 'mean', see
            :func:`relay_seg.relay.relay_step`.
        relay_bias: Position bias of relay tokens: 'learned', or 'zero' as in
            the authors' code, where image tokens hardly attend to them.
        relay_place: 'bias' lets relay tokens listen and be heard by place,
            see :class:`relay_seg.backbones.place.PlaceBias`; 'none' as
            published, where nothing tells one attention window's message
            from another's.
        init_cfg: As in the host.
    """

    def __init__(self,
                 arch: str | Mapping = 'tiny',
                 img_size: int | tuple[int, int] = 256,
                 patch_size: int = 4,
                 in_channels: int = 3,
                 window_size: int | Sequence[int] = 8,
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.1,
                 out_indices: Sequence[int] = (3, ),
                 with_cp: bool = False,
                 frozen_stages: int = -1,
                 pad_small_map: bool = False,
                 norm_cfg: dict | None = dict(type='LN'),
                 stage_cfgs: dict | Sequence[dict] = dict(),
                 patch_cfg: dict = dict(),
                 pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0),
                 num_views: int = 2,
                 num_relay_tokens: int = 4,
                 fusion: str = 'sequential',
                 relay_bias: str = 'learned',
                 relay_place: str = 'none',
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(num_views, num_relay_tokens, fusion, frozen_stages,
                         init_cfg)
        if relay_bias not in RELAY_BIASES:
            raise ValueError(
                f'relay_bias={relay_bias!r}; use one of {RELAY_BIASES}.')
        settings = find_arch(
            arch, SWINV2_ARCHS,
            ('embed_dims', 'depths', 'num_heads', 'extra_norm_every_n_blocks'))
        depths = settings['depths']
        num_stages = len(depths)
        if isinstance(window_size, int):
            window_size = [window_size] * num_stages
        if len(window_size) != num_stages:
            raise ValueError(f'window_size has {len(window_size)} values for '
                             f'{num_stages} stages.')
        if isinstance(stage_cfgs, Mapping):
            stage_cfgs = [stage_cfgs] * num_stages
        for stage_cfg in stage_cfgs:
            unknown = set(stage_cfg) - {'block_cfgs', 'downsample_cfg'}
            if unknown:
                raise ValueError(f'stage_cfgs has {sorted(unknown)}; use '
                                 "'block_cfgs' and 'downsample_cfg'.")
        self.out_indices = tuple(out_indices)
        if not set(self.out_indices) <= set(range(num_stages)):
            raise ValueError(f'out_indices={self.out_indices} names a stage '
                             f'that is not among 0 to {num_stages - 1}.')
        self.patch_size = patch_size
        self.with_cp = with_cp

        widths = [settings['embed_dims'] * 2**i for i in range(num_stages)]
        self.patch_embed = PatchEmbed(
            **dict(
                in_channels=in_channels,
                input_size=img_size,
                embed_dims=widths[0],
                conv_type='Conv2d',
                kernel_size=patch_size,
                stride=patch_size,
                norm_cfg=dict(type='LN')) | patch_cfg)
        self.drop_after_pos = nn.Dropout(drop_rate)

        drop_path = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        every = settings['extra_norm_every_n_blocks']
        self.stages = ModuleList()
        for i, depth in enumerate(depths):
            blocks = [
                RelaySwinBlock(
                    num_relay_tokens=num_relay_tokens,
                    relay_bias=relay_bias,
                    relay_place=check_relay_place(relay_place),
                    **dict(
                        embed_dims=widths[i],
                        num_heads=settings['num_heads'][i],
                        window_size=window_size[i],
                        shift=j % 2 == 1,
                        extra_norm=bool(every) and (j + 1) % every == 0,
                        drop_path=drop_path.pop(0),
                        pad_small_map=pad_small_map,
                        pretrained_window_size=pretrained_window_sizes[i])
                    | stage_cfgs[i].get('block_cfgs', {}))
                for j in range(depth)
            ]
            self.stages.append(
                RelaySwinStage(
                    widths[max(i - 1, 0)], widths[i], blocks, i > 0,
                    stage_cfgs[i].get('downsample_cfg', {}),
                    num_relay_tokens))
        for i in self.out_indices:
            norm = (
                build_norm_layer(norm_cfg, widths[i])
                if norm_cfg else nn.Identity())
            self.add_module(f'norm{i}', norm)

        self._build_relay(widths[0])
        self._register_load_state_dict_pre_hook(self._keep_tables)

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
            One pyramid for each view: for stage i of ``out_indices`` a map
            (B, C * 2**i, H / patch / 2**i, W / patch / 2**i).
        """
        views = self._checked(views, self.patch_size, local_only)
        branches, shapes = self._embed(views)
        relay = self._initial_relay(branches[0])
        pyramids = self._pyramids(views, local_only)
        last = self.stages[-1].blocks[-1]
        for i, stage in enumerate(self.stages):
            branches, relay, shapes = stage.merge(branches, relay, shapes)
            for block in stage.blocks:
                branches, relay = relay_step(
                    self._prepare(block, shapes), branches, relay,
                    self.fusion, local_only and block is last)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                for pyramid, x, shape in zip(pyramids, branches, shapes):
                    x = norm(x).unflatten(1, shape)  # (B, h, w, C)
                    pyramid.append(x.permute(0, 3, 1, 2).contiguous())
        return tuple(map(tuple, pyramids))

    def _embed(self, views: Views) -> tuple[tuple[Tensor, ...], list[Shape]]:
        patch_embeds = self.patch_embed, *self.global_patch_embed
        embedded = [embed(x) for embed, x in zip(patch_embeds, views)]
        return (tuple(self.drop_after_pos(x) for x, _ in embedded),
                [shape for _, shape in embedded])

    def _prepare(self, block: RelaySwinBlock,
                 shapes: Sequence[Shape]) -> list[Block]:
        """The block as each view passes it."""
        return self._for_views(
            shapes, partial(self._step, block, shapes[0]))

    def _step(self, block: RelaySwinBlock, local: Shape,
              shape: Shape) -> Block:
        size = block.window_size(shape, local)
        fits = min(shape) >= block.attn.window_size or block.attn.pad_small_map
        if not self.num_relay_tokens and fits:
            return partial(block.forward_plain, shape)
        # The bias is computed once for all views of a shape.
        # (The block's base, of the host, is not typed.)
        return partial(  # type: ignore[misc]
            block, shape, size, block.attention_bias(shape, size))

    def _block_names(self) -> list[str]:
        return [f'stages.{i}.blocks.{j}.' for i, stage in enumerate(
            self.stages) for j in range(len(stage.blocks))]

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.drop_after_pos,
                 *self.global_patch_embed]
        for stage in self.stages[:self.frozen_stages + 1]:
            parts += [stage.downsample] if stage.downsample else []
            for block in stage.blocks:
                parts += [  # nothing that relay adds
                    child for name, child in block.named_children()
                    if name != 'relay_place']
        parts += [getattr(self, f'norm{i}') for i in self.out_indices
                  if i <= self.frozen_stages]
        return parts

    def _keep_tables(self, state_dict: dict, prefix: str, *args) -> None:
        """Tables follow from the attention window: never load them."""
        for name, table in self.named_buffers(prefix.removesuffix('.')):
            state_dict[name] = table
