"""Processes that predict together."""
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist

Item = TypeVar('Item')


class Team:
    """The ranks of a prediction; one that works alone is rank 0 of 1."""
    rank = 0
    size = 1

    def broadcast(self, item: Item) -> Item:
        """What rank 0 gives."""
        return item

    def gather(self, item: Item) -> list[Item]:
        """What each rank gives, on every rank."""
        return [item]


class ProcessTeam(Team):
    """The ranks of the process group, which must take CPU tensors."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def broadcast(self, item: Item) -> Item:
        items = [item]
        dist.broadcast_object_list(items, src=0)
        return items[0]

    def gather(self, item: Item) -> list[Item]:
        items: list = [None] * self.size
        dist.all_gather_object(items, item)
        return items


def current_team() -> Team:
    """The process group if there is one; else this process alone."""
    if dist.is_available() and dist.is_initialized():
        return ProcessTeam()
    return Team()


def share(bands: Sequence[int], costs: Sequence[float],
          team: Team) -> list[tuple[int, int]]:
    """Runs of neighbouring bands for this rank, about as much for each.

    Args:
        bands: Bands that are to do, in order.
        costs: Cost of each.
        team: The ranks.

    Returns:
        First band of each run and the band after its last one.
    """
    total = max(sum(costs), 1e-9)
    mine, before = [], 0.
    for band, cost in zip(bands, costs):
        rank = min(int((before + cost / 2) / total * team.size),
                   team.size - 1)
        before += cost
        if rank == team.rank:
            mine.append(band)
    runs: list[tuple[int, int]] = []
    for band in mine:
        if runs and runs[-1][1] == band:
            runs[-1] = runs[-1][0], band + 1
        else:
            runs.append((band, band + 1))
    return runs


def together(team: Team, work: Callable[[], Item]) -> Item:
    """This rank's result of some work; an error of one is one of all.

    No rank goes on to wait for another that has failed.
    """
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    if team.size > 1:
        errors = team.gather(
            None if error is None else (type(error).__name__, str(error)))
        if error is None:
            for rank, other in enumerate(errors):
                if other is not None:
                    raise OSError(f'rank {rank} failed: {other[1]}')
    if error is not None:
        raise error
    return result
