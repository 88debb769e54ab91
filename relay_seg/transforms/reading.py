"""From scenes on disk to windows and their views."""
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from relay_seg.datasets.balance import class_places, labelled_places
from relay_seg.datasets.labels import (
    IGNORE,
    UNKNOWN,
    as_ids,
    label_lookup,
    map_labels,
)
from relay_seg.rasters import (
    choose_bands,
    content_of,
    open_raster,
    raster_reader,
    read_data,
    read_region,
    reused_raster,
)
from relay_seg.views import (
    LOCAL,
    Window,
    as_size,
    cut_views,
    points_of,
    resample,
    surroundings,
    view_grid,
)

#: Laws by which the extent of a scaled window is drawn.
SCALE_LAWS = 'log', 'uniform'
#: Points along each side that say how much of a window lies inside.
PROBES = 17
#: Windows that are drawn before none is thought to fit.
TRIES = 1000


@TRANSFORMS.register_module()
class SampleWindow(BaseTransform):
    """Draw a window of a scene: position, scale and rotation.

    Where a sample has a ``wanted_class``, the window lies around a place of
    that class. Other windows lie on the grid of the coarsest view, where
    overviews hold its pixels, or at the far border.

    Required Keys: scene_shape, contexts; with wanted_class, also
    seg_map_path and label_lookup; with min_inside, seg_map_path,
    label_lookup and area. Added Keys: window, window_size, input_size.

    Args:
        window: Height and width of a window in native pixels.
        input_size: Height and width of its views in pixels, to which it is
            brought; those of the window by default.
        scale_range: Smallest and largest extent of a scaled window, as a
            multiple of ``window``.
        scale_prob: Share of windows that are scaled.
        scale_law: The scale is drawn 'log' uniformly, as many are halved as
            doubled, or 'uniform'.
        angles: Smallest and largest angle of a rotated window in degrees,
            counter-clockwise.
        whole_angles: Draw whole degrees only, both ends among them.
        rotate_prob: Share of windows that are rotated.
        min_inside: Share of a window, as it is turned, that must lie in the
            scene, or in the labelled part of it (``area`` of the data set);
            its centre must, too. None keeps upright windows in the scene and
            lets the corners of turned ones reach out.
    """

    def __init__(self, window: tuple[int, int],
                 input_size: tuple[int, int] | None = None,
                 scale_range: tuple[float, float] = (0.5, 2.),
                 scale_prob: float = 0.5,
                 scale_law: str = 'log',
                 angles: tuple[float, float] = (-90., 90.),
                 whole_angles: bool = False,
                 rotate_prob: float = 0.5,
                 min_inside: float | None = None) -> None:
        if scale_law not in SCALE_LAWS:
            raise ValueError(
                f'scale_law={scale_law!r}; use one of {SCALE_LAWS}.')
        if min_inside is not None and not 0 < min_inside <= 1:
            raise ValueError(f'min_inside={min_inside} is no share; use a '
                             'number above 0, at most 1, or None.')
        self.window = as_size(window)
        self.input_size = as_size(input_size or window)
        self.scale_range = scale_range
        self.scale_prob = scale_prob
        self.scale_law = scale_law
        self.angles = angles
        self.whole_angles = whole_angles
        self.rotate_prob = rotate_prob
        self.min_inside = min_inside

    def transform(self, results: dict) -> dict:
        draw = self._within if self.min_inside is None else self._around
        results['window'] = draw(results)
        results['window_size'] = self.window
        results['input_size'] = self.input_size
        return results

    def _shape(self) -> tuple[int, int, float]:
        """Height, width and angle."""
        height, width = self.window
        angle = 0.
        if np.random.rand() < self.scale_prob:
            if self.scale_law == 'log':
                scale = np.exp(np.random.uniform(*np.log(self.scale_range)))
            else:
                scale = np.random.uniform(*self.scale_range)
            # Even, so that all views have the same centre.
            height, width = (2 * max(round(side * scale / 2), 1)
                             for side in self.window)
        if np.random.rand() < self.rotate_prob:
            low, high = self.angles
            angle = (float(np.random.randint(int(low), int(high) + 1))
                     if self.whole_angles else np.random.uniform(low, high))
        return height, width, angle

    def _step(self, results: dict) -> int:
        """Native pixels under one of the coarsest view."""
        return max(
            view_grid(self.window, context, self.input_size).reduction
            for context in (LOCAL, *results.get('contexts', ())))

    def _within(self, results: dict) -> Window:
        """A window whose upright box lies in the scene, if it fits."""
        height, width, angle = self._shape()
        place = self._place(results)
        step = self._step(results)
        start = []
        for axis, side in enumerate((height, width)):
            free = results['scene_shape'][axis] - side
            low, high = min(free, 0), max(free, 0)
            if place is None:
                at = _draw_start(low, high, step)
            else:
                at = place[axis] - np.random.randint(side)
            start.append(int(np.clip(at, low, high)))
        return Window(start[0], start[1], height, width, angle)

    def _around(self, results: dict) -> Window:
        """A window of which enough lies inside: all is drawn until it is."""
        shape, step = results['scene_shape'], self._step(results)
        labelled = None
        if results.get('area') == 'labelled':
            labelled = labelled_places(
                results['seg_map_path'], results['label_lookup'])
        for _ in range(TRIES):
            height, width, angle = self._shape()
            place = self._place(results)
            start = []
            for axis, side in enumerate((height, width)):
                if place is None:
                    centre = np.random.randint(shape[axis])
                else:
                    centre = place[axis] + side // 2 - np.random.randint(side)
                start.append(step * round((centre - side / 2) / step))
            window = Window(start[0], start[1], height, width, angle)
            inside = are_inside(points_of(window, PROBES), shape, labelled)
            if inside[len(inside) // 2] and inside.mean() >= self.min_inside:
                return window
        raise ValueError(
            f'{results.get("img_path")}: of {TRIES} windows around '
            f'{self.window[0]} x {self.window[1]} pixels none lies inside by '
            f'min_inside={self.min_inside}; use smaller windows, a smaller '
            'min_inside, or take the scene out of the split.')

    @staticmethod
    def _place(results: dict) -> np.ndarray | None:
        """A pixel of the wanted class; None if none is wanted or known."""
        wanted = results.get('wanted_class')
        if wanted is None:
            return None
        ids = np.flatnonzero(results['label_lookup'] == wanted)
        places = np.concatenate([
            class_places(results['seg_map_path'], int(i)) for i in ids])
        if not len(places):
            return None
        return places[np.random.randint(len(places))]


def _draw_start(low: int, high: int, step: int) -> int:
    """A multiple of the step from low to high, or the end that is none.

    Each is as likely, so that both borders of a scene are seen as often.

    Args:
        low: 0, or below where the window is larger than the scene.
        high: 0, or above where it is smaller.
        step: Native pixels.
    """
    end = low + high
    first = -(-low // step)
    count = high // step - first + 1
    i = np.random.randint(count + (end % step > 0))
    return end if i == count else step * (first + i)


def are_inside(points: np.ndarray, shape: tuple[int, int],
               labelled: np.ndarray | None) -> np.ndarray:
    """Which places lie in a scene, and in the labelled part of it.

    Args:
        points: Row and column, (N, 2); edges of the scene count.
        shape: Height and width of the scene in native pixels.
        labelled: Where it is labelled, (H, W) bool of any coarser grid over
            the scene; None if all of it counts.
    """
    slack = 1e-6  # of turned corners
    inside = np.all(
        (points >= -slack) & (points <= np.add(shape, slack)), axis=1)
    if labelled is not None:
        cells = (points / shape * labelled.shape).astype(int)
        rows, columns = cells.clip(0, np.subtract(labelled.shape, 1)).T
        inside &= labelled[rows, columns]
    return inside


@TRANSFORMS.register_module()
class ReadViews(BaseTransform):
    """Read the views of a window, and their labels, from disk.

    Required Keys: img_path, seg_map_path, label_lookup, window, window_size,
    input_size, contexts. Added Keys: views (local (C, H, W) float32 with H
    and W of ``input_size``, then the global ones, each of its own size),
    labels (local (H, W) uint8, then (k*H, k*W) of each global view; the
    nearest native pixel where a pixel of the input is not one), img_shape,
    ori_shape.

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
        window, size = results['window'], results['input_size']
        contexts = results['contexts']
        upright = window == Window(*window[:2], *results['window_size'])
        read = raster_reader(
            results['img_path'], bands=self.bands, fill=self.fill)
        if upright:
            views = cut_views(read, window, contexts, size)
        else:
            views = tuple(
                resample(read, surroundings(window, view.factor),
                         view.size(size), smooth=True)
                for view in (LOCAL, *contexts))
        results['views'] = views
        results['labels'] = self._labels(results, window, size)
        results['img_shape'] = results['ori_shape'] = tuple(size)
        return results

    @staticmethod
    def _labels(results: dict, window: Window,
                size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Labels under the views of the (perhaps turned) window."""
        path = results['seg_map_path']
        factors = [view.factor for view in (LOCAL, *results['contexts'])]
        widest = max(factors)
        region = surroundings(window, widest)
        with reused_raster(path) as raster:
            dtype = np.promote_types(raster.dtypes[0], np.uint8).type

            def read(box: Window, factor: int) -> np.ndarray:
                return as_ids(read_region(
                    raster, box, bands=[1], fill=[IGNORE], dtype=dtype), path)

            if window == Window(*window[:2], *size):
                label = read(region, 1)[0]
            else:
                label = resample(
                    read, region, (size[0] * widest, size[1] * widest),
                    smooth=False)[0]
        label = ids_of_model(label, results['label_lookup'], path)
        # The labels of narrower views are its middle, to the pixel.
        whole = Window(0, 0, *size)
        origin = surroundings(whole, widest)
        labels = []
        for k in factors:
            part = surroundings(whole, k)
            y, x = part.top - origin.top, part.left - origin.left
            labels.append(label[y:y + part.height, x:x + part.width])
        return tuple(labels)


def ids_of_model(label: np.ndarray, lookup: np.ndarray,
                 path: str) -> np.ndarray:
    """As :func:`relay_seg.datasets.labels.map_labels`, in a glance if it can.

    Where all ids of a file mean what they say, its largest one tells that
    there is nothing to look up.

    Args:
        label: uint8.
        lookup: See :func:`relay_seg.datasets.labels.label_lookup`.
        path: The file, for messages.
    """
    classes = int(np.count_nonzero(lookup != UNKNOWN)) - 1  # but for ignored
    if (np.array_equal(lookup, label_lookup(classes, None, False))
            and (label + np.uint8(1)).max(initial=0) <= classes):
        return label  # ignored, 255, has become 0
    return map_labels(label, lookup, path)


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
            content = content_of(raster, choose_bands(
                raster, self.bands, self.num_bands))
            shape = raster.shape
            image = raster.read(content.bands) if content.bytes else (
                read_data(raster, Window(0, 0, *shape), content,
                          [np.nan] * self.num_bands))
        results['img'] = image.transpose(1, 2, 0)
        if results.get('seg_map_path'):
            with open_raster(results['seg_map_path']) as raster:
                label = raster.read(1)
            results['gt_seg_map'] = map_labels(
                label, results['label_lookup'], results['seg_map_path'])
        results['img_shape'] = results['ori_shape'] = shape
        return results
