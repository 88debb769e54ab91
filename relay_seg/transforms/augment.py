"""Augmentations that draw once and treat all views alike."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import PhotoMetricDistortion
from mmseg.registry import TRANSFORMS

MOST = 255  # of 8 bits


@TRANSFORMS.register_module()
class FlipViews(BaseTransform):
    """Flip all views and labels.

    Modified Keys: views, labels.

    Args:
        horizontal: Share of samples flipped left to right.
        vertical: Share of samples flipped upside down.
    """

    def __init__(self, horizontal: float = 0.5,
                 vertical: float = 0.5) -> None:
        self.horizontal = horizontal
        self.vertical = vertical

    def transform(self, results: dict) -> dict:
        for axis, prob in ((-1, self.horizontal), (-2, self.vertical)):
            if np.random.rand() < prob:
                for key in ('views', 'labels'):
                    results[key] = tuple(
                        _flip(x, axis) for x in results[key])
        return results


def _flip(x: np.ndarray, axis: int) -> np.ndarray:
    """A flipped image (..., H, W).

    Rows are reversed in place of being copied backwards later, value by
    value.
    """
    if axis == -2:
        return np.flip(x, axis)
    return cv2.flip(x.reshape(-1, x.shape[-1]), 1).reshape(x.shape)


@TRANSFORMS.register_module()
class PhotoMetricViews(BaseTransform):
    """The host's ``PhotoMetricDistortion``, the same for all views.

    Changes the first three bands, red, green and blue from 0 to 255, which
    are rounded. Pixels outside the scene change too. Views of nothing but
    these three are uint8 afterwards, if they have data everywhere.

    Modified Keys: views.

    Args:
        kwargs: Those of the host's ``PhotoMetricDistortion``.
    """

    def __init__(self, **kwargs) -> None:
        self.distort = TabledDistortion(**kwargs)

    def transform(self, results: dict) -> dict:
        views = results['views']
        if len(views[0]) < 3:
            raise ValueError(
                f'PhotoMetricViews changes red, green and blue but views have '
                f'{len(views[0])} bands; take it out of the pipeline.')
        # One image of all pixels above each other, as the host wants it.
        images = [_interleaved(view, results.get('img_path', 'a scene'))
                  for view in views]
        pixels = np.concatenate([
            image.reshape(-1, images[0].shape[1], 3) for image in images])
        pixels = self.distort(dict(img=pixels))['img'].reshape(-1, 3)
        ends = np.cumsum([image[..., 0].size for image in images])[:-1]
        results['views'] = tuple(
            _recoloured(view, part.reshape(image.shape))
            for view, image, part in zip(
                views, images, np.split(pixels, ends)))
        return results


class TabledDistortion(PhotoMetricDistortion):
    """The host's, draw by draw and value by value, by tables of bytes."""

    def convert(self, img: np.ndarray, alpha: float = 1,
                beta: float = 0) -> np.ndarray:
        values = np.arange(MOST + 1, dtype=np.uint8)
        return cv2.LUT(img, super().convert(values, alpha, beta))

    def hue(self, img: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return img
        turned = np.arange(MOST + 1) + np.random.randint(
            -self.hue_delta, self.hue_delta)
        img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        img[..., 0] = cv2.LUT(img[..., 0], (turned % 180).astype(np.uint8))
        return cv2.cvtColor(img, cv2.COLOR_HSV2BGR)


def _interleaved(view: np.ndarray, path: str) -> np.ndarray:
    """Blue, green and red of a view as the host has them, (H, W, 3) uint8."""
    colours = view[:3]
    if colours.dtype != np.uint8:
        hidden = np.isnan(colours)
        if hidden.any():
            colours = np.where(hidden, 0, colours)
        if colours.min() < 0 or colours.max() > MOST:
            raise ValueError(
                f'{path} has values from {np.nanmin(view[:3]):g} to '
                f'{np.nanmax(view[:3]):g}; PhotoMetricViews changes red, '
                'green and blue from 0 to 255. Take it out of the pipeline.')
        colours = np.rint(colours).astype(np.uint8)
    return cv2.merge(tuple(colours[::-1]))


def _recoloured(view: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A view with the colours of an image; no data and other bands stay."""
    colours = np.stack(cv2.split(image)[::-1])
    if view.dtype != np.uint8:
        hidden = np.isnan(view[:3])
        if hidden.any():
            colours = np.where(hidden, view[:3], colours)
    return np.concatenate((colours, view[3:])) if len(view) > 3 else colours
