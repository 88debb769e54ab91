"""A block of ViT with relay tokens before the image tokens."""
import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import MultiheadAttention, TransformerEncoderLayer


def vit_block(layer: TransformerEncoderLayer, bias: Tensor | None, x: Tensor,
              relay: Tensor, relay_only: bool = False
              ) -> tuple[Tensor, Tensor]:
    """Update image and relay tokens of one view.

    Args:
        layer: The host's layer.
        bias: Attention logits between relay and image tokens,
            (H, R + N, R + N), or None.
        x: Image tokens, (B, N, C).
        relay: Relay tokens, (B, R, C).
        relay_only: Leave image tokens as they are.
    """
    r = relay.shape[1]
    tokens = torch.cat((relay, x), dim=1)  # (B, R + N, C)
    if bias is None and not relay_only:
        tokens = layer(tokens)  # the host's own
        return tokens[:, r:], tokens[:, :r]
    updated = relay if relay_only else tokens
    if updated.shape[1]:
        keys = layer.ln1(tokens)
        n = updated.shape[1]
        updated = updated + attend(layer.attn, keys[:, :n], keys, bias)
        updated = layer.ffn(layer.ln2(updated), identity=updated)
    if relay_only:
        return x, updated
    return updated[:, r:], updated[:, :r]


def attend(attn: MultiheadAttention, queries: Tensor, keys: Tensor,
           bias: Tensor | None) -> Tensor:
    """The host's attention of the first tokens to all of them.

    Args:
        attn: The host's attention.
        queries: The first n of the keys, (B, n, C).
        keys: (B, N, C).
        bias: Logits added, (H, N, N) or None; of queries the first n.
    """
    dims, (weight, shift) = attn.embed_dims, (attn.qkv.weight, attn.qkv.bias)
    q = F.linear(queries, weight[:dims],
                 None if shift is None else shift[:dims])
    kv = F.linear(keys, weight[dims:],
                  None if shift is None else shift[dims:])
    q = q.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
    k, v = kv.unflatten(2, (2, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mask = None if bias is None else bias[:, :q.shape[2]].to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask,
        dropout_p=attn.attn_drop if attn.training else 0.)
    out = attn.proj(out.transpose(1, 2).flatten(2))
    return attn.out_drop(attn.gamma1(attn.proj_drop(out)))
