"""Archaeoscape: parcels with elevation and polygons."""
from pathlib import Path

import numpy as np
import shapely

from relay_seg.class_ids import IGNORE
from relay_seg.datasets import classes
from relay_seg.rasters.vectors import check_overlap, faults, read_vectors

from .command import Conversion, Converter
from .parcels import Kinds, kinds_of, open_parcel
from .running import Task

METAINFO = classes.ARCHAEOSCAPE
CLASSES = METAINFO['classes']
LAST_TRAIN, LAST_VAL, LAST_TEST = 16, 19, 23
NAME_COLUMNS = ('index', 'name')
#: Later kinds lie over earlier ones: temples stand on mounds, mounds rise
#: from water, and what nobody could interpret hides everything.
KINDS = Kinds(
    column=('type', 'kind', 'class', 'label'),
    values={
        'hydrology': CLASSES.index('water'),
        'mound': CLASSES.index('mound'),
        'temple': CLASSES.index('temple_site'),
        'void': IGNORE,
    },
    background=CLASSES.index('background'))


def split_of(name: str) -> str:
    """Parcels 01 to 16 train, 17 to 19 validate, 20 to 23 test.

    Raises:
        ValueError: The name is not one of the data set.
    """
    number = name.split('_')[0]
    if number.isdigit() and 1 <= int(number) <= LAST_TEST:
        if int(number) <= LAST_TRAIN:
            return 'train'
        return 'val' if int(number) <= LAST_VAL else 'test'
    raise ValueError(f'{name!r} is not named like 01_olinda, with a number '
                     f'from 01 to {LAST_TEST}; rename or remove it.')


def plan(raw: Path, repair: bool) -> Conversion:
    """Parcels of a raw folder."""
    root = next((folder for folder in (raw, raw / 'data')
                 if (folder / 'parcels.gpkg').exists()), None)
    if root is None:
        raise FileNotFoundError(
            f'{raw} is not Archaeoscape; looked for parcels.gpkg there and '
            'in data/. Give the folder of the unpacked download.')
    rasters = next((folder for folder in (root / 'rasters', raw / 'rasters')
                    if (folder / 'rgb').is_dir()), None)
    if rasters is None:
        raise FileNotFoundError(
            f'{raw} has no rasters; looked for {root}/rasters/rgb/ and '
            f'{root}/rasters/dtm/. Complete the download.')
    paths = outlines_path, features_path = (
        root / 'parcels.gpkg', root / 'features.gpkg')
    outlines, features = map(read_vectors, paths)
    kinds_of(features, KINDS)
    column = next((name for name in NAME_COLUMNS
                   if name in outlines.columns), None)
    if column is None:
        raise ValueError(
            f'{outlines_path} has the attributes {list(outlines.columns)}; '
            f'one of {list(NAME_COLUMNS)} is expected to hold the name.')
    tasks, problems = [], []
    for name in sorted(set(outlines.columns[column].astype(str))):
        try:
            split = split_of(name)
        except ValueError as error:
            problems.append(f'{outlines_path}: {error}')
            continue
        rgb, dtm = (rasters / kind / f'{name}.tif' for kind in ('rgb', 'dtm'))
        tasks.append(Task(
            name, split, (rgb, dtm, *paths), open_parcel,
            options=dict(name=name, name_column=column, kinds=KINDS,
                         repair=repair)))
    check_overlap(features, [task.sources[0] for task in tasks])
    empty = np.flatnonzero(
        shapely.is_missing(features.shapes) | shapely.is_empty(
            features.shapes))
    if empty.size and not repair:
        problems.append(
            f'{features_path}: {"; ".join(faults(features, empty))}, so where'
            ' it belongs cannot be known. Use --repair to leave it out.')
    return Conversion(tasks, problems)


CONVERTER = Converter(
    'archaeoscape', CLASSES, METAINFO['palette'], plan,
    published=dict(train=LAST_TRAIN, val=LAST_VAL - LAST_TRAIN,
                   test=LAST_TEST - LAST_VAL))
