"""Real scenes in MMSegmentation's layout, with splits as lists of names.

Aerial scenes of Dubai (data_prep/sample/README.md says where they are from)
and Carrot-Weed (Lameski et al., 2017), field photographs of soil and of two
kinds of plants that look alike up close.
"""
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from relay_seg.converting.dubai import read_scene
from relay_seg.converting.writing import write_image, write_label
from relay_seg.datasets import DubaiDataset
from relay_seg.rasters.files import write_text
from relay_seg.views import area_mean


@dataclass(frozen=True)
class Task:
    """What is trained on and tested on.

    Args:
        data: Folder of the data set below the work dir.
        classes: Names.
        palette: Colours.
        splits: Names of scenes in 'train', 'val' and 'test'. Learning rates
            are searched on 'val'.
        words: The splits in words, for the report.
    """

    data: str
    classes: tuple[str, ...]
    palette: list[list[int]]
    splits: dict[str, tuple[str, ...]]
    words: str


CARROT_CLASSES = 'soil', 'plant 1', 'plant 2'
CARROT_PALETTE = [[90, 70, 50], [255, 140, 0], [60, 200, 80]]
#: Consecutive shots of a field: neighbours overlap, so blocks are contiguous.
SHOTS = tuple(f'IMG_{i}' for i in range(3438, 3477))

TASKS = {
    'carrot first': Task(
        'carrot_weed', CARROT_CLASSES, CARROT_PALETTE,
        dict(train=SHOTS[:20], val=SHOTS[20:26], test=SHOTS[26:]),
        'trained on the first 26 shots, tested on the last 13; learning rates '
        'are searched with the last 6 of the 26'),
    'carrot last': Task(
        'carrot_weed', CARROT_CLASSES, CARROT_PALETTE,
        dict(train=SHOTS[19:], val=SHOTS[13:19], test=SHOTS[:13]),
        'trained on the last 26 shots, tested on the first 13'),
    'dubai': Task(
        'dubai', DubaiDataset.METAINFO['classes'],
        DubaiDataset.METAINFO['palette'],
        dict(train=tuple(f'scene{i}' for i in (4, 5, 6, 7, 8)),
             val=('scene2', ), test=('scene1', 'scene3')),
        'trained on scenes 2 and 4 to 8, tested on 1 and 3'),
}


def carrot_scenes(raw: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (3, H, W) and label (H, W) of each photograph."""
    for name in track_iter_progress(list(SHOTS)):
        image, label = raw / f'images/{name}.jpg', raw / f'masks/{name}.png'
        for path in (image, label):
            if not path.is_file():
                raise FileNotFoundError(
                    f'{path} does not exist; give the folder of Carrot-Weed '
                    'that holds images/ and masks/ (ids 0, 1, 2).')
        with Image.open(image) as x, Image.open(label) as y:
            yield name, np.asarray(x.convert('RGB')).transpose(
                2, 0, 1), np.asarray(y)


def dubai_scenes(raw: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (3, H, W) and label (H, W) of each stitched scene."""
    for number in track_iter_progress(list(range(1, 9))):
        yield f'scene{number}', *read_scene(raw, number)


READERS = {'carrot_weed': carrot_scenes, 'dubai': dubai_scenes}


def prepare(data: str, raw: Path, out: Path, reduce: int) -> Path:
    """Write the scenes of a data set, unless they are there.

    Args:
        data: 'carrot_weed' or 'dubai'.
        raw: Folder of the download.
        out: Folder to write to.
        reduce: Reduce by this factor: area means of images, and every
            n-th pixel of labels.

    Returns:
        The data root.
    """
    root = out / f'{data}_{reduce}'
    done = root / 'manifest.json'
    if done.exists():
        return root
    tasks = [task for task in TASKS.values() if task.data == data]
    records, sums, count = [], np.zeros((2, 3)), 0
    for name, image, label in READERS[data](raw):
        image = area_mean(image[:, :image.shape[1] // reduce * reduce,
                                :image.shape[2] // reduce * reduce], reduce)
        image = image.round().clip(0, 255).astype(np.uint8)
        at = reduce // 2
        label = label[at::reduce, at::reduce]
        label = label[:image.shape[1], :image.shape[2]]
        write_image(root / 'img_dir' / f'{name}.tif', image)
        write_label(root / 'ann_dir' / f'{name}.tif', label, tasks[0].palette)
        counts = np.bincount(label.ravel(), minlength=256)
        records.append(dict(
            image=dict(path=f'img_dir/{name}.tif'),
            class_pixels=counts[:len(tasks[0].classes)].tolist()))
        pixels = image.reshape(3, -1).astype(np.float64)
        sums += pixels.sum(1), (pixels**2).sum(1)
        count += pixels.shape[1]
    mean = sums[0] / count
    std = np.sqrt(sums[1] / count - mean**2)
    write_text(done, json.dumps(dict(
        scenes=records, mean=mean.round(1).tolist(),
        std=std.round(1).tolist())))
    return root
