"""What a prediction holds in memory."""
import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor

from relay_seg.rasters.writing import WIDE
from relay_seg.views import LOCAL, view_grid

from .plan import Block
from .source import Source

MEMINFO = Path('/proc/meminfo')
CPU = torch.device('cpu')
#: What does not grow with a scene, in bytes: GDAL's cache, threads, a batch of
#: a small model.
BESIDE = 220 * 10**6
#: Rows of cells that are made, and let go of, at once.
CELL_ROWS = 64
#: Finished bands that wait to be written.
WAITING = 2
#: Rows in arrays of a row of tiles, 256 pixels high, while it is written.
WRITTEN = 3 * 256


def zeros(shape: tuple[int, ...], dtype: torch.dtype,
          device: torch.device = CPU, pin_memory: bool = False) -> Tensor:
    """Zeros; on a CPU in memory of their own, returned to the system at once.

    The C library keeps what is freed for later, and finds no place for large
    arrays between small ones. Pages that nobody writes to take none.
    """
    if device.type != 'cpu' or pin_memory or not prod(shape):
        return torch.zeros(shape, dtype=dtype, device=device,
                           pin_memory=pin_memory)
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def needed(blocks: Sequence[Block], source: Source, channels: int,
           stored: int = 1) -> int:
    """Bytes that a prediction takes beside the model and what is imported.

    Args:
        blocks: Blocks to compute.
        source: The scene.
        channels: Channels of the logits.
        stored: Bytes of a pixel in the outputs.
    """
    block = max(blocks, key=len)
    if not len(block):
        return BESIDE
    plan, strip = block.plan, source.block_rows
    _, _, rows, across, _ = block.region
    width = block.seen[1] - block.seen[0]
    height = plan.shape[0]
    first, last = block.rows_at_once()
    reach = max(grid.region(0, 0).top + grid.region(0, 0).height
                for grid in plan.views)
    bottom = -(-np.minimum(last + reach, height) // strip) * strip
    native = (bottom - first // strip * strip).max()
    shown = min(plan.size[0], height)
    ahead = -(-plan.stride[0] // strip) * strip
    begun = min(reach + ahead, height) if len(blocks) > 1 else 0
    pixel = source.bands * (1 if source.bytes else 4) + (not source.bytes)
    total = BESIDE + width * (
        pixel * (min(native + ahead, height) + shown + begun)
        + 4 * channels * shown)
    total += stored * (
        across * min((2 + WAITING) * plan.stride[0] + WRITTEN, 4 * rows)
        + min(WIDE, plan.shape[1]) * WRITTEN)
    for grid in plan.views:
        if grid == view_grid(plan.size, LOCAL, plan.size):
            continue  # native pixels, see above
        n = grid.reduction
        columns = sum(high - low for low, high in
                      block.cells_across(grid).values())
        held = int((bottom - first).max() - grid.top) // n + CELL_ROWS
        cells = sum(grid.height + min(
            held, (tops[-1] - tops[0]) // n + grid.height)
            for tops in block.tops_by_phase(grid, block.tops).values())
        total += 4 * source.bands * cells * columns
    return int(total)


def warn_of_little(wanted: int, name: str) -> None:
    """Say so before any work if there is less memory (Linux knows)."""
    try:
        facts = dict(line.split(':')
                     for line in MEMINFO.read_text().splitlines())
        free = int(facts['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return
    if free < wanted:
        MMLogger.get_current_instance().warning(
            f'{name} needs about {wanted / 1e9:.1f} GB of memory but '
            f'{free / 1e9:.1f} GB are free; use smaller blocks '
            '(--block), windows or context factors.')
