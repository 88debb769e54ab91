"""Blocks and stages of SwinV2 with relay tokens in every attention window."""
from collections.abc import Mapping, Sequence
from math import log

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from .kept_bias import KeptBias, remembered
from .layers import PatchMerging, ShiftWindowMSA, SwinBlockV2
from .place import PlaceBias, places

RELAY_BIASES = ('learned', 'zero')
MAX_LOGIT_SCALE = log(1. / 0.01)  # Swin Transformer V2
EPS = 1e-12  # as in F.normalize

Shape = tuple[int, int]


@remembered
def shift_mask(shape: Shape, size: int, shift: int, num_relay_tokens: int,
               device: torch.device) -> Tensor:
    """What tokens of a shifted attention window may not see, as -100.

    Args:
        shape: Height and width of the padded token map.
        size: M.
        shift: Shift of the attention windows.
        num_relay_tokens: R; relay tokens come last, see all and are seen.
        device: Where the result lies.

    Returns:
        (nW, M*M + R, M*M + R), 0 or -100.
    """
    mask = ShiftWindowMSA.get_attn_mask(
        shape, window_size=size, shift_size=shift, device=device)
    n = num_relay_tokens
    return F.pad(mask.float(), (0, n, 0, n))


def length(x: Tensor) -> Tensor:
    """Norm of vectors, which can be divided by: (..., C) to (..., 1)."""
    # A padded token is 0. In fp16 so is EPS, and 1 / EPS is out of range.
    least = max(EPS, torch.finfo(x.dtype).tiny)
    return x.norm(dim=-1, keepdim=True).clamp(min=least)


