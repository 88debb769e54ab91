from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from relay_seg.rasters import open_raster
from relay_seg.rasters.physical import PIXEL_SLACK, pixel_side
from relay_seg.views import contexts_of

from .balance import class_pixels, conversion_options
from .labels import label_lookup
from .sampling import NUMBERS, draw_scene, seed_words

UNTILED = 2048  # pixels a side, above which files should be tiled
AREAS = 'scene', 'labelled'


@DATASETS.register_module()
class SceneDataset(BaseSegDataset):
    """Scenes of any size with label rasters, in MMSegmentation's layout.

    The files are looked at when the data set is built: a missing label or
    one of another size shows before training, not during it.

    An index below ``len(dataset)`` is a scene. The large numbers that
    :class:`relay_seg.datasets.WindowSampler` gives each stand for a drawn
    sample: it seeds NumPy's generator, which draws a scene, in proportion to
    its area or its share of a class, and then window and augmentation.

    Where ``metainfo`` has a ``pixel_size`` in metres, scenes must have it, so
    that windows are as large as a config says.

    Args:
        img_suffix: End of image names.
        seg_map_suffix: End of label names.
        context_factors: Context factors of the global views that a training
            sample holds, increasing; none for a plain model.
        context_reductions: Reduction of each of them; as large as the
            factors by default.
        class_balanced: Whether drawn samples are of each class alike: a class
            is drawn, a scene in proportion to its pixels of that class, and
            a window around one of them. Needs the ``manifest.json`` that the
            converters in data_prep/ write to ``data_root``.
        area: What of a scene counts in drawing scenes and windows: all of
            the 'scene', or the 'labelled' part (by ``manifest.json``).
        spread: Use so many scenes only, evenly spread over the list; None
            for all. For quick validations.
        conversion: Options that a converter in data_prep/ must have been
            called with (by ``manifest.json``), each with the values that
            will do; others are refused.
        kwargs: Those of the host's ``BaseSegDataset``.
    """

    def __init__(self, img_suffix: str = '.tif', seg_map_suffix: str = '.tif',
                 context_factors: Sequence[int] = (),
                 context_reductions: Sequence[int] | None = None,
                 class_balanced: bool = False, area: str = 'scene',
                 spread: int | None = None,
                 conversion: Mapping[str, Sequence] | None = None,
                 **kwargs) -> None:
        known = signature(BaseSegDataset).parameters.keys()
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            own = signature(SceneDataset).parameters.keys() - {'kwargs'}
            raise ValueError(f'{type(self).__name__} takes no {unknown}; it '
                             f'takes {sorted(own | known)}.')
        if area not in AREAS:
            raise ValueError(f'area={area!r}; use one of {AREAS}.')
        if spread is not None and spread < 1:
            raise ValueError(f'spread={spread}; use 1 scene or more.')
        self.contexts = contexts_of(context_factors, context_reductions)
        self.class_balanced = class_balanced
        self.area = area
        self.spread = spread
        self.conversion = dict(conversion or {})
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def full_init(self) -> None:
        """Load the list of scenes, and what drawing them needs."""
        if self._fully_initialized:
            return
        super().full_init()
        scenes = [self.get_data_info(i) for i in range(len(self))]
        #: Native pixels of each scene, or of its labelled part.
        self.areas = np.array([np.prod(s['scene_shape']) for s in scenes])
        if self.class_balanced or self.area == 'labelled':
            self._class_pixels = class_pixels(
                self.data_root, scenes, scenes[0]['label_lookup'],
                len(self._metainfo['classes']))
        if self.area == 'labelled':
            self.areas = self._class_pixels.sum(1)

    def prepare_data(self, idx: int) -> dict:
        """A scene, or a drawn sample, through the pipeline."""
        if idx < NUMBERS:
            return super().prepare_data(idx)
        np.random.seed(seed_words(idx))
        if not self.class_balanced:
            return super().prepare_data(draw_scene(self.areas))
        counts = self._class_pixels
        wanted = np.random.choice(np.flatnonzero(counts.sum(0)))
        info = self.get_data_info(draw_scene(counts[:, wanted]))
        return self.pipeline(info | dict(wanted_class=int(wanted)))

    def load_data_list(self) -> list[dict]:
        """Scenes with their shapes and the table for their labels.

        Raises:
            FileNotFoundError: The folder or a label is missing.
            ValueError: The split is empty, a file cannot be read, or image
                and label differ in size.
        """
        folder = Path(self.data_prefix['img_path'])
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is no folder; set data_root and data_prefix to '
                'where the images are (see data_prep/).')
        scenes = super().load_data_list()
        if not scenes:
            raise ValueError(
                f'{self.ann_file or folder} names no scene *{self.img_suffix}'
                '; check the split and img_suffix.')
        if self.spread is not None and self.spread < len(scenes):
            chosen = np.arange(self.spread) + 0.5
            scenes = [scenes[i] for i in (
                chosen * len(scenes) / self.spread).astype(int)]
        self._check_conversion()
        lookup = label_lookup(
            len(self._metainfo['classes']), self.label_map,
            self.reduce_zero_label)
        slow = 0
        for scene in scenes:
            scene['scene_shape'], quick = self._look_at(scene)
            slow += not quick
            scene['label_lookup'] = lookup
            scene['contexts'] = self.contexts
            scene['area'] = self.area
        if slow and not self.test_mode:
            MMLogger.get_current_instance().info(
                f'{slow} of {len(scenes)} scenes in {folder} are large, not '
                'tiled: every window decodes much of the file. The '
                'converters in data_prep/ write files that are read faster.')
        return scenes

    def _check_conversion(self) -> None:
        """Were the scenes made with the options that are asked for?"""
        if not self.conversion:
            return
        path, found = conversion_options(self.data_root)
        wrong = {key: found.get(key) for key, good in self.conversion.items()
                 if found.get(key) not in good}
        if wrong:
            options = ' and '.join(
                ' or '.join(f'--{key} {value}' for value in good)
                for key, good in self.conversion.items())
            raise ValueError(
                f'{path} says that the scenes were converted with {wrong}; '
                f'this config needs {options}. Convert them so into another '
                'folder and set data_root to it.')

    def _look_at(self, scene: dict) -> tuple[tuple[int, int], bool]:
        """Shape of a scene, and whether windows of it are read quickly."""
        image, label = scene['img_path'], scene.get('seg_map_path')
        with open_raster(image) as raster:
            shape = raster.shape
            quick = raster.is_tiled or max(shape) < UNTILED
            self._check_pixel_size(image, pixel_side(raster))
        if label is None:
            return shape, quick
        if not Path(label).exists():
            raise FileNotFoundError(
                f'{image} has no label: {label} does not exist; add it, or '
                'take the image out of the split.')
        with open_raster(label) as raster:
            if raster.shape != shape:
                raise ValueError(
                    f'{label} has {raster.shape[0]} x {raster.shape[1]} '
                    f'pixels but {image} has {shape[0]} x {shape[1]}; they '
                    'must be alike.')
            if raster.count != 1:
                raise ValueError(
                    f'{label} has {raster.count} bands; a label has one band '
                    'of class ids. Convert colours with data_prep/.')
        return shape, quick

    def _check_pixel_size(self, image: str, found: float | None) -> None:
        wanted = self._metainfo.get('pixel_size')
        if not wanted or not found:
            return
        if abs(found / wanted - 1) > PIXEL_SLACK:
            raise ValueError(
                f'{image} has pixels of {found:g} m, the data set says '
                f'{wanted:g} m: a window of 256 pixels would show '
                f'{256 * found:g} m and not {256 * wanted:g} m. Resample the '
                'scene, or set metainfo=dict(pixel_size=...) of the data set '
                'and choose the window again.')
