"""Where classes and labels are, and what a converter counted of them."""
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import open_raster

from .labels import UNKNOWN, as_ids, map_labels

if TYPE_CHECKING:
    from .scene_dataset import SceneDataset

COARSE = 16  # native pixels for each looked at, in each direction
LOOKED_AT = 10**9  # pixels of labels that are read before a training, at most


def read_manifest(data_root: str | None) -> tuple[Path, dict]:
    """Path and content of a converter's manifest.

    Args:
        data_root: Folder with ``manifest.json``.

    Raises:
        FileNotFoundError: There is no manifest.
    """
    path = Path(data_root or '.') / 'manifest.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist; class_balanced, area, conversion and '
            'band_statistics need what a converter in data_prep/ writes '
            'there. Convert the data, or leave them out.')
    return path, json.loads(path.read_text())


def conversion_options(data_root: str | None) -> tuple[Path, dict]:
    """The manifest's path, and what its converter was called with."""
    path, manifest = read_manifest(data_root)
    return path, manifest.get('options') or {}


def band_statistics(data_root: str | None,
                    splits: Sequence[str]) -> list[tuple[float, float]]:
    """Mean and deviation of each band over scenes, by their valid pixels.

    The deviation is that within scenes: scenes of unlike brightness do not
    raise it (as in the authors' code).

    Args:
        data_root: Folder with ``manifest.json``.
        splits: Splits whose scenes count.
    """
    path, manifest = read_manifest(data_root)
    scenes = [r for r in manifest['scenes'] if r['split'] in splits]
    if not scenes:
        raise ValueError(f'{path} has no scene of {list(splits)}.')
    found = []
    for band in zip(*(scene['bands'] for scene in scenes)):
        mean, std, count = (np.array([scene[key] for scene in band])
                            for key in ('mean', 'std', 'valid'))
        weights = count / max(count.sum(), 1)
        found.append((float(weights @ mean), float((weights @ std**2)**0.5)))
    return found


def class_pixels(data_root: str | None, scenes: Sequence[dict],
                 lookup: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of each class in each scene, from a converter's manifest.

    Args:
        data_root: Folder with ``manifest.json``, which counts ids in files.
        scenes: Scenes with their ``img_path``.
        lookup: See :func:`relay_seg.datasets.labels.label_lookup`.
        num_classes: C of the model.

    Returns:
        (number of scenes, C).

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: It does not know a scene, or has other classes.
    """
    path, manifest = read_manifest(data_root)
    known = {(path.parent / r['image']['path']).resolve(): r['class_pixels']
             for r in manifest['scenes']}
    most = np.flatnonzero(lookup[:IGNORE] != UNKNOWN)[-1]  # id in a file
    counts = np.zeros((len(scenes), num_classes), np.int64)
    for row, scene in zip(counts, scenes):
        found = known.get(Path(scene['img_path']).resolve())
        if found is None or len(found) != most + 1:
            raise ValueError(
                f'{path} does not hold {most + 1} classes of '
                f'{scene["img_path"]}; convert again.')
        for class_id, pixels in zip(lookup, found):
            if class_id not in (IGNORE, UNKNOWN):
                row[class_id] += pixels
    return counts


def pixels_of_classes(dataset: 'SceneDataset') -> np.ndarray | None:
    """Pixels of each class in the labels of a data set.

    Of the manifest if it knows the scenes, else one of 16 x 16 pixels.

    Returns:
        (C, ), or None where the labels are too many to look at.
    """
    scenes = [dataset.get_data_info(i) for i in range(len(dataset))]
    lookup = scenes[0]['label_lookup']
    num_classes = len(dataset.metainfo['classes'])
    try:
        return class_pixels(
            dataset.data_root, scenes, lookup, num_classes).sum(0)
    except (FileNotFoundError, ValueError, KeyError):
        if sum(np.prod(s['scene_shape']) for s in scenes) > LOOKED_AT:
            return None
    counts = np.zeros(256, np.int64)
    for scene in scenes:
        label, _ = _coarse_label(scene['seg_map_path'])
        counts += np.bincount(map_labels(
            label, lookup, scene['seg_map_path']).ravel(), minlength=256)
    return counts[:num_classes]


@lru_cache(maxsize=512)
def class_places(path: str, id_in_file: int) -> np.ndarray:
    """Native places (row, column) of a class in a label, one in 16 x 16.

    Args:
        path: Label file; its overviews are used where it has them.
        id_in_file: Class id in the file.

    Returns:
        (N, 2) int; a class of few pixels may be missed.
    """
    label, shape = _coarse_label(path)
    scale = np.array(shape) / label.shape
    return ((np.argwhere(label == id_in_file) + 0.5) * scale).astype(int)


def labelled_places(path: str, lookup: np.ndarray) -> np.ndarray:
    """Where a label is not ignored, in cells of 16 x 16 native pixels.

    Args:
        path: Label file; its overviews are used where it has them.
        lookup: See :func:`relay_seg.datasets.labels.label_lookup`.

    Returns:
        (H, W) bool, by the pixel in the middle of each cell.
    """
    label, _ = _coarse_label(path)
    return lookup[label] != IGNORE


@lru_cache(maxsize=512)
def _coarse_label(path: str) -> tuple[np.ndarray, tuple[int, int]]:
    """A label reduced by 16, uint8, and the shape of the file."""
    with open_raster(path) as raster:
        shape = tuple(-(-side // COARSE) for side in raster.shape)
        label = raster.read(1, out_shape=shape)
        return as_ids(label, path), raster.shape
