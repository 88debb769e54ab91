"""Does a scene look like what a model was trained on?"""
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger

from relay_seg.rasters import ground_pixel, open_raster
from relay_seg.rasters.physical import UM
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .model import bands_of
from .raster_source import RasterSource
from .source import scene_reader

PROBES, PROBE = 3, 64  # probes a side of the scene, and their pixels a side
#: Normalised values are around 0, with a deviation of about 1.
FAR, FLAT = 20., 0.02
#: Pixels larger or smaller than this many times those of training.
SCALE = 1.5
#: The same, where a window is given in metres.
EXACT = 0.01


def check_pixel_size(path: str | Path, size: float) -> None:
    """Raise a ``ValueError`` if a raster has degrees: they are no size."""
    with open_raster(path, whole=False) as raster:
        if not raster.crs or not raster.crs.is_geographic:
            return
        side = ground_pixel(raster.crs, raster.transform, raster.shape)
        lon, lat = raster.transform @ (raster.width / 2, raster.height / 2)
    zone = (32600 if lat >= 0 else 32700) + int((lon + 180) % 360 // 6) + 1
    of = f' of about {side:.3g} m' if side else ''
    raise ValueError(
        f'{path} is in degrees, with pixels{of}, so --pixel-size {size:g} '
        'would be that many degrees; bring it to a CRS in metres first, for '
        f'example with gdalwarp -t_srs EPSG:{zone} -tr {size:g} {size:g}, or '
        'leave out --pixel-size.')


def check_scene(source: RasterSource, model: SlideEncoderDecoder) -> None:
    """Warn of values and of a pixel size that the model does not know."""
    for text in (_odd_values(source, model), _odd_size(source, model)):
        if text:
            MMLogger.get_current_instance().warning(text)


def _odd_values(source: RasterSource, model: SlideEncoderDecoder) -> str:
    """In words, if the bands are not in the unit of training."""
    read = scene_reader(source, bands_of(model))
    found = []
    height, width = source.shape
    for i in range(PROBES):
        for j in range(PROBES):
            top = max(height - PROBE, 0) * i // (PROBES - 1)
            left = max(width - PROBE, 0) * j // (PROBES - 1)
            window = Window(top, left, min(PROBE, height), min(PROBE, width))
            try:
                found.append(read(window, 1).flatten(1))
            except ValueError:
                continue  # said when it is its turn
    values = torch.cat(found, dim=1).numpy() if found else np.zeros((0, 0))
    for band, pixels in enumerate(values):
        pixels = pixels[np.isfinite(pixels)]
        if band in model.relative_bands or not pixels.size:
            continue
        middle = abs(float(np.median(pixels)))
        flat = pixels.std() < FLAT and middle > 1
        if middle > FAR or (flat and len(np.unique(pixels)) > 1):
            return (
                f'{source.name}: values of band {band + 1} ({source.dtype}) '
                'are far from what the model was trained on: after mean and '
                f'deviation of training, their median is {middle:.3g} and '
                f'their deviation {pixels.std():.3g}. Bring them to the unit '
                'of the training images (such as 0 to 255), for example with '
                'gdal_translate -scale.')
    return ''


def _odd_size(source: RasterSource, model: SlideEncoderDecoder) -> str:
    """In words, if pixels are not of the size of training, where known.

    Raises:
        ValueError: They are not, and the window was given in metres.
    """
    trained = (getattr(model, 'dataset_meta', None) or {}).get('pixel_size')
    crs = source.crs
    if not trained:
        return ''
    if source.physical:
        size, wanted = source.physical, f'{trained / UM:.6g}um'
    elif crs is not None and crs.is_projected:
        unit = crs.linear_units_factor[1]
        size = abs(source.transform.determinant)**0.5 * unit
        wanted = f'{trained / unit:.6g}'
    else:
        return ''
    text = (f'{source.name} has pixels of {size:.3g} m, the model was trained '
            f'on {trained:.3g} m; resample with --pixel-size {wanted}')
    in_metres = (getattr(model, 'cfg', None) or {}).get('window_metres')
    if in_metres and abs(size / trained - 1) > EXACT:
        raise ValueError(f'{text}, or give --window in pixels: it would not '
                         'be as many metres here.')
    return '' if 1 / SCALE < size / trained < SCALE else f'{text}.'
