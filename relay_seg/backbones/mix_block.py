"""A block of the Mix Transformer (SegFormer) with relay tokens."""
import torch
from torch import Tensor

from .layers import MixBlock, MixFFN, nchw_to_nlc, nlc_to_nchw


def mix_block(layer: MixBlock, shape: tuple[int, int], x: Tensor,
              relay: Tensor) -> tuple[Tensor, Tensor]:
    """Update image and relay tokens of one view.

    All tokens are queries. Keys are the image tokens of the reduced map and
    the relay tokens, which are not reduced but pass the same norm, since the
    weights of the keys know normalised tokens only.

    Args:
        layer: The host's block.
        shape: Height and width of the token map.
        x: Image tokens, (B, h*w, C).
        relay: Relay tokens, (B, R, C); none runs the host's own forward.
    """
    n, attn = x.shape[1], layer.attn
    if min(shape) < attn.sr_ratio:
        raise ValueError(
            f'a token map of {shape[0]} x {shape[1]} cannot be reduced '
            f'{attn.sr_ratio} times; use a larger window or smaller '
            'sr_ratios.')
    if not relay.shape[1]:
        return layer(x, shape), relay
    tokens = torch.cat((x, relay), dim=1)  # (B, N + R, C)
    query = keys = layer.norm1(tokens)
    if attn.sr_ratio > 1:
        reduced = nchw_to_nlc(attn.sr(nlc_to_nchw(query[:, :n], shape)))
        keys = attn.norm(torch.cat((reduced, query[:, n:]), dim=1))
    query, keys = query.transpose(0, 1), keys.transpose(0, 1)
    attended = attn.attn(query, keys, keys, need_weights=False)[0]
    tokens = tokens + attn.dropout_layer(
        attn.proj_drop(attended.transpose(0, 1)))
    mixed = mix(layer.ffn, layer.norm2(tokens), shape)
    tokens = tokens + layer.ffn.dropout_layer(mixed)
    return tokens[:, :n], tokens[:, n:]


def mix(ffn: MixFFN, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """The host's MLP on image tokens, and on relay tokens after them.

    Its depth-wise convolution mixes neighbours. Relay tokens have none: each
    is a map of one pixel, of which the convolution sees the centre, at the
    scale and with the bias that the layers after it expect.
    """
    n, r = shape[0] * shape[1], tokens.shape[1] - shape[0] * shape[1]
    image = ffn.layers(nlc_to_nchw(tokens[:, :n], shape))
    pixels = ffn.layers(tokens[:, n:].flatten(0, 1)[..., None, None])
    relay = pixels.flatten(1).unflatten(0, (-1, r))  # (B, R, C)
    return torch.cat((nchw_to_nlc(image), relay), dim=1)
