"""Gleason 2019: maps of pathologists, alone or by majority."""
import re
from contextlib import AbstractContextManager
from pathlib import Path

from relay_seg.class_ids import IGNORE
from relay_seg.datasets import classes

from .command import Conversion, Converter
from .folders import files_by_stem, find_folder, pair
from .labels import open_ids
from .running import Task
from .scenes import Pair, open_pair
from .votes import open_votes

METAINFO = classes.GLEASON
CLASSES = METAINFO['classes']
NAME = re.compile(r'slide(\d+)_core(\d+)')
MAP_ENDING = '_classimg_nonconvex'
EXPERTS = range(1, 7)
#: Who votes in the authors' code, and who has two votes there.
RELEASED_EXPERTS, RELEASED_TWICE = range(1, 6), 'Maps5_T'
TEST_SLIDE, LAST_VAL_CORE = 7, 15
#: Grades in the maps. 0 lies outside of what a pathologist looked at.
OUTSIDE = 0
GRADES = {1: 'benign', 2: 'benign', 6: 'benign', 3: 'gleason_3',
          4: 'gleason_4', 5: 'gleason_5'}
ZERO = {'benign': CLASSES.index('benign'), 'ignore': IGNORE}


def split_of(name: str) -> str:
    """Slide 7 tests, cores up to 15 of the other slides validate.

    Raises:
        ValueError: The name is not one of the challenge.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f'{name!r} is not named like slide001_core003; '
                         'rename or remove it.')
    slide, core = (int(number) for number in match.groups())
    if slide == TEST_SLIDE:
        return 'test'
    return 'val' if core <= LAST_VAL_CORE else 'train'


def class_ids(zero: str) -> dict[int, int]:
    """Class id of each grade; ``zero`` is what 0 becomes."""
    return {OUTSIDE: ZERO[zero],
            **{grade: CLASSES.index(name) for grade, name in GRADES.items()}}


def open_core(image: Path, *maps: Path, zero: str, trim: bool,
              votes: str) -> AbstractContextManager[Pair]:
    """Open a core with one map of a majority, or those of pathologists."""
    ids = class_ids(zero)
    if maps[0].parent.name == 'Maps_majority':
        return open_pair(image, open_ids(maps[0], ids), trim)
    if votes != 'released':
        return open_pair(image, open_votes(image, maps, ids), trim)
    return open_pair(image, open_votes(
        image, [*maps, *votes_twice(*maps)], ids, raw=True), trim)


def votes_twice(*maps: Path) -> list[Path]:
    """Those of the maps that have two votes in the authors' code."""
    return [path for path in maps if path.parent.name == RELEASED_TWICE]


def map_folders(raw: Path, votes: str) -> tuple[list[Path], list[str]]:
    """Folders whose maps make the labels, and what to know about them.

    Raises:
        FileNotFoundError: Only others are there.
    """
    majority = find_folder(raw, ['Maps_majority'])
    experts = {i: folder for i in EXPERTS
               if (folder := find_folder(raw, [f'Maps{i}_T']))}
    if votes == 'majority' and not majority:
        raise FileNotFoundError(
            f'{raw} holds no Maps_majority/, which --votes majority takes. '
            'Unpack it there, or count the maps of the pathologists with '
            '--votes released.')
    if majority and votes != 'released':
        remarks = [] if votes == 'majority' else [
            f'{majority} is taken as it is, and nobody votes. --votes '
            'majority says so in the manifest, which released configs ask '
            'for.']
        return [majority], remarks
    if votes == 'classes':
        return list(experts.values()), []
    counted = [experts[i] for i in RELEASED_EXPERTS if i in experts]
    if not counted and (majority or experts):
        raise FileNotFoundError(
            f'{raw} holds no Maps1_T/ to Maps5_T/, which --votes released '
            'counts. Unpack them there, or use --votes majority: '
            "Maps_majority/ is then taken as it is, and one that the authors' "
            'notebook made holds the released votes.')
    return counted, [f'{majority} is left alone: --votes released counts the '
                     'maps of the pathologists.'] if majority else []


def plan(raw: Path, zero: str, trim: bool, votes: str) -> Conversion:
    """Cores of a raw folder."""
    images = find_folder(raw, ['Train Imgs', 'Train_Imgs', 'Train_imgs'])
    folders, remarks = map_folders(raw, votes)
    if images is None or not folders:
        raise FileNotFoundError(
            f"{raw} is not Gleason 2019; looked for 'Train Imgs'/ and "
            'Maps_majority/ or Maps1_T/ to Maps6_T/. Unpack the archives '
            'there.')
    cores = files_by_stem(images, ['.jpg', '.jpeg'])
    voters = [files_by_stem(folder, ['.png'], MAP_ENDING)
              for folder in folders]
    known = {name: maps[name] for maps in voters for name in maps}
    pairs, problems = pair(
        cores, known, folders[0] if len(folders) == 1 else folders[0].parent)
    tasks = []
    for name, image, _ in pairs:
        try:
            split = split_of(name)
        except ValueError as error:
            problems.append(f'{image}: {error}')
            continue
        maps = [maps[name] for maps in voters if name in maps]
        tasks.append(Task(name, split, (image, *maps), open_core,
                          options=dict(zero=zero, trim=trim, votes=votes)))
    if not tasks:
        raise FileNotFoundError(
            f'{raw} holds no core with a map; looked for {images}/'
            f'slideNNN_coreNNN.jpg and slideNNN_coreNNN{MAP_ENDING}.png.')
    once = [task.name for task in tasks if not votes_twice(*task.sources)]
    if votes == 'released' and once:
        remarks.append(
            f'{len(once)} core(s), e.g. {once[0]}, have no map in '
            f'{RELEASED_TWICE}/, which counts twice; the other maps decide.')
    return Conversion(tasks, problems, remarks=remarks)


CONVERTER = Converter(
    'gleason', CLASSES, METAINFO['palette'], plan)
