"""URUR: labels by colour, in one of two tables."""
from contextlib import AbstractContextManager
from pathlib import Path

from relay_seg.class_ids import IGNORE
from relay_seg.datasets import classes

from .command import Conversion, Converter
from .folders import files_by_stem, pair
from .labels import open_colours
from .manifest import SPLITS
from .running import Task
from .scenes import Pair, open_pair

METAINFO = classes.URUR
CLASSES = METAINFO['classes']
IMAGES, LABELS = ('.tif', '.tiff', '.png'), ('.png', '.tif', '.tiff')
#: Colours of the labels in circulation. A file uses one of the tables; what
#: they share, black, means the same in both.
TABLES = {
    'published': {
        (0, 0, 0): CLASSES.index('others'),
        (230, 230, 230): CLASSES.index('building'),
        (100, 100, 100): CLASSES.index('greenhouse'),
        (200, 230, 160): CLASSES.index('woodland'),
        (95, 163, 7): CLASSES.index('farmland'),
        (255, 255, 100): CLASSES.index('bareland'),
        (150, 200, 250): CLASSES.index('water'),
        (240, 100, 80): CLASSES.index('road'),
        (255, 255, 255): IGNORE,
    },
    'saturated': {
        (0, 0, 0): CLASSES.index('others'),
        (255, 0, 0): CLASSES.index('building'),
        (0, 255, 0): CLASSES.index('farmland'),
        (0, 255, 255): CLASSES.index('greenhouse'),
        (255, 255, 0): CLASSES.index('woodland'),
        (0, 0, 255): CLASSES.index('bareland'),
        (255, 0, 255): CLASSES.index('water'),
        (123, 123, 123): CLASSES.index('road'),
    },
}


def open_scene(image: Path, label: Path,
               trim: bool) -> AbstractContextManager[Pair]:
    """Open an image and its label."""
    return open_pair(image, open_colours(label, TABLES), trim)


def plan(raw: Path, trim: bool) -> Conversion:
    """Scenes of a raw folder."""
    tasks, problems = [], []
    for split in SPLITS:
        folders = [raw / split / name for name in ('image', 'label')]
        if not all(folder.is_dir() for folder in folders):
            continue
        pairs, alone = pair(files_by_stem(folders[0], IMAGES),
                            files_by_stem(folders[1], LABELS), folders[1])
        problems += alone
        tasks += [Task(name, split, (image, label), open_scene,
                       dict(trim=trim))
                  for name, image, label in pairs]
    if not tasks:
        raise FileNotFoundError(
            f'{raw} holds no scene of URUR; looked for '
            f'{{{",".join(SPLITS)}}}/image/*.{{tif,png}} with a label of the '
            'same name in label/. Give the folder that holds train/.')
    return Conversion(tasks, problems)


CONVERTER = Converter(
    'urur', CLASSES, METAINFO['palette'], plan,
    published=dict(train=2157, val=280, test=571))
