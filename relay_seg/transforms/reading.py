"""From scenes on disk to windows and their views."""
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from relay_seg.datasets.balance import class_places
from relay_seg.datasets.labels import IGNORE, as_ids, map_labels
from relay_seg.rasters import (
    choose_bands,
    open_raster,
    raster_reader,
    read_region,
    reused_raster,
)
from relay_seg.views import (
    Window,
    cut_views,
    resample,
    surroundings,
)


@TRANSFORMS.register_module()
class SampleWindow(BaseTransform):
    """Draw a window of a scene: position, scale and rotation.

    Where a sample has a ``wanted_class``, the window lies around a place of
    that class. Other windows lie on the grid of the coarsest view, where
    overviews hold its pixels.

    Required Keys: scene_shape; with wanted_class, also seg_map_path and
    label_lookup. Added Keys: window, window_size.

    Args:
        size: Height and width of the views in pixels.
        scale_range: Smallest and largest extent of a scaled window, as a
            multiple of ``size``; drawn uniformly on a logarithmic scale.
        scale_prob: Share of windows that are scaled.
        max_angle: Rotated windows turn by up to this angle, in degrees, in
            either direction.
        rotate_prob: Share of windows that are rotated.
    """

    def __init__(self, size: tuple[int, int],
                 scale_range: tuple[float, float] = (0.5, 2.),
                 scale_prob: float = 0.5,
                 max_angle: float = 90.,
                 rotate_prob: float = 0.5) -> None:
        self.size = tuple(size)
        self.scale_range = scale_range
        self.scale_prob = scale_prob
        self.max_angle = max_angle
        self.rotate_prob = rotate_prob

    def transform(self, results: dict) -> dict:
        height, width = self.size
        angle = 0.
        if np.random.rand() < self.scale_prob:
            scale = np.exp(np.random.uniform(*np.log(self.scale_range)))
            # Even, so that all views have the same centre.
            height, width = (2 * max(round(side * scale / 2), 1)
                             for side in self.size)
        if np.random.rand() < self.rotate_prob:
            angle = np.random.uniform(-self.max_angle, self.max_angle)
        place = self._place(results)
        step = max(results.get('context_factors', ()), default=1)
        start = []
        for axis, side in enumerate((height, width)):
            free = results['scene_shape'][axis] - side
            low, high = min(free, 0), max(free, 0)
            if place is None:
                at = step * (np.random.randint(low, high + 1) // step)
            else:
                at = place[axis] - np.random.randint(side)
            start.append(int(np.clip(at, low, high)))
        top, left = start
        results['window'] = Window(top, left, height, width, angle)
        results['window_size'] = self.size
        return results

    @staticmethod
    def _place(results: dict) -> np.ndarray | None:
        """A pixel of the wanted class; None if none is wanted or known."""
        wanted = results.get('wanted_class')
        if wanted is None:
            return None
        ids = np.flatnonzero(results['label_lookup'] == wanted)
        places = [class_places(results['seg_map_path'], int(i)) for i in ids]
        places = np.concatenate(places)
        if not len(places):
            return None
        return places[np.random.randint(len(places))]


@TRANSFORMS.register_module()
class ReadViews(BaseTransform):
    """Read the views of a window, and their labels, from disk.

    Required Keys: img_path, seg_map_path, label_lookup, window, window_size,
    context_factors. Added Keys: views (each (C, H, W) float32), labels (local
    (H, W) uint8, then (k*H, k*W) of each global view), img_shape, ori_shape.

    Args:
        fill: Value of each band outside the scene: the mean that the data
            preprocessor subtracts, or None, no data, for bands that have no
            mean (``relative_bands`` of the model).
        bands: Bands of the file to read, the first is 1; None for all.
    """

    def __init__(self, fill: Sequence[float],
                 bands: Sequence[int] | None = None) -> None:
        self.fill = tuple(np.nan if x is None else x for x in fill)
        self.bands = bands

    def transform(self, results: dict) -> dict:
        window, size = results['window'], results['window_size']
        factors = results['context_factors']
        upright = window == Window(*window[:2], *size)
        read = raster_reader(
            results['img_path'], bands=self.bands, fill=self.fill)
        if upright:
            views = cut_views(read, window, factors)
        else:
            views = tuple(
                resample(read, surroundings(window, k), size, smooth=True)
                for k in (1, *factors))
        results['views'] = views
        results['labels'] = self._labels(results, window, size, upright)
        results['img_shape'] = results['ori_shape'] = tuple(size)
        return results

    @staticmethod
    def _labels(results: dict, window: Window, size: tuple[int, int],
                upright: bool) -> tuple[np.ndarray, ...]:
        """Native labels under the views of the (perhaps turned) window."""
        path, factors = results['seg_map_path'], results['context_factors']
        widest = max(factors, default=1)
        region = surroundings(window, widest)
        with reused_raster(path) as raster:
            dtype = np.promote_types(raster.dtypes[0], np.uint8)

            def read(box: Window, factor: int) -> np.ndarray:
                return as_ids(read_region(
                    raster, box, bands=[1], fill=[IGNORE], dtype=dtype), path)

            if upright:
                label = read(region, 1)[0]
            else:
                label = resample(read, region, tuple(
                    side * widest for side in size), smooth=False)[0]
        label = map_labels(label, results['label_lookup'], path)
        # The labels of narrower views are its middle, to the pixel.
        whole = Window(0, 0, *size)
        origin = surroundings(whole, widest)
        labels = []
        for k in (1, *factors):
            part = surroundings(whole, k)
            y, x = part.top - origin.top, part.left - origin.left
            labels.append(label[y:y + part.height, x:x + part.width])
        return tuple(labels)


@TRANSFORMS.register_module()
class ReadScene(BaseTransform):
    """Read a whole scene, and its label where there is one, for testing.

    Required Keys: img_path, scene_shape; seg_map_path and label_lookup where
    there is a label. Added Keys: img (H, W, C), gt_seg_map (H, W),
    img_shape, ori_shape.

    Args:
        num_bands: Bands of the model.
        bands: Bands of the file to read, the first is 1; None for all.
    """

    def __init__(self, num_bands: int,
                 bands: Sequence[int] | None = None) -> None:
        self.num_bands = num_bands
        self.bands = bands

    def transform(self, results: dict) -> dict:
        with open_raster(results['img_path']) as raster:
            bands = choose_bands(raster, self.bands, self.num_bands)
            shape = raster.shape
            if raster.dtypes[0] == 'uint8' and raster.nodata is None:
                image = raster.read(bands)
            else:
                image = read_region(
                    raster, Window(0, 0, *shape), bands=bands,
                    fill=[np.nan] * len(bands))
        results['img'] = image.transpose(1, 2, 0)
        if results.get('seg_map_path'):
            with open_raster(results['seg_map_path']) as raster:
                label = raster.read(1)
            results['gt_seg_map'] = map_labels(
                label, results['label_lookup'], results['seg_map_path'])
        results['img_shape'] = results['ori_shape'] = shape
        return results
