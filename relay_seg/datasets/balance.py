"""Where the classes are, for samples of each class alike."""
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from relay_seg.rasters import open_raster

COARSE = 16  # native pixels for each looked at, in each direction


def class_pixels(data_root: str | None, scenes: Sequence[dict],
                 num_classes: int) -> np.ndarray:
    """Pixels of each class in each scene, from a converter's manifest.

    Args:
        data_root: Folder with ``manifest.json``.
        scenes: Scenes with their ``img_path``.
        num_classes: C.

    Returns:
        (number of scenes, C).

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: It does not know a scene, or has other classes.
    """
    path = Path(data_root or '.') / 'manifest.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist; class_balanced needs what a converter in '
            'data_prep/ writes there. Convert the data, or set it to False.')
    records = json.loads(path.read_text())['scenes']
    known = {(path.parent / r['image']['path']).resolve(): r['class_pixels']
             for r in records}
    counts = []
    for scene in scenes:
        found = known.get(Path(scene['img_path']).resolve())
        if found is None or len(found) != num_classes:
            raise ValueError(
                f'{path} does not hold {num_classes} classes of '
                f'{scene["img_path"]}; convert again.')
        counts.append(found)
    return np.array(counts)


@lru_cache(maxsize=512)
def class_places(path: str, id_in_file: int) -> np.ndarray:
    """Native places (row, column) of a class in a label, one in 16 x 16.

    Args:
        path: Label file; its overviews are used where it has them.
        id_in_file: Class id in the file.

    Returns:
        (N, 2) int; a class of few pixels may be missed.
    """
    with open_raster(path) as raster:
        shape = tuple(-(-side // COARSE) for side in raster.shape)
        label = raster.read(1, out_shape=shape)
        scale = np.array(raster.shape) / shape
    return ((np.argwhere(label == id_in_file) + 0.5) * scale).astype(int)
