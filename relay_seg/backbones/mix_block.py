"""A block of the Mix Transformer (SegFormer) with relay tokens."""
import torch
from torch import Tensor

from .layers import MixBlock, MixFFN, nchw_to_nlc, nlc_to_nchw
from .place import PlaceBias


def mix_block(layer: MixBlock, place: PlaceBias | None,
              shape: tuple[int, int], x: Tensor, relay: Tensor,
              relay_only: bool = False) -> tuple[Tensor, Tensor]:
    """Update image and relay tokens of one view.

    All tokens are queries. Keys are the image tokens of the reduced map and
    the relay tokens, which are not reduced but pass the same norm, since the
    weights of the keys know normalised tokens only.

    Args:
        layer: The host's block.
        place: Bias between relay and image tokens, or None.
        shape: Height and width of the token map.
        x: Image tokens, (B, h*w, C).
        relay: Relay tokens, (B, R, C); none runs the host's own forward.
        relay_only: Leave image tokens as they are.
    """
    n, attn = x.shape[1], layer.attn
    if min(shape) < attn.sr_ratio:
        raise ValueError(
            f'a token map of {shape[0]} x {shape[1]} cannot be reduced '
            f'{attn.sr_ratio} times; use a larger window or smaller '
            'sr_ratios.')
    if not relay.shape[1]:
        return x if relay_only else layer(x, shape), relay
    tokens = torch.cat((x, relay), dim=1)  # (B, N + R, C)
    query = keys = layer.norm1(tokens)
    if attn.sr_ratio > 1:
        reduced = attn.sr(nlc_to_nchw(query[:, :n], shape))
        keys = attn.norm(torch.cat(
            (nchw_to_nlc(reduced), query[:, n:]), dim=1))
    bias = None
    if place is not None:
        coarse = shape if attn.sr_ratio == 1 else tuple(reduced.shape[2:])
        bias = place.of_maps(shape, coarse)  # (H, N + R, M + R)
        bias = bias[:, n:] if relay_only else bias
        bias = bias.repeat(len(x), 1, 1).to(x.dtype)
    if relay_only:
        tokens, query = relay, query[:, n:]
    query, keys = query.transpose(0, 1), keys.transpose(0, 1)
    attended = attn.attn(query, keys, keys, need_weights=False,
                         attn_mask=bias)[0]
    tokens = tokens + attn.dropout_layer(
        attn.proj_drop(attended.transpose(0, 1)))
    normed = layer.norm2(tokens)
    mixed = (mix_relay(layer.ffn, normed) if relay_only
             else mix(layer.ffn, normed, shape))
    tokens = tokens + layer.ffn.dropout_layer(mixed)
    return (x, tokens) if relay_only else (tokens[:, :n], tokens[:, n:])


def mix(ffn: MixFFN, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """The host's MLP on image tokens, and on relay tokens after them."""
    n = shape[0] * shape[1]
    image = ffn.layers(nlc_to_nchw(tokens[:, :n], shape))
    return torch.cat(
        (nchw_to_nlc(image), mix_relay(ffn, tokens[:, n:])), dim=1)


def mix_relay(ffn: MixFFN, relay: Tensor) -> Tensor:
    """The host's MLP on relay tokens (B, R, C).

    Its depth-wise convolution mixes neighbours. Relay tokens have none: each
    is a map of one pixel, of which the convolution sees the centre, at the
    scale and with the bias that the layers after it expect.
    """
    pixels = ffn.layers(relay.flatten(0, 1)[..., None, None])
    return pixels.flatten(1).unflatten(0, relay.shape[:2])
