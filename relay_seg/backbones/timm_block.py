"""What is needed of timm, and a block of its ViTs with relay tokens."""
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relay_seg.precision import autocast_dtype

from .kept_bias import remembered

#: Blocks of timm whose MLP need not run on tokens that stay.
PRE_NORM = 'Block', 'EvaBlock'
PLAIN = (
    "Use a plain ViT such as 'vit_small_patch16_dinov3', "
    "'vit_small_patch14_reg4_dinov2' or 'deit3_small_patch16_224', and in "
    'timm_cfg what it takes.')


def build_plain(arch: str, **options: Any) -> nn.Module:
    """A plain ViT of timm, at random.

    Args:
        arch: Its name in timm.
        options: Arguments of ``timm.create_model``.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm does not know the name, or it is no plain ViT.
    """
    try:
        import timm
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError(
            f'arch={arch!r} is a model of timm, which is not installed or '
            "too old; run pip install 'relay-seg[timm]'.") from error
    if not timm.is_model(arch):
        near = get_close_matches(arch, timm.list_models('*vit*'), 5, 0.)
        raise ValueError(f'arch={arch!r} is unknown to timm '
                         f'{timm.__version__}; use one like {near}.')
    try:
        plain = timm.create_model(arch, pretrained=False, **options)
    except (TypeError, AssertionError) as error:  # it is of another kind
        raise ValueError(f'arch={arch!r}: {error}. {PLAIN}') from error
    if type(plain) not in (VisionTransformer, Eva):
        raise ValueError(f'arch={arch!r} is a {type(plain).__name__} of '
                         f'timm. {PLAIN}')
    return plain


def resized_position(pos: Tensor, old: tuple[int, int],
                     new: tuple[int, int], first: int) -> Tensor:
    """A position embedding for a map of another size, as timm has it.

    Args:
        pos: (1, first + old height * width, C).
        old: Height and width that it is for.
        new: Those that are wanted.
        first: Rows of prefix tokens, which stay.
    """
    from timm.layers import resample_abs_pos_embed
    return resample_abs_pos_embed(
        pos, new_size=list(new), old_size=list(old), num_prefix_tokens=first)


def scaled_rotary(rope: Any, scale: float) -> nn.Module:
    """Rotary positions of a view that is ``scale`` times as wide.

    Its coordinates are those of the local view, and go on beyond its borders.

    Args:
        rope: Of DINOv3, whose coordinates go from -1 to 1.
        scale: Extent of the view over that of the local one.
    """
    if scale == 1:
        return rope
    wide, base = deepcopy(rope), getattr(rope, 'temperature', None)
    if not base or not hasattr(rope, 'max_period'):
        raise ValueError(f'rotary_scales={scale} is for rotary positions of '
                         f'DINOv3, not for a {type(rope).__name__}; use 1.')
    n = len(rope.periods)
    # Coordinates times k are periods over k: base ** (i / n) / k.
    wide.min_period, wide.max_period = 1 / scale, base**(1 - 1 / n) / scale
    wide.periods.div_(scale)
    return wide


def rotary(rope: Any, shape: tuple[int, int]) -> Tensor:
    """Sines and cosines for a map of tokens, (h*w, 2 * dims of a head).

    For each block another one, (depth, heads, h*w, ...), where timm has
    learned frequencies.
    """
    drawn = rope.training and getattr(rope, 'aug_active', False)
    if drawn or list(rope.parameters()):
        return rope.get_embed(shape=list(shape))
    device = next(rope.buffers()).device
    return _fixed_rotary(rope, shape, device)


@remembered
def _fixed_rotary(rope: Any, shape: tuple[int, int],
                  device: torch.device) -> Tensor:
    """Kept, since timm makes coordinates on the CPU."""
    return rope.get_embed(shape=list(shape))


def timm_block(block: Any, bias: Tensor | None, rope: Tensor | None,
               x: Tensor, relay: Tensor, relay_only: bool = False
               ) -> tuple[Tensor, Tensor]:
    """Update the tokens of one view and the relay tokens.

    Args:
        block: timm's; attention with rotary positions turns all but the
            first R + P tokens.
        bias: Attention logits added, (H, R + P + N, R + P + N), or None.
        rope: Of the view's map, or None.
        x: P prefix tokens and N image tokens of a view, (B, P + N, C).
        relay: Relay tokens, (B, R, C).
        relay_only: Leave the tokens of the view as they are.
    """
    r = relay.shape[1]
    tokens = torch.cat((relay, x), dim=1)  # (B, R + P + N, C)
    options: dict = {} if rope is None else dict(rope=rope)
    if bias is not None:
        dtype = autocast_dtype(tokens.device.type) or tokens.dtype
        options['attn_mask'] = bias.to(dtype)
    if relay_only and type(block).__name__ in PRE_NORM:
        heard = block.attn(block.norm1(tokens), **options)[:, :r]
        relay = relay + block.drop_path1(_scaled(block, 1, heard))
        told = block.mlp(block.norm2(relay))
        return x, relay + block.drop_path2(_scaled(block, 2, told))
    tokens = block(tokens, **options)
    return (x if relay_only else tokens[:, r:]), tokens[:, :r]


def _scaled(block: nn.Module, half: int, x: Tensor) -> Tensor:
    """LayerScale of one half of a block, as either class has it."""
    if hasattr(block, f'ls{half}'):
        return getattr(block, f'ls{half}')(x)
    gamma = getattr(block, f'gamma_{half}')
    return x if gamma is None else gamma * x


class LoRALinear(nn.Linear):
    """A linear layer that learns in a few directions (arXiv 2106.09685).

    Names of the layer's own weights stay as they are, so that its checkpoints
    load.

    Args:
        plain: Layer that it takes the place of, and the weights.
        rank: Directions that it learns.
    """

    def __init__(self, plain: nn.Linear, rank: int) -> None:
        super().__init__(plain.in_features, plain.out_features, device='meta')
        self.weight, self.bias = plain.weight, plain.bias
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.lora_a)  # (..., rank)
        return super().forward(x) + F.linear(low, self.lora_b)


def add_lora(attn: nn.Module, rank: int) -> None:
    """Let all linear layers of an attention learn in a few directions."""
    if getattr(attn, 'q_bias', None) is not None:
        raise ValueError(
            f'lora_rank={rank}, but this arch uses the weights of its '
            'queries, keys and values past their layer (q_bias); use one '
            'without, such as vit_small_patch16_dinov3 for its _qkvb.')
    for name, layer in list(attn.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(attn, name, LoRALinear(layer, rank))


def prefix_bias(bias: Tensor, prefix: int, relay: int) -> Tensor:
    """A bias for image and then relay tokens, in the order of the block.

    Args:
        bias: (H, N + R, N + R).
        prefix: P; these tokens get 0.
        relay: R.

    Returns:
        (H, R + P + N, R + P + N).
    """
    return F.pad(bias, (prefix, 0, prefix, 0)).roll((relay, relay), (1, 2))
