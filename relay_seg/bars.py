"""The bars with which commands show how far they are."""
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def rated_bars(count: ProgressColumn, name: str = '{task.description}',
               **how: Any) -> Progress:
    """Bars that tell a count, a rate, the time gone and the time left.

    Args:
        count: Column that says how much of a task is done.
        name: Format of the first column.
        how: More arguments of ``rich``.

    Returns:
        Bars whose tasks have a field ``rate``, a text.
    """
    return Progress(
        TextColumn(name), BarColumn(), count,
        TextColumn('{task.fields[rate]}'), TimeElapsedColumn(),
        TextColumn('left'), TimeRemainingColumn(), **how)
