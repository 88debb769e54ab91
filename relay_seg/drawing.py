"""Pictures of scenes, labels and views."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image, ImageDraw
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import content_of, data_bands, open_raster
from relay_seg.rasters.reading import LARGEST
from relay_seg.views import LOCAL, Context

GAP = 8  # pixels between panels
MARGIN = 18  # pixels for a caption
IGNORE_COLOUR = (0, 0, 0)
DARK = 16  # of 255
STRETCH = 2, 98  # percentiles of a band that are drawn black and white


def colour_label(label: np.ndarray,
                 palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Class ids (H, W) in colour, (H, W, 3) uint8; ignored is black."""
    table = np.zeros((256, 3), np.uint8)
    table[:len(palette)] = palette
    table[IGNORE] = IGNORE_COLOUR
    return table[label]


def panels(images: Sequence[np.ndarray],
           captions: Sequence[str]) -> Image.Image:
    """Images (H, W, 3) uint8 side by side, each under its caption."""
    height = max(image.shape[0] for image in images) + MARGIN
    width = sum(image.shape[1] + GAP for image in images) - GAP
    canvas = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(canvas)
    x = 0
    for image, caption in zip(images, captions):
        draw.text((x + 2, 3), caption, fill='black')
        canvas.paste(Image.fromarray(image), (x, MARGIN))
        x += image.shape[1] + GAP
    return canvas


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    width = max(row.width for row in rows)
    height = sum(row.height + GAP for row in rows) - GAP
    canvas = Image.new('RGB', (width, height), 'white')
    y = 0
    for row in rows:
        canvas.paste(row, (0, y))
        y += row.height + GAP
    return canvas


def legend(names: Sequence[str], palette: Sequence[Sequence[int]],
           width: int) -> Image.Image:
    """Colours of classes and their names, in one row."""
    canvas = Image.new('RGB', (width, MARGIN), 'white')
    draw = ImageDraw.Draw(canvas)
    for i, (name, colour) in enumerate(zip(names, palette)):
        x = 2 + i * width // len(names)
        draw.rectangle((x, 4, x + 20, 14), fill=tuple(colour))
        draw.text((x + 26, 3), name, fill='black')
    return canvas


def shown_bands(raster: rasterio.DatasetReader,
                bands: Sequence[int] | None) -> list[int]:
    """Bands of a file to draw: red, green and blue, or one in grey.

    Args:
        raster: Open file.
        bands: Those that the model reads, the first is 1; by default all but
            alpha.
    """
    return _first(list(bands or data_bands(raster)))


def _first(bands: Any) -> Any:
    """Of a sequence of bands the first three, or the first."""
    return bands[:3] if len(bands) >= 3 else bands[:1]


def read_shown(raster: rasterio.DatasetReader, bands: Sequence[int],
               shape: tuple[int, int], window: RasterWindow | None = None,
               resampling: Resampling = Resampling.nearest
               ) -> np.ma.MaskedArray:
    """Bands of a region, reduced, masked where they have no data.

    Args:
        raster: Open file.
        bands: The first is 1.
        shape: Height and width of the result.
        window: Region; the whole file by default.
        resampling: How pixels become fewer.

    Returns:
        Finite values (C, H, W), and a mask.
    """
    content = content_of(raster, bands)

    def read(indexes: Sequence[int]) -> np.ndarray:
        return raster.read(
            list(indexes), out_shape=(len(indexes), *shape), window=window,
            resampling=resampling)

    image = read(content.bands)
    hidden = ~(np.abs(image) <= LARGEST)  # NaN is not, either
    for where, band, nodata in zip(hidden, image, content.nodata):
        where |= band == nodata
    if content.mask:
        hidden |= read([content.mask]) == 0
    elif content.mask == 0:
        hidden |= raster.read_masks(
            content.bands[0], out_shape=shape, window=window) == 0
    return np.ma.masked_array(image, hidden)


