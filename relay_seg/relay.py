"""How relay tokens pass through a block together with every branch."""
from collections.abc import Callable

import torch
from torch import Tensor

Branches = tuple[Tensor, ...]  # tokens of each view, local first
Block = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Fusion = Callable[[Block, Branches, Tensor], tuple[Branches, Tensor]]


def sequential(block: Block, branches: Branches,
               relay: Tensor) -> tuple[Branches, Tensor]:
    """From the widest view to the local one (Relay Tokens, TMLR 2026)."""
    updated = []
    for x in reversed(branches):
        x, relay = block(x, relay)
        updated.append(x)
    return tuple(reversed(updated)), relay


def mean(block: Block, branches: Branches,
         relay: Tensor) -> tuple[Branches, Tensor]:
    """All views see the same tokens; their updates are averaged.

    As in the authors' released code. One call on the stacked batch.
    """
    n = len(branches)
    x, copies = block(torch.cat(branches), relay.repeat(n, 1, 1))
    x, copies = (t.unflatten(0, (n, -1)) for t in (x, copies))
    return x.unbind(), copies.mean(0)


#: Ways of relay tokens through a block. Experiments may add their own.
FUSIONS: dict[str, Fusion] = {'sequential': sequential, 'mean': mean}


def relay_step(block: Block, branches: Branches, relay: Tensor,
               fusion: str) -> tuple[Branches, Tensor]:
    """One block on all branches, with the relay tokens among them.

    Args:
        block: Maps image tokens (B, N, C) and relay tokens (B, R, C) to
            their updates.
        branches: Image tokens of each view, local first, all (B, N, C).
        relay: Relay tokens, (B, R, C).
        fusion: One of ``FUSIONS``: ``sequential`` passes the relay tokens
            from the widest view to the local one (Relay Tokens, TMLR 2026);
            ``mean`` gives every view the same relay tokens and averages the
            updates (the authors' released code).

    Returns:
        The updated branches and relay tokens.
    """
    return FUSIONS[fusion](block, branches, relay)
