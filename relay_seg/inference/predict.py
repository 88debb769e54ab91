"""Predict rasters and arrays of any size."""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch

from relay_seg.class_ids import IGNORE
from relay_seg.rasters.remote import located
from relay_seg.segmentors.slide import SlideEncoderDecoder

from .deciding import are_numbers, chances_of, check_numbers, decide
from .forward import Forward
from .job import Job
from .model import bands_of, load_model
from .settings import AMP, Progress, Report, Settings, plan_for
from .source import ArraySource
from .stream import Timer, counting, stream

#: Bytes of GDAL's block cache, the default grows with the machine.
CACHE = 64 * 2**20


class Prediction(NamedTuple):
    """Class ids (H, W) uint8, 255 for no data, and class probabilities."""
    classes: np.ndarray
    probabilities: np.ndarray | None


def predict_raster(model: SlideEncoderDecoder | str | Path,
                   scene: str | Path | Sequence[str | Path],
                   out: str | Path, *,
                   checkpoint: str | Path | None = None,
                   device: str | torch.device | None = None,
                   trust: bool = False,
                   progress: Callable[[Progress], None] | None = None,
                   part: tuple[int, int] = (1, 1), turn: int = 0,
                   **settings) -> Report:
    """Segment a raster of any size into a GeoTIFF of class ids.

    Windows and blending are those of slide inference, and so is the result.
    The scene is cut into blocks; memory holds the rows of one that windows
    look at. Finished blocks are kept in ``OUT.blocks`` until all are there:
    after an interruption the same call goes on from there, and a file under
    the final name is always whole. Any number of processes may do parts of
    the work; one that finds all blocks puts them together.

    Example:
        >>> from relay_seg.inference import load_model, predict_raster
        >>> model = load_model('config.py', 'checkpoint.pth')
        >>> predict_raster(model, 'scene.tif', 'classes.tif')

    Args:
        model: Model of :func:`load_model`, or a config file.
        scene: Raster, or aligned rasters whose bands follow each other.
        out: GeoTIFF to write.
        checkpoint: Checkpoint, if ``model`` is a config file.
        device: Where to compute, if ``model`` is a config file.
        trust: See :func:`load_model`.
        progress: Called after each batch.
        part: Number of the part to do, from 1, and how many there are.
        turn: Number of the scene among others that are shared: parts take
            turns to begin.
        settings: See :class:`Settings`.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: An input cannot be read or does not fit the model.
        OSError: The output cannot be written.
    """
    if isinstance(model, str | Path):
        if checkpoint is None:
            raise ValueError(f'{model} is a config; give its checkpoint too.')
        model = load_model(model, checkpoint, device=device, trust=trust)
    scene = [scene] if isinstance(scene, str | Path) else scene
    scene = [located(path) for path in scene]
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        return Job(model, scene, Path(out), Settings(**settings)).run(
            progress or _ignore, part, turn)


def predict_array(model: SlideEncoderDecoder, array: np.ndarray, *,
                  nodata: float | None = None,
                  probabilities: bool = False,
                  window: tuple[int, int] | None = None,
                  input_size: tuple[int, int] | None = None,
                  stride: tuple[int, int] | None = None,
                  blend: str | None = None, batch_size: int | None = None,
                  amp: str | None = None,
                  progress: Callable[[Progress], None] | None = None
                  ) -> Prediction:
    """Segment an array, also a memory map that is larger than memory.

    Args:
        model: Model of :func:`load_model`.
        array: Pixels as files hold them, (C, H, W); what a masked array
            masks is no data.
        nodata: Value of pixels that hold nothing; NaN never does.
        probabilities: Whether to return them, which takes memory.
        window: See :class:`Settings`, as the following.
        input_size: Size to which a window is brought.
        stride: Step between windows.
        blend: How windows are blended.
        batch_size: Windows in one forward pass.
        amp: Type to compute the model in.
        progress: Called after each batch.

    Returns:
        Class ids (H, W), and probabilities (classes, H, W) float32.
    """
    settings = Settings(window=window, input_size=input_size, stride=stride,
                        blend=blend, batch_size=batch_size, amp=amp)
    source = ArraySource(array, bands_of(model), nodata)
    plan = plan_for(model, source, settings)
    classes = np.full(source.shape, IGNORE, np.uint8)
    count = max(model.num_classes, 2)
    chances = np.full((count, *source.shape), np.nan,
                      np.float32) if probabilities else None
    model.eval()
    advance = counting(source.name, plan, len(plan), progress or _ignore)
    forward = Forward(model, plan.size, plan.batch_size,
                      AMP.get(settings.amp))
    for band in stream(
            model, source, [plan.whole], threads=2, forward=forward,
            timer=Timer(), advance=advance):
        low, high = band.top, band.bottom
        check_numbers(are_numbers(band.logits), source.name, low, high)
        valid = band.valid.numpy()
        classes[low:high] = np.where(
            valid, decide(model, band.logits).cpu().numpy(), IGNORE)
        if chances is not None:
            chance = chances_of(band.logits).cpu().numpy()
            chances[:, low:high] = np.where(valid, chance, np.nan)
    return Prediction(classes, chances)


def _ignore(progress: Progress) -> None:
    """Nobody asked."""
