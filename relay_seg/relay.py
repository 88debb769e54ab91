"""How relay tokens pass through a block together with every branch."""
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Branches = tuple[Tensor, ...]  # tokens of each view, local first


class Block(Protocol):
    """A block on one branch."""

    def __call__(self, x: Tensor, relay: Tensor,
                 relay_only: bool = False) -> tuple[Tensor, Tensor]:
        """Image tokens (B, N, C) and relay tokens (B, R, C), updated.

        With ``relay_only`` image tokens are looked at and left as they are.
        """


Fusion = Callable[[Sequence[Block], Branches, Tensor, bool],
                  tuple[Branches, Tensor]]


def sequential(blocks: Sequence[Block], branches: Branches, relay: Tensor,
               local_only: bool) -> tuple[Branches, Tensor]:
    """From the widest view to the local one (Relay Tokens, TMLR 2026)."""
    updated = []
    for i in reversed(range(len(branches))):
        x, relay = blocks[i](branches[i], relay, local_only and i > 0)
        updated.append(x)
    return tuple(reversed(updated)), relay


def mean(blocks: Sequence[Block], branches: Branches, relay: Tensor,
         local_only: bool) -> tuple[Branches, Tensor]:
    """All views see the same tokens; their updates are averaged.

    As in the authors' released code. One call on the stacked batch where one
    block serves all views.
    """
    if local_only:  # what others tell now, nobody hears
        x, relay = blocks[0](branches[0], relay)
        return (x, *branches[1:]), relay
    n = len(branches)
    if any(block is not blocks[0] for block in blocks):
        updated = [block(x, relay) for block, x in zip(blocks, branches)]
        return tuple(x for x, _ in updated), torch.stack(
            [copy for _, copy in updated]).mean(0)
    x, copies = blocks[0](torch.cat(branches), relay.repeat(n, 1, 1))
    x, copies = (t.unflatten(0, (n, -1)) for t in (x, copies))
    return x.unbind(), copies.mean(0)


#: Ways of relay tokens through a block. Experiments may add their own.
FUSIONS: dict[str, Fusion] = {'sequential': sequential, 'mean': mean}


def relay_step(blocks: Sequence[Block], branches: Branches, relay: Tensor,
               fusion: str,
               local_only: bool = False) -> tuple[Branches, Tensor]:
    """One block on all branches, with the relay tokens among them.

    Args:
        blocks: The block as each branch passes it, local first: one object
            where shapes are alike.
        branches: Image tokens of each view, local first, (B, N, C).
        relay: Relay tokens, (B, R, C).
        fusion: One of ``FUSIONS``: ``sequential`` passes the relay tokens
            from the widest view to the local one (Relay Tokens, TMLR 2026);
            ``mean`` gives every view the same relay tokens and averages the
            updates (the authors' released code).
        local_only: Nobody asks for other image tokens than the local ones
            any more: those of global branches, and then relay tokens that
            nobody hears, may be left as they are.

    Returns:
        The updated branches and relay tokens.
    """
    return FUSIONS[fusion](blocks, branches, relay, local_only)