class RelaySwinBlock(KeptBias, SwinBlockV2):
    """The host's block, with relay tokens in every attention window.

    Args:
        num_relay_tokens: R; 0 runs the host's own forward.
        relay_bias: Position bias of relay tokens: 'learned' per head, from
            where the bias of image tokens starts, or 'zero' (the authors'
            released code).
        relay_place: 'bias' for a :class:`PlaceBias`, or 'none'.
        kwargs: Those of the host's block.
    """

    def __init__(self, num_relay_tokens: int, relay_bias: str,
                 relay_place: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_relay_tokens = num_relay_tokens
        heads = self.attn.w_msa.num_heads
        self.relay_bias: nn.Parameter | None = None
        self.relay_place: PlaceBias | None = None
        if num_relay_tokens and relay_bias == 'learned':
            # image to relay, relay to image, relay to relay
            self.relay_bias = nn.Parameter(torch.zeros(3, heads))
        if num_relay_tokens and relay_place == 'bias':
            self.relay_place = PlaceBias(heads, num_relay_tokens)

    def window_size(self, shape: Shape, local: Shape) -> int:
        """Side of the attention windows on the map of a view.

        Maps as large as the local one have the host's, and are padded where
        they are smaller than that. Others have no larger one than they are.

        Args:
            shape: Height and width of the map.
            local: Those of the local view's map.
        """
        size = self.attn.window_size
        return size if shape == local else min(size, *shape)

    def shift(self, shape: Shape, size: int) -> int:
        """Shift of attention windows of a size on a map of this shape."""
        attn = self.attn
        if size < attn.window_size:  # the map is no larger
            return 0
        if min(shape) > size or attn.pad_small_map:
            return attn.shift_size
        return 0

    def attention_bias(self, shape: Shape, size: int) -> Tensor:
        """Bias and shift mask of all attention windows, for any view.

        Kept in evaluation, see :class:`KeptBias`.

        Args:
            shape: Height and width of the token map.
            size: M, see :meth:`window_size`.

        Returns:
            (1, H, M*M + R, M*M + R), or (1, nW*H, ...) if windows are
            shifted or differ by place.
        """
        weights = [*self.attn.w_msa.cpb_mlp.parameters()]
        weights += [] if self.relay_bias is None else [self.relay_bias]
        weights += [] if self.relay_place is None else (
            self.relay_place.parameters())
        return self.keep((shape, size), weights,
                         lambda: self._attention_bias(shape, size))

    def _attention_bias(self, shape: Shape, size: int) -> Tensor:
        msa, n = self.attn.w_msa, self.num_relay_tokens
        table = msa.cpb_mlp(msa.relative_coords_table).view(-1, msa.num_heads)
        index = msa.relative_position_index
        if size < self.attn.window_size:  # its upper left corner
            rows = torch.arange(size, device=index.device)
            within = (rows[:, None] * self.attn.window_size + rows).flatten()
            index = index[within][:, within]
        bias = table[index.reshape(-1)]
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
        shift, padded = self.shift(shape, size), padded_shape(shape, size)
        if shift:
            mask = shift_mask(padded, size, shift, n, bias.device)
            bias = mask[:, None] + bias  # (nW, H, MM + R, MM + R)
        if self.relay_place is not None:
            where = places(shape, bias.device, padded)[None]
            where = split_windows(where, padded, size, shift)
            bias = bias + self.relay_place(where, where)
        return bias.reshape(1, -1, *bias.shape[-2:])

    def forward(self, shape: Shape, size: int, bias: Tensor, x: Tensor,
                relay: Tensor, relay_only: bool = False
                ) -> tuple[Tensor, Tensor]:
        """Update image and relay tokens of one view.

        Args:
            shape: Height and width of the token map.
            size: M, see :meth:`window_size`.
            bias: See :meth:`attention_bias`.
            x: Image tokens, (B, h*w, C).
            relay: Relay tokens, (B, R, C).
            relay_only: Leave image tokens as they are.
        """
        if relay_only and not relay.shape[1]:
            return x, relay
        attended, attended_relay = self.attend(
            shape, size, bias, x, relay, relay_only)
        if not relay_only:
            x = self.update(x, attended)
        return x, self.update(relay, attended_relay)

    def forward_plain(self, shape: Shape, x: Tensor, relay: Tensor,
                      relay_only: bool = False) -> tuple[Tensor, Tensor]:
        """The host's own forward, for R = 0."""
        return x if relay_only else super().forward(x, shape), relay

    def update(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention, with post-norm: residual and MLP."""
        x = x + self.norm1(self.attn.drop(attended))
        x = x + self.norm2(self.ffn(x))
        return self.norm3(x) if self.extra_norm else x

    def attend(self, shape: Shape, size: int, bias: Tensor, x: Tensor,
               relay: Tensor, relay_only: bool) -> tuple[Tensor, Tensor]:
        """Cosine attention in windows that all hold the relay tokens.

        Returns:
            Attended image tokens, none with ``relay_only``; and the mean
            over windows of the attended copies of the relay tokens.
        """
        msa, shift = self.attn.w_msa, self.shift(shape, size)
        batch, _, dims = x.shape
        x = split_windows(x, shape, size, shift)  # (B*nW, M*M, C)
        windows = x.shape[0] // batch  # nW
        copies = relay[:, None].expand(-1, windows, -1, -1).flatten(0, 1)
        x = torch.cat((x, copies), dim=1)  # (B*nW, M*M + R, C)

        qkv_bias = None
        if msa.q_bias is not None:
            qkv_bias = torch.cat(
                (msa.q_bias, torch.zeros_like(msa.v_bias), msa.v_bias))
        if relay_only:
            q, kv = _relay_queries(x, copies, msa.qkv.weight, qkv_bias)
            q, kv = (t.unflatten(2, (-1, msa.num_heads, dims // msa.num_heads))
                     .permute(2, 0, 3, 1, 4) for t in (q, kv))
            q, (k, v) = q[0], kv
            bias = bias[:, :, -self.num_relay_tokens:]
        else:
            qkv = F.linear(x, msa.qkv.weight, qkv_bias)
            qkv = qkv.unflatten(2, (3, msa.num_heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B*nW, H, M*M + R, C/H)
        scale = msa.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        # As F.normalize(q) * scale, with one tensor less kept for backward.
        q = q * (scale / length(q))
        k = k / length(k)
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

        n = out.shape[1] - self.num_relay_tokens
        x, copies = out.split((n, self.num_relay_tokens), dim=1)
        relay = copies.unflatten(0, (batch, windows)).mean(1)
        if relay_only:
            return x, relay
        return join_windows(x, shape, size, shift), relay


def _relay_queries(x: Tensor, copies: Tensor, weight: Tensor,
                   bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries of copies, and keys and values of all."""
    dims = x.shape[2]
    of_q, of_kv = (None, None) if bias is None else (bias[:dims], bias[dims:])
    return (F.linear(copies, weight[:dims], of_q),
            F.linear(x, weight[dims:], of_kv))


def padded_shape(shape: Shape, size: int) -> Shape:
    """Height and width of a map of whole attention windows."""
    height, width = (-(-side // size) * size for side in shape)
    return height, width


def split_windows(x: Tensor, shape: Shape, size: int, shift: int) -> Tensor:
    """Tokens by attention window: (B, h*w, C) to (B*nW, M*M, C).

    Args:
        x: Tokens of a map, padded with zeros where windows reach over it.
        shape: Its height and width.
        size: M.
        shift: Shift of the windows.
    """
    height, width = padded_shape(shape, size)
    x = x.unflatten(1, shape)  # (B, h, w, C)
    if (height, width) != tuple(shape):
        x = F.pad(x, (0, 0, 0, width - shape[1], 0, height - shape[0]))
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    return ShiftWindowMSA.window_partition(x, size).flatten(1, 2)


def join_windows(x: Tensor, shape: Shape, size: int, shift: int) -> Tensor:
    """What :func:`split_windows` did, undone."""
    x = ShiftWindowMSA.window_reverse(
        x.reshape(-1, size, size, x.shape[2]), *padded_shape(shape, size),
        size)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x[:, :shape[0], :shape[1]].flatten(1, 2)


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
                       use_post_norm=True) | dict(downsample_cfg))
            if num_relay_tokens:
                self.relay_merge = nn.Linear(in_channels, embed_dims)
        self.blocks = ModuleList(blocks)

    def merge(self, branches: tuple[Tensor, ...], relay: Tensor,
              shapes: Sequence[Shape]
              ) -> tuple[tuple[Tensor, ...], Tensor, Sequence[Shape]]:
        """Halve the token maps of all branches and widen all tokens."""
        if self.downsample is None:
            return branches, relay, shapes
        merged = [self.downsample(x, shape)
                  for x, shape in zip(branches, shapes)]
        if relay.shape[1]:
            relay = self.relay_merge(relay)
        else:
            relay = relay.new_zeros(relay.shape[0], 0, merged[0][0].shape[2])
        branches = tuple(x for x, _ in merged)
        return branches, relay, [shape for _, shape in merged]
