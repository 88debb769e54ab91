"""Cityscapes: labels by id, val parted by city."""
from contextlib import AbstractContextManager
from pathlib import Path

from relay_seg.class_ids import IGNORE
from relay_seg.datasets import classes

from .command import Conversion, Converter
from .folders import files_by_stem, find_folder, pair
from .labels import open_ids
from .running import Task
from .scenes import Pair, open_pair

METAINFO = classes.CITYSCAPES
CLASSES = METAINFO['classes']
IMAGE_ENDING, LABEL_ENDING = '_leftImg8bit', '_gtFine_labelIds'
#: Official splits with public labels. Those of test are blank.
LABELLED = ('train', 'val')
#: Lists of val images, by the cities that they show.
LISTS = {'frankfurt.txt': ('frankfurt', ),
         'lindau_munster.txt': ('lindau', 'munster')}
#: Ids in the files, 0 to 33; those without a class are not evaluated.
CLASS_OF_ID = {
    7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence',
    17: 'pole', 19: 'traffic light', 20: 'traffic sign', 21: 'vegetation',
    22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car',
    27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
}
IDS = {i: CLASSES.index(CLASS_OF_ID[i]) if i in CLASS_OF_ID else IGNORE
       for i in range(34)}


def city_of(name: str) -> str:
    """City of a scene: what its name begins with."""
    return name.split('_')[0]


def open_scene(image: Path, label: Path,
               trim: bool) -> AbstractContextManager[Pair]:
    """Open an image and its label."""
    return open_pair(image, open_ids(label, IDS), trim)


def plan(raw: Path, trim: bool) -> Conversion:
    """Scenes of a raw folder."""
    images, labels = (find_folder(raw, [f'{name}_trainvaltest/{name}', name])
                      for name in ('leftImg8bit', 'gtFine'))
    if images is None or labels is None:
        raise FileNotFoundError(
            f'{raw} is not Cityscapes; looked for leftImg8bit/ and gtFine/. '
            'Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip '
            'there.')
    tasks, problems = [], []
    for split in LABELLED:
        for city in sorted((images / split).glob('*/')):
            where = labels / split / city.name
            pairs, alone = pair(
                files_by_stem(city, ['.png'], IMAGE_ENDING),
                files_by_stem(where, ['.png'], LABEL_ENDING), where)
            problems += alone
            tasks += [Task(name, split, (image, label), open_scene,
                       dict(trim=trim))
                      for name, image, label in pairs]
    if not tasks:
        raise FileNotFoundError(
            f'{raw} holds no labelled scene; looked for {images}/train/CITY/'
            f'*{IMAGE_ENDING}.png and {labels}/train/CITY/*{LABEL_ENDING}.png'
            '. Unpack both archives there.')
    return Conversion(tasks, problems, {
        name: [task.name for task in tasks
               if task.split == 'val' and city_of(task.name) in cities]
        for name, cities in LISTS.items()})


CONVERTER = Converter(
    'cityscapes', CLASSES, METAINFO['palette'], plan,
    published=dict(train=2975, val=500))
