"""What relay tokens attend to, and who attends to them."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relay_seg.backbones import RelayViT
from relay_seg.views import Views

HIDDEN = -50  # position bias below is SwinV2's shift mask, -100


class Recorder(TorchFunctionMode):
    """Keeps the weights of every attention that is computed within.

    Beside them the weights if a token gave the same to all that it may see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = args[:2]
            scale = kwargs.get('scale') or query.shape[-1]**-0.5
            logits = scale * query @ key.mT
            seen = torch.ones_like(logits)
            bias = kwargs.get('attn_mask')
            if bias is not None:
                logits = logits + bias
                seen = seen * (bias > HIDDEN)
            self.found.append((logits.softmax(-1),
                               seen / seen.sum(-1, keepdim=True)))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Attention:
    """One view in one block.

    Args:
        view: 0 is the local one.
        to_relay: Share of image tokens' attention that relay tokens get.
        equal: Their share if all tokens that are seen got alike.
        of_relay: Where relay tokens look: shares of the image tokens, (h, w),
            1 in sum.
    """

    view: int
    to_relay: float
    equal: float
    of_relay: Tensor


def attention(backbone: nn.Module, views: Views) -> list[Attention]:
    """All blocks of a ``RelayViT`` or ``RelaySwinV2``, in their order.

    Args:
        backbone: With ``fusion='sequential'``: global view first.
        views: Of one window, each (1, C, H, W).
    """
    relays = backbone.num_relay_tokens
    height, width = views[0].shape[-2:]
    if backbone.fusion != 'sequential' or not relays:
        raise ValueError('the order of calls tells the views apart only with '
                         "fusion='sequential' and relay tokens.")
    if len(views[0]) != 1 or height != width:
        raise ValueError(f'views have the shape {tuple(views[0].shape)}; use '
                         'one square window.')
    with torch.no_grad(), Recorder() as recorder:
        backbone.eval()(views)
    if isinstance(backbone, RelayViT):
        side = views[0].shape[-1] // backbone.patch_size
        blocks = [(side, side, 0)] * len(backbone.layers)
    else:
        blocks = []
        for i, stage in enumerate(backbone.stages):
            side = views[0].shape[-1] // backbone.patch_size // 2**i
            size = stage.blocks[0].attn.window_size
            blocks += [(side, size, b.shift((side, side), size))
                       for b in stage.blocks]
    found = []
    for i, pair in enumerate(recorder.found):
        side, size, shift = blocks[i // len(views)]
        view = len(views) - 1 - i % len(views)
        if isinstance(backbone, RelayViT):  # relay tokens come first
            pair = (x.roll((-relays, -relays), (-2, -1)) for x in pair)
        found.append(_attention(*pair, view, relays, side, size, shift))
    return found


def _attention(weights: Tensor, uniform: Tensor, view: int, relays: int,
               side: int, size: int, shift: int) -> Attention:
    """From weights (1, nW*H, M*M + R, M*M + R), relay tokens last."""
    count, tokens = -(-side // size), size**2

    def to_relay(x: Tensor) -> float:
        return float(x[..., :tokens, tokens:].sum(-1).mean())

    looks = weights.reshape(count**2, -1, *weights.shape[-2:]).mean(1)
    looks = looks[:, tokens:, :tokens].mean(1)  # (nW, M*M)
    looks = looks.view(count, count, size, size).transpose(1, 2)
    looks = looks.reshape(count * size, count * size)
    looks = looks.roll((shift, shift), (0, 1))[:side, :side]
    return Attention(view, to_relay(weights), to_relay(uniform),
                     looks / looks.sum())
