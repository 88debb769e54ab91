"""A small picture of a scene under its prediction."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from relay_seg.drawing import as_rgb, colour_label, read_shown, reduced_shape
from relay_seg.rasters import MARK, Handles, open_raster
from relay_seg.rasters.files import naming

from .raster_source import RasterSource

LONGEST = 1600  # pixels of the longer side
OPACITY = 0.5


def write_preview(source: RasterSource, classes: Path, out: Path,
                  palette: Sequence[Sequence[int]]) -> None:
    """Draw a prediction over its scene, both reduced, as PNG.

    Args:
        source: Scene that was segmented; its first three bands are drawn,
            or one as grey.
        classes: Raster of class ids.
        out: Picture to write.
        palette: Colour of each class.
    """
    with open_raster(classes) as raster:
        shape = reduced_shape(raster.shape, LONGEST)
        ids = raster.read(1, out_shape=shape)
    bands = [(layer.path, band) for layer in source.layers
             for band in layer.content.bands]
    shown = bands[:3] if len(bands) >= 3 else bands[:1]
    image = as_rgb(np.ma.stack([
        _reduced(source, *band, shape) for band in shown]))
    colours = colour_label(ids, palette)
    share = np.where(ids == 255, 0, OPACITY)[..., None]
    mixed = image * (1 - share) + colours * share
    mark = PngInfo()
    mark.add_text(MARK, 'preview')
    with naming(out):
        Image.fromarray(mixed.astype(np.uint8)).save(
            out, format='PNG', pnginfo=mark)


def _reduced(source: RasterSource, path: Path, band: int,
             shape: tuple[int, int]) -> np.ma.MaskedArray:
    """A band as it is predicted, masked where it has no data."""
    try:
        with Handles(path, lambda: source.open(path)).lend() as raster:
            return read_shown(source.laid(raster), [band], shape)[0]
    except ValueError:
        if not source.skip_damaged:
            raise
        return np.ma.masked_all(shape, np.uint8)
