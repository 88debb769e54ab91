"""Blocks and stages of SwinV2 with relay tokens in every attention window."""
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from relay_seg.precision import autocast_dtype

from .layers import PatchMerging, ShiftWindowMSA, SwinBlockV2

RELAY_BIASES = ('learned', 'zero')
MAX_LOGIT_SCALE = log(1. / 0.01)  # Swin Transformer V2
EPS = 1e-12  # as in F.normalize

Shape = tuple[int, int]


@lru_cache(maxsize=64)
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
            self.relay_bias: nn.Parameter | None = nn.Parameter(
                torch.zeros(3, heads))
        else:
            self.relay_bias = None
        self._kept_bias: tuple[tuple, Tensor] | None = None

    # Whatever may change weights lets go of the bias.

    def train(self, mode: bool = True) -> 'RelaySwinBlock':
        self._kept_bias = None
        return super().train(mode)

    def init_weights(self) -> None:
        self._kept_bias = None
        super().init_weights()

    def _apply(self, *args, **kwargs) -> 'RelaySwinBlock':
        self._kept_bias = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._kept_bias = None
        super()._load_from_state_dict(*args, **kwargs)

    def shift(self, shape: Shape) -> int:
        """Shift of the attention windows on a map of this shape."""
        attn = self.attn
        if min(shape) > attn.window_size or attn.pad_small_map:
            return attn.shift_size
        return 0

    def attention_bias(self, shape: Shape) -> Tensor:
        """Bias and shift mask of all attention windows, for any view.

        In evaluation it is computed once for each precision, until a weight
        changes; compiled models and CUDA graphs, which nothing would tell,
        compute it each time. Nothing tells of a write through ``.data``: call
        ``eval()`` after it, as a validation does after averaged weights are
        put in.

        Args:
            shape: Height and width of the token map.

        Returns:
            (1, H, M*M + R, M*M + R), or (1, nW*H, ...) if windows are
            shifted.
        """
        if (self.training or torch.is_grad_enabled()
                or torch.compiler.is_compiling()):
            return self._attention_bias(shape)
        weights = [*self.attn.w_msa.cpb_mlp.parameters()]
        if weights[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return self._attention_bias(shape)
        weights += [] if self.relay_bias is None else [self.relay_bias]
        state = (shape, autocast_dtype(weights[0].device.type),
                 [(w.data_ptr(), w._version) for w in weights])
        if self._kept_bias is None or self._kept_bias[0] != state:
            self._kept_bias = state, self._attention_bias(shape)
        return self._kept_bias[1]

    def _attention_bias(self, shape: Shape) -> Tensor:
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
        mask = shift_mask(padded, size, shift, n, bias.device)
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
        if pad_b or pad_r:
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
                       use_post_norm=True) | dict(downsample_cfg))
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
