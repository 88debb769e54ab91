"""Aerial scenes of Dubai, each of 3 x 3 parts."""
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from relay_seg.datasets import classes

from .writing import JPEG, write_image, write_label

#: The scenes in data_prep/sample/dubai, chosen for size and mix of classes.
SAMPLE = {2: 'train', 3: 'train', 6: 'train', 1: 'test'}
PARTS = 3  # in each direction


def stitch(parts: list[np.ndarray]) -> np.ndarray:
    """Join 3 x 3 parts (H, W, ...), cut to the smallest of row and column."""
    grid = [parts[i:i + PARTS] for i in range(0, PARTS**2, PARTS)]
    rows = []
    for row in grid:
        height = min(part.shape[0] for part in row)
        rows.append(np.concatenate([part[:height] for part in row], axis=1))
    width = min(row.shape[1] for row in rows)
    return np.concatenate([row[:, :width] for row in rows])


def read_scene(raw: Path, scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (3, H, W) and label (H, W) of one scene.

    Raises:
        FileNotFoundError: A part is missing.
    """
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for part in range(1, PARTS**2 + 1):
        name = f'tile{scene}_part{part:03d}'
        for folder, suffix, mode, out in (('images', 'jpg', 'RGB', images),
                                          ('masks', 'png', 'L', labels)):
            path = raw / folder / f'{name}.{suffix}'
            if not path.exists():
                raise FileNotFoundError(
                    f'{path} does not exist; RAW_FOLDER must hold images/ '
                    'and masks/ with nine parts of each scene.')
            try:
                with Image.open(path) as tile:
                    out.append(np.asarray(tile.convert(mode)))
            except OSError as error:
                raise ValueError(f'{path} cannot be read ({error}); download '
                                 'it again.') from error
    image, label = stitch(images), stitch(labels)
    height, width = np.minimum(image.shape[:2], label.shape)
    return image[:height, :width].transpose(2, 0, 1), label[:height, :width]


def stitch_sample(raw: Path, out: Path) -> None:
    """Stitch the scenes of the sample."""
    for scene, split in track_iter_progress(list(SAMPLE.items())):
        image, label = read_scene(raw, scene)
        name = f'scene{scene}.tif'
        write_image(out / 'img_dir' / split / name, image, **JPEG)
        write_label(out / 'ann_dir' / split / name, label,
                    classes.DUBAI['palette'])
