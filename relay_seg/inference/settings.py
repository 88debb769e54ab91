"""How to predict, and what is told about it."""
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from relay_seg.rasters.physical import length
from relay_seg.segmentors.slide import SlideEncoderDecoder, check_batch_size
from relay_seg.views import (
    BLENDS,
    Window,
    as_size,
    in_proportion,
)

from .plan import LARGEST, Plan, block_side
from .source import Source
from .writing import CONFIDENCES, FORMATS, PROBABILITIES

AMP: dict[str | None, torch.dtype] = {
    'bf16': torch.bfloat16, 'fp16': torch.float16}
#: Files without tiles have blocks that are so many times as wide, at most.
UNTILED = 4


class Progress(NamedTuple):
    """How far a scene is.

    Args:
        scene: Its name.
        done: Pixels of this process that are through the model.
        total: Pixels that this process has to do.
    """
    scene: str
    done: int
    total: int


@dataclass(frozen=True)
class Settings:
    """How to predict a raster; the defaults are those of the model.

    Args:
        window: Height and width of a window in pixels; ``crop_size`` of the
            model's ``test_cfg`` by default.
        input_size: Height and width to which a window is brought before the
            model; by default as much smaller or larger than the window as
            the model's ``test_cfg`` has it.
        stride: Vertical and horizontal step between windows; by default the
            share of a window that is seen twice is that of ``test_cfg``.
        blend: ``mean``, ``gaussian`` or ``center``.
        batch_size: Windows in one forward pass; by default those of the
            model's ``test_cfg``, else 8 on a CPU and as many as keep it busy
            on a GPU.
        bands: Bands to read, the first is 1, counted over all files.
        aoi: Polygons; only windows that touch one are computed, and pixels
            outside are no data.
        pixel_size: Side of a pixel to resample to, in units of the CRS,
            which is not in degrees; or as ``'0.5um'``, in micrometres, for
            scans that say how large their pixels are.
        on_error: ``stop`` at pixels that cannot be read, or ``skip`` them as
            no data.
        output_format: ``gtiff`` or ``cog``; or ``vrt``, which refers to the
            blocks and takes no time.
        block: Height and width of what is computed as one task, in pixels,
            about; by default a 36th of the scene, with limits.
        probabilities: ``uint8`` or ``float16`` to write them too, into
            ``OUT_probabilities.tif``.
        confidence: ``maximum``, the largest probability, or ``entropy`` to
            write it too, into ``OUT_confidence.tif``.
        polygons: File to write classes to as polygons: ``.gpkg``, ``.shp``,
            ``.geojson`` or ``.parquet``.
        min_area: Polygons below this area in square metres on the ground
            (pixels without a CRS) are left out, and holes in others filled.
        simplify: Metres (pixels without a CRS) by which borders of polygons
            may move, about.
        preview: PNG to draw.
        stac: STAC item to write about it, ``.json``.
        truth: Class ids that the output will be compared with: they are
            not written over, nor is what ``OUT_scores.json`` holds.
        overwrite: Write over files that no prediction wrote, but never over
            inputs.
        amp: ``bf16`` or ``fp16`` to compute the model in.
        compiled: Compile the model with ``torch.compile``: minutes at first,
            then faster on a GPU.
        cuda_graph: On a GPU, launch the kernels of a batch together, as a
            CUDA graph.
        threads: Threads that read.
    """
    window: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    blend: str | None = None
    batch_size: int | None = None
    bands: tuple[int, ...] | None = None
    aoi: str | Path | None = None
    pixel_size: float | None = None
    on_error: str = 'stop'
    output_format: str = 'gtiff'
    block: tuple[int, int] | None = None
    probabilities: str | None = None
    confidence: str | None = None
    polygons: str | Path | None = None
    min_area: float = 0.
    simplify: float = 0.
    preview: str | Path | None = None
    stac: str | Path | None = None
    truth: str | Path | None = None
    overwrite: bool = False
    amp: str | None = None
    compiled: bool = False
    cuda_graph: bool = True
    threads: int = 4

    def __post_init__(self) -> None:
        if self.pixel_size is not None:
            object.__setattr__(self, 'pixel_size', length(self.pixel_size))
        for name, known in (
                ('blend', (None, *BLENDS)), ('on_error', ('stop', 'skip')),
                ('output_format', FORMATS), ('amp', (None, *AMP)),
                ('probabilities', (None, *PROBABILITIES)),
                ('confidence', (None, *CONFIDENCES))):
            if getattr(self, name) not in known:
                raise ValueError(f'{name}={getattr(self, name)!r} is unknown;'
                                 f' use one of {known}.')
        for name in ('window', 'input_size', 'stride', 'batch_size', 'bands',
                     'block', 'pixel_size', 'threads'):
            value = getattr(self, name)
            if value is not None and not np.all(
                    (np.asarray(value) > 0) & np.isfinite(value)):
                raise ValueError(f'{name}={value} is no number above zero; '
                                 'give another value, or leave it out.')
        for name in ('min_area', 'simplify'):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(
                    f'{name}={getattr(self, name)}; use 0 or more.')


@dataclass(frozen=True)
class Report:
    """What became of a scene.

    Args:
        out: File with the classes.
        kept: Whether it was there already.
        elsewhere: Whether another process is making it, or what follows
            from it.
        resumed: Blocks that were there from an earlier run.
        missing: Blocks that others have not finished: there is no output
            yet.
        damaged: Regions that could not be read.
        seconds: Time in reading, model, blending and writing.
    """
    out: Path
    kept: bool = False
    elsewhere: bool = False
    resumed: int = 0
    missing: int = 0
    damaged: Sequence[Window] = ()
    seconds: Counter = field(default_factory=Counter)


def plan_for(model: SlideEncoderDecoder, source: Source,
             settings: Settings) -> Plan:
    """Windows of a scene, as the model's ``test_cfg`` and settings say."""
    cfg = model.test_cfg
    own = cfg.get('crop_size')
    size = settings.window or own
    if size is None:
        raise ValueError("the model's test_cfg has no crop_size; set it, or "
                         'give a window.')
    size, own = as_size(size), as_size(own or size)
    input_size = as_size(settings.input_size or in_proportion(
        cfg.get('input_size') or own, own, size))
    stride = as_size(settings.stride or in_proportion(
        cfg.get('stride') or own, own, size))
    batch_size = settings.batch_size or cfg.get('batch_size')
    if batch_size is None:
        device = model.data_preprocessor.device.type
        amp = AMP.get(settings.amp)
        with torch.autocast(device, amp, enabled=amp is not None):
            batch_size = model.windows_at_once(size, input_size)
    block = as_size(settings.block or block_side(source.shape, stride))
    if not settings.block and not source.tiled:  # a row is read as a whole
        block = block[0], UNTILED * LARGEST
    return Plan(
        as_size(source.shape), size, stride,
        settings.blend or cfg.get('blend', 'mean'),
        check_batch_size(batch_size),
        model.contexts, input_size,
        block=block)
