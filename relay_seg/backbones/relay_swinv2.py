from collections.abc import Mapping, Sequence
from functools import partial
from math import log

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmengine.model import BaseModule, ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.relay import relay_step
from relay_seg.views import Pyramid, Views

from .base import RelayBackbone, find_arch
from .layers import (
    SWINV2_ARCHS,
    PatchEmbed,
    PatchMerging,
    ShiftWindowMSA,
    SwinBlockV2,
    build_norm_layer,
)

RELAY_BIASES = ('learned', 'zero')
MAX_LOGIT_SCALE = log(1. / 0.01)  # Swin Transformer V2

Shape = tuple[int, int]


class RelaySwinBlock(SwinBlockV2):
    """The host's block, with relay tokens in every attention window.

    Args:
        num_relay_tokens: R; 0 runs the host's own forward.
        relay_bias: Position bias of relay tokens: 'learned' per head, from
            where the bias of image tokens starts, or 'zero' (the authors'
            released code).
        kwargs: Those of the host's block.
    """

    def __init__(self, num_relay_tokens: int, relay_bias: str,
                 **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_relay_tokens = num_relay_tokens
        if num_relay_tokens and relay_bias == 'learned':
            # image to relay, relay to image, relay to relay
            heads = self.attn.w_msa.num_heads
            self.relay_bias = nn.Parameter(torch.zeros(3, heads))
        else:
            self.relay_bias = None

    def shift(self, shape: Shape) -> int:
        """Shift of the attention windows on a map of this shape."""
        attn = self.attn
        if min(shape) > attn.window_size or attn.pad_small_map:
            return attn.shift_size
        return 0

    def attention_bias(self, shape: Shape) -> Tensor:
        """Bias and shift mask of all attention windows, for any view.

        Args:
            shape: Height and width of the token map.

        Returns:
            (1, H, M*M + R, M*M + R), or (1, nW*H, ...) if windows are
            shifted.
        """
        msa = self.attn.w_msa
        size, n = self.attn.window_size, self.num_relay_tokens
        table = msa.cpb_mlp(msa.relative_coords_table).view(-1, msa.num_heads)
        bias = table[msa.relative_position_index.view(-1)]
        bias = bias.view(size**2, size**2, -1).permute(2, 0, 1)  # (H, MM, MM)
        bias = 16 * torch.sigmoid(bias)
        if self.relay_bias is not None:
            relay = 16 * torch.sigmoid(self.relay_bias)[..., None, None]
            to_relay = relay[0].expand(-1, size**2, n)
            of_relay = torch.cat((relay[1].expand(-1, n, size**2),
                                  relay[2].expand(-1, n, n)), dim=2)
            bias = torch.cat((torch.cat((bias, to_relay), dim=2), of_relay),
                             dim=1)
        else:
            bias = F.pad(bias, (0, n, 0, n))
        shift = self.shift(shape)
        if not shift:
            return bias[None]
        padded = tuple(-(-side // size) * size for side in shape)
        mask = ShiftWindowMSA.get_attn_mask(
            padded, window_size=size, shift_size=shift, device=bias.device)
        mask = F.pad(mask.to(bias.dtype), (0, n, 0, n))  # (nW, MM+R, MM+R)
        return (mask[:, None] + bias).flatten(0, 1)[None]

    def forward(self, x: Tensor, relay: Tensor, shape: Shape,
                bias: Tensor) -> tuple[Tensor, Tensor]:
        """Update image and relay tokens of one view.

        Args:
            x: Image tokens, (B, h*w, C).
            relay: Relay tokens, (B, R, C).
            shape: Height and width of the token map.
            bias: See :meth:`attention_bias`.
        """
        attended, attended_relay = self.attend(x, relay, shape, bias)
        return self.update(x, attended), self.update(relay, attended_relay)

    def forward_plain(self, x: Tensor, relay: Tensor,
                     shape: Shape) -> tuple[Tensor, Tensor]:
        """The host's own forward, for R = 0."""
        return super().forward(x, shape), relay

    def update(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention, with post-norm: residual and MLP."""
        x = x + self.norm1(self.attn.drop(attended))
        x = x + self.norm2(self.ffn(x))
        return self.norm3(x) if self.extra_norm else x

    def attend(self, x: Tensor, relay: Tensor, shape: Shape,
               bias: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine attention in windows that all hold the relay tokens.

        Returns:
            Attended image tokens, and the mean over windows of the attended
            copies of the relay tokens.
        """
        msa, size = self.attn.w_msa, self.attn.window_size
        shift = self.shift(shape)
        batch, _, dims = x.shape
        pad_b, pad_r = (-shape[0]) % size, (-shape[1]) % size

        x = x.unflatten(1, shape)  # (B, h, w, C)
        x = F.pad(x, (0, 0, 0, pad_r, 0, pad_b))
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        padded = x.shape[1:3]
        x = ShiftWindowMSA.window_partition(x, size).flatten(1, 2)
        windows = x.shape[0] // batch  # nW
        copies = relay[:, None].expand(-1, windows, -1, -1).flatten(0, 1)
        x = torch.cat((x, copies), dim=1)  # (B*nW, M*M + R, C)

        qkv_bias = None
        if msa.q_bias is not None:
            qkv_bias = torch.cat(
                (msa.q_bias, torch.zeros_like(msa.v_bias), msa.v_bias))
        qkv = F.linear(x, msa.qkv.weight, qkv_bias)
        qkv = qkv.unflatten(2, (3, msa.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B*nW, H, M*M + R, C/H)
        scale = msa.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
        # Masks differ between windows: these join the heads, so that one
        # bias serves the batch.
        q, k, v = (t.reshape(-1, bias.shape[1], *t.shape[2:])
                   for t in (q, k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.to(q.dtype), scale=1.,
            dropout_p=msa.attn_drop.p if msa.training else 0.)
        out = out.reshape(-1, msa.num_heads, *out.shape[2:])
        out = out.transpose(1, 2).flatten(2)  # (B*nW, M*M + R, C)
        out = msa.proj_drop(msa.proj(out))

        x, copies = out.split((size**2, self.num_relay_tokens), dim=1)
        relay = copies.unflatten(0, (batch, windows)).mean(1)
        x = ShiftWindowMSA.window_reverse(
            x.reshape(-1, size, size, dims), *padded, size)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        x = x[:, :shape[0], :shape[1]]
        return x.flatten(1, 2), relay


class RelaySwinStage(BaseModule):
    """Patch merging, with a linear layer for relay tokens, and the blocks.

    Args:
        in_channels: Width of the stage before.
        embed_dims: Width of this stage.
        blocks: Blocks of this stage.
        downsample: Whether patches are merged before the blocks.
        downsample_cfg: More arguments of the host's patch merging.
        num_relay_tokens: R.
    """

    def __init__(self, in_channels: int, embed_dims: int,
                 blocks: Sequence[RelaySwinBlock], downsample: bool,
                 downsample_cfg: Mapping, num_relay_tokens: int) -> None:
        super().__init__()
        self.downsample = None
        if downsample:
            self.downsample = PatchMerging(
                **dict(in_channels=in_channels, out_channels=embed_dims,
                       use_post_norm=True) | downsample_cfg)
            if num_relay_tokens:
                self.relay_merge = nn.Linear(in_channels, embed_dims)
        self.blocks = ModuleList(blocks)

    def merge(self, branches: tuple[Tensor, ...], relay: Tensor,
              shape: Shape) -> tuple[tuple[Tensor, ...], Tensor, Shape]:
        """Halve the token maps of all branches and widen all tokens."""
        if self.downsample is None:
            return branches, relay, shape
        merged = [self.downsample(x, shape) for x in branches]
        if relay.shape[1]:
            relay = self.relay_merge(relay)
        else:
            relay = relay.new_zeros(relay.shape[0], 0, merged[0][0].shape[2])
        return tuple(x for x, _ in merged), relay, merged[0][1]


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

    def forward(self, views: Views) -> tuple[Pyramid, ...]:
        """Feature maps of every view.

        Args:
            views: Views of a batch of windows, local first, all
                (B, in_channels, H, W); H and W are multiples of the patch.

        Returns:
            One pyramid for each view: for stage i of ``out_indices`` a map
            (B, C * 2**i, H / patch / 2**i, W / patch / 2**i).
        """
        self._check_views(views, self.patch_size)
        branches, shape = self._embed(views)
        relay = self._initial_relay(branches[0])
        pyramids = [[] for _ in views]
        for i, stage in enumerate(self.stages):
            branches, relay, shape = stage.merge(branches, relay, shape)
            for block in stage.blocks:
                branches, relay = relay_step(
                    self._prepare(block, shape), branches, relay, self.fusion)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                for pyramid, x in zip(pyramids, branches):
                    x = norm(x).unflatten(1, shape)  # (B, h, w, C)
                    pyramid.append(x.permute(0, 3, 1, 2).contiguous())
        return tuple(map(tuple, pyramids))

    def _embed(self, views: Views) -> tuple[tuple[Tensor, ...], Shape]:
        patch_embeds = self.patch_embed, *self.global_patch_embed
        embedded = [embed(x) for embed, x in zip(patch_embeds, views)]
        shape = embedded[0][1]
        return tuple(self.drop_after_pos(x) for x, _ in embedded), shape

    def _prepare(self, block: RelaySwinBlock, shape: Shape):
        """The block as a function of image and relay tokens."""
        fits = min(shape) >= block.attn.window_size or block.attn.pad_small_map
        if not self.num_relay_tokens and fits:
            step = partial(block.forward_plain, shape=shape)
        else:
            # The bias is the same for all views: computed once.
            step = partial(
                block, shape=shape, bias=block.attention_bias(shape))
        if self.with_cp and self.training:
            step = partial(cp.checkpoint, step, use_reentrant=False)
        return step

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.drop_after_pos,
                 *self.global_patch_embed]
        for stage in self.stages[:self.frozen_stages + 1]:
            parts += [stage.downsample] if stage.downsample else []
            for block in stage.blocks:
                parts += block.children()  # all but relay_bias
        parts += [getattr(self, f'norm{i}') for i in self.out_indices
                  if i <= self.frozen_stages]
        return parts

    def _keep_tables(self, state_dict: dict, prefix: str, *args) -> None:
        """Tables follow from the attention window: never load them."""
        for name, table in self.named_buffers(prefix.removesuffix('.')):
            state_dict[name] = table
