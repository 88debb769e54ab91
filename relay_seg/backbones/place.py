"""A bias of attention between relay and image tokens, by place."""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .kept_bias import KeptBias, remembered

#: What relay tokens know of where an image token lies in its view.
RELAY_PLACES = ('bias', 'none')

Shape = tuple[int, int]


def check_relay_place(relay_place: str) -> str:
    """One of ``RELAY_PLACES``."""
    if relay_place not in RELAY_PLACES:
        raise ValueError(
            f'relay_place={relay_place!r}; use one of {RELAY_PLACES}.')
    return relay_place


@remembered
def places(shape: Shape, device: torch.device,
           padded: Shape | None = None) -> Tensor:
    """Where the tokens of a map lie in its view: y and x, (h*w, 2).

    From -1 to 1 between the borders, whatever the size of the map.

    Args:
        shape: Height and width of the map.
        device: Where the result lies.
        padded: Height and width with tokens that were added below and to
            the right, which lie outside.
    """
    y, x = ((torch.arange(count, device=device) + 0.5) * 2 / side - 1
            for side, count in zip(shape, padded or shape))
    return torch.cartesian_prod(y, x)


class PlaceBias(KeptBias, BaseModule):
    """Where in a view each relay token listens, and where it is heard.

    A small network takes the place of an image token to one attention logit
    for each head and relay token, in both directions: the idea of SwinV2's
    continuous position bias, with places instead of distances. It routes
    what relay tokens carry, and is no part of it.

    Args:
        num_heads: Heads of the attention.
        num_relay_tokens: R.
        hidden: Width of the network.
        std: Deviation of its last layer at the start. Relay tokens that
            begin alike everywhere hardly learn to differ.
    """

    def __init__(self, num_heads: int, num_relay_tokens: int,
                 hidden: int = 64, std: float = 2.) -> None:
        super().__init__()
        self.num_heads, self.std = num_heads, std
        self.hidden = nn.Linear(2, hidden)
        self.logits = nn.Linear(
            hidden, 2 * num_heads * num_relay_tokens, bias=False)
        self.draw()

    def init_weights(self) -> None:
        super().init_weights()
        self.draw()

    def draw(self) -> None:
        """Draw both layers."""
        for each in self.hidden.parameters():
            nn.init.uniform_(each, -1, 1)
        nn.init.normal_(self.logits.weight, std=self.std)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Logits for image tokens, and relay tokens after them.

        Args:
            queries: Places of image tokens that attend, (..., N, 2).
            keys: Places of those that are attended to, (..., M, 2).

        Returns:
            (..., H, N + R, M + R); zero but between relay and image tokens.
        """
        heard = self._logits(queries)[..., 0, :, :].movedim(-3, -2)
        listens = self._logits(keys)[..., 1, :, :].movedim(-3, -1)
        return torch.cat((  # (..., H, N, R) over (..., H, R, M)
            F.pad(heard, (keys.shape[-2], 0)),
            F.pad(listens, (0, heard.shape[-1]))), dim=-2)

    def _logits(self, where: Tensor) -> Tensor:
        """(..., N, 2) to (..., N, 2, H, R)."""
        hidden = self.hidden(where.to(self.hidden.weight.dtype)).relu()
        return self.logits(hidden).unflatten(-1, (2, self.num_heads, -1))

    def of_maps(self, queries: Shape, keys: Shape) -> Tensor:
        """As :meth:`forward`, of maps of tokens; kept in evaluation.

        Args:
            queries: Height and width of the map of queries.
            keys: Likewise of keys.
        """
        device = self.hidden.weight.device
        return self.keep((queries, keys), self.parameters(), lambda: self(
            places(queries, device), places(keys, device)))