def stretch(image: np.ma.MaskedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values drawn black and white, (C, 1, 1) each.

    Brightness of 8 bits is drawn as it is. Where there are other values,
    beyond 0 to 255 or hardly above 0 (reflectance, say), each band is
    stretched from its 2nd to its 98th percentile.

    Args:
        image: Finite values (C, H, W), masked where there is no data.
    """
    low, high = np.array([
        np.percentile(values, STRETCH) if values.size else (0, 0)
        for values in (band.compressed() for band in image)]).T
    if image.dtype == np.uint8 or (
            low.min() >= 0 and DARK < high.max() <= 255):
        low, high = np.zeros_like(low), np.full_like(high, 255)
    high = np.where(high > low, high, low + 1)
    return low[:, None, None], high[:, None, None]


def as_bytes(image: np.ma.MaskedArray, low: np.ndarray,
             high: np.ndarray) -> np.ndarray:
    """An image (C, H, W) as uint8: ``low`` is 0, ``high`` 255, no data 0."""
    if image.dtype != np.uint8:
        image = ((image - low) / (high - low) * 255).clip(0, 255).round()
    return image.filled(0).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """First three bands of (C, H, W), or the only one, as (H, W, 3) uint8.

    Values are stretched as :func:`stretch` says. What is masked or not
    finite, no data, is black.
    """
    shown = np.ma.masked_invalid(_first(image))
    drawn = as_bytes(shown, *stretch(shown)).transpose(1, 2, 0)
    return np.ascontiguousarray(drawn.repeat(3 // drawn.shape[-1], axis=-1))


def thumbnail(path: Path, longest: int = 1024,
              bands: Sequence[int] | None = None) -> np.ndarray:
    """A scene, reduced to at most ``longest`` pixels, as (H, W, 3) uint8.

    Args:
        path: File.
        longest: Pixels of the longer side.
        bands: See :func:`shown_bands`.
    """
    with open_raster(path) as raster:
        bands = shown_bands(raster, bands)
        return as_rgb(read_shown(
            raster, bands, reduced_shape(raster.shape, longest)))


def reduced_shape(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """The shape, in proportion, with no side above ``longest``."""
    factor = max(max(shape) / longest, 1)
    height, width = (max(round(side / factor), 1) for side in shape)
    return height, width


def reduce_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Class ids at the nearest pixels of a smaller grid."""
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, label.shape))
    return label[rows[:, None], cols]


def draw_prediction(path: Path, truth: np.ndarray | None,
                    pred: np.ndarray, palette: Sequence[Sequence[int]],
                    bands: Sequence[int] | None = None) -> Image.Image:
    """A scene, its truth where there is one, and a prediction.

    Args:
        path: Scene.
        truth: Class ids (H, W).
        pred: Class ids (H, W).
        palette: Colour of each class.
        bands: See :func:`shown_bands`.
    """
    scene = thumbnail(path, bands=bands)
    shape = scene.shape[:2]
    images, captions = [scene], [path.name]
    for label, caption in ((truth, 'truth'), (pred, 'prediction')):
        if label is not None:
            images.append(colour_label(reduce_label(label, shape), palette))
            captions.append(caption)
    return panels(images, captions)


def draw_sample(views: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                contexts: Sequence[Context],
                palette: Sequence[Sequence[int]]) -> Image.Image:
    """Views of a window, the window outlined in the global ones, and labels.

    Args:
        views: (C, H, W) each, local first.
        labels: (H, W) of the local view, (k*H, k*W) of the global ones.
        contexts: The global views.
        palette: Colour of each class.
    """
    images, captions = [], []
    for view, label, (k, reduction) in zip(
            views, labels, (LOCAL, *contexts)):
        shape = view.shape[-2:]
        for image, what in ((as_rgb(view), 'view'),
                            (colour_label(reduce_label(label, shape),
                                          palette), 'label')):
            if k > 1:
                image = _outline(image, k)
            images.append(image)
            name = 'local' if k == 1 else f'global k={k}'
            name += f' / {reduction}' if reduction != k else ''
            captions.append(f'{name} {what}')
    return panels(images, captions)


def _outline(image: np.ndarray, factor: int) -> np.ndarray:
    """The window's outline in a global view."""
    height, width = image.shape[:2]
    h, w = height // factor, width // factor
    top, left = (height - h) // 2, (width - w) // 2
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).rectangle(
        (left - 1, top - 1, left + w, top + h), outline=(255, 0, 0))
    return np.asarray(picture)
