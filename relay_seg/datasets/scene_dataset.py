from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from relay_seg.rasters import open_raster

from .labels import label_lookup


@DATASETS.register_module()
class SceneDataset(BaseSegDataset):
    """Scenes of any size with label rasters, in MMSegmentation's layout.

    The files are looked at when the data set is built: a missing label or
    one of another size shows before training, not during it.

    Args:
        img_suffix: End of image names.
        seg_map_suffix: End of label names.
        context_factors: Context factors of the global views that a training
            sample holds, increasing; none for a plain model.
        kwargs: Those of the host's ``BaseSegDataset``.
    """

    def __init__(self, img_suffix: str = '.tif', seg_map_suffix: str = '.tif',
                 context_factors: Sequence[int] = (), **kwargs) -> None:
        self.context_factors = tuple(context_factors)
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

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
        lookup = label_lookup(
            len(self._metainfo['classes']), self.label_map,
            self.reduce_zero_label)
        for scene in scenes:
            scene['scene_shape'] = self._shape(scene)
            scene['label_lookup'] = lookup
            scene['context_factors'] = self.context_factors
        return scenes

    @staticmethod
    def _shape(scene: dict) -> tuple[int, int]:
        image, label = scene['img_path'], scene.get('seg_map_path')
        with open_raster(image) as raster:
            shape = raster.shape
        if label is None:
            return shape
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
        return shape
