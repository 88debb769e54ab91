"""Which label belongs to which image, by their names."""
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from relay_seg.rasters import SUFFIXES

#: Words in names of labels.
LABEL_WORDS = frozenset(
    'mask masks label labels labeled labelled annotation annotations annot '
    'ann anno gt seg segmentation segmentations truth groundtruth'.split())
SPLIT_WORDS = dict(
    train='train', training='train', val='val', valid='val',
    validation='val', dev='val', test='test', testing='test')
LOSSY = '.jpg', '.jpeg'
#: So many names stand in a message.
SHOWN = 5

Key = Callable[[Path], Hashable]


@dataclass(frozen=True)
class Pairs:
    """Images and their labels.

    Args:
        labels: Label of each image that has one, in order.
        how: How they were found, with an example.
        sure: Whether their names say so without doubt.
        problems: What stands alone or is not clear, and what to do.
        names: What an image shares with its label, where that is less than
            its name.
    """

    labels: Mapping[Path, Path]
    how: str
    sure: bool
    problems: Sequence[str]
    names: Mapping[Path, str]


def files_below(folder: Path, without: Iterable[Path]) -> list[Path]:
    """Images of a folder and of those in it, also where links lead.

    Args:
        folder: The folder.
        without: Folders in it that are left out.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder; correct the path.')
    left_out = {os.path.realpath(path) for path in without}
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder that it lies in has no end.
        around = os.path.join(os.path.realpath(place), '')
        folders[:] = [name for name in folders if not name.startswith('.')
                      and (real := os.path.realpath(Path(place, name)))
                      not in left_out
                      and not around.startswith(os.path.join(real, ''))]
        found += [Path(place, name) for name in files
                  if not name.startswith('.')
                  and Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)


def split_of(path: Path, folder: Path) -> str | None:
    """The split that a folder on the way to a file names."""
    for part in path.relative_to(folder).parts[:-1]:
        if part.casefold() in SPLIT_WORDS:
            return SPLIT_WORDS[part.casefold()]
    return None


def find_pairs(raw: Path, labels: Path | None, out: Path,
               image_names: str | None, label_names: str | None) -> Pairs:
    """Pairs in two folders, or in one.

    Args:
        raw: Folder of images.
        labels: Folder of labels; None for that of the images.
        out: Folder that is written; what lies in it is neither.
        image_names: Pattern of their names; what ``*`` stands for is alike
            in image and label. With ``/`` it is one of paths.
        label_names: That of labels.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There is no image, no label, or no pair.
    """
    where = labels or raw
    together = os.path.realpath(where) == os.path.realpath(raw)
    masks = files_below(where, [out] if together else [out, raw])
    images = masks if together else files_below(raw, [out, where])
    if not images:
        raise ValueError(f'{raw} holds no raster to convert; looked for '
                         f'{" ".join(sorted(SUFFIXES))}.')
    if image_names:
        images = _fitting(images, image_names, raw, '--image-names')
    if label_names:
        masks = _fitting(masks, label_names, where, '--label-names')
    elif together:
        masks = _masks_among(
            sorted({*masks} - {*images}) if image_names else masks, raw)
    taken = {*masks}
    images = [path for path in images if path not in taken]
    if not masks or not images:
        none, folder = ('label', where) if not masks else ('image', raw)
        raise ValueError(f'{folder} holds no {none}; looked for '
                         f'{" ".join(sorted(SUFFIXES))}.')
    return _paired(images, masks, raw, where, image_names, label_names)


def _paired(images: Sequence[Path], masks: Sequence[Path], raw: Path,
            where: Path, image_names: str | None,
            label_names: str | None) -> Pairs:
    """The way of pairing that gives most pairs."""
    def both(ways: Callable[[Path, str], Hashable]) -> tuple[Key, Key]:
        return (lambda path: ways(path.relative_to(raw), image_names or '*'),
                lambda path: ways(path.relative_to(where), label_names or '*'))

    if image_names or label_names:
        ways = [('by the patterns', True, both(lambda path, pattern: (
                    path.parent, *(_stars(path, pattern) or ())))),
                ('by the patterns', True, both(_stars))]
    else:
        ways = [
            ('of one name', True, both(lambda path, _: path.with_suffix(''))),
            ('of one name', True, both(lambda path, _: path.stem)),
            ('by words that all images or all labels have', False,
             _word_keys(images, masks, raw, where)),
            ('by words that all images or all labels have', False,
             _word_keys(images, masks, None, None))]
    best: tuple[str, bool, dict, dict] | None = None
    most = 0, 0
    for how, sure, (of_image, of_mask) in ways:
        keyed = _grouped(images, of_image), _grouped(masks, of_mask)
        shared = keyed[0].keys() & keyed[1].keys()
        count = sum(len(keyed[0][key]) == len(keyed[1][key]) == 1
                    for key in shared), len(shared)
        if count > most:
            best, most = (how, sure, *keyed), count
    if best is None:
        raise ValueError(
            f'no image of {raw} has a label in {where}: images are named '
            f'such as {_some(images, raw)}, labels such as '
            f'{_some(masks, where)}. Say what is alike with --image-names '
            "and --label-names, such as '*_image.png' and '*_mask.png'.")
    how, sure, by_key, masks_by_key = best
    pairs, names, unclear = {}, {}, []
    for key, some in by_key.items():
        labels = masks_by_key.get(key, [])
        if len(some) == len(labels) == 1:
            pairs[some[0]] = labels[0]
            if isinstance(key, tuple):
                names[some[0]] = '_'.join(
                    word for word in key if isinstance(word, str))
        elif labels:
            unclear.append(f'{_some(some, raw)} and {_some(labels, where)}')
    problems = []
    if unclear:
        more = f' and {len(unclear) - SHOWN} more' * (len(unclear) > SHOWN)
        problems.append(
            f'{len(unclear)} image(s) and label(s) are not one to one: '
            f'{"; ".join(unclear[:SHOWN])}{more}. Choose with --image-names '
            "and --label-names, such as 'masks/*.png', or remove some.")
    for what, other, alone, options, folder in (
            ('image', 'label', [
                path for key, some in by_key.items()
                if key not in masks_by_key for path in some], masks, raw),
            ('label', 'image', [
                path for key, some in masks_by_key.items()
                if key not in by_key for path in some], images, where)):
        if alone:
            told = ', '.join(_with_nearest(path, options, folder)
                             for path in alone[:SHOWN])
            more = f' and {len(alone) - SHOWN} more' * (len(alone) > SHOWN)
            problems.append(
                f'{len(alone)} {what}(s) of {folder} have no {other}: {told}'
                f'{more}. Complete the raw folder, or use --leave-out.')
    if not pairs:
        raise ValueError('\n'.join(problems))
    image, label = next(iter(pairs.items()))
    return Pairs(dict(sorted(pairs.items())), (
        f'{how}, such as {image.relative_to(raw).as_posix()} with '
        f'{label.relative_to(where).as_posix()}'), sure, problems, names)


def _masks_among(files: Sequence[Path], raw: Path) -> list[Path]:
    """Labels that lie among images: by words, or what loses nothing."""
    named = [path for path in files
             if LABEL_WORDS & {*_words(path.relative_to(raw))}]
    if named:
        return named
    lossy = [path for path in files if path.suffix.lower() in LOSSY]
    if lossy and len(lossy) < len(files):
        return [path for path in files if path.suffix.lower() not in LOSSY]
    raise ValueError(
        f'nothing tells labels from images in {raw}, e.g. '
        f'{_some(files, raw)}; give --polygons FILE, --labels FOLDER, or '
        "their names with --label-names, such as '*_mask.png'.")


def _words(path: Path) -> tuple[str, ...]:
    """Words and numbers of a path: leftImg_01 is left, img, 01."""
    text = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', str(path.with_suffix('')))
    return tuple(re.findall(r'[^\W\d_]+|\d+', text.casefold()))


def _word_keys(images: Sequence[Path], masks: Sequence[Path],
               raw: Path | None, where: Path | None) -> tuple[Key, Key]:
    """Words but for those that all of one kind have and none of the other.

    Args:
        images: Images.
        masks: Labels.
        raw: Folder of images, below which words count; None for names alone.
        where: Folder of labels.
    """
    sides = [{path: _words(path.relative_to(folder) if folder else
                           Path(path.name)) for path in paths}
             for paths, folder in ((images, raw), (masks, where))]
    keys = []
    for mine, others in (sides, sides[::-1]):
        dropped = set.intersection(*map(set, mine.values())) - set().union(
            *others.values())
        keys.append({path: tuple(word for word in words
                                 if word not in dropped)
                     for path, words in mine.items()})
    return keys[0].__getitem__, keys[1].__getitem__


def _stars(path: Path, pattern: str) -> tuple[str, ...] | None:
    """What the stars of a pattern stand for; None if it does not fit."""
    text = re.escape(pattern).replace(r'\*', '(.*)')
    names = ([path.as_posix(), path.with_suffix('').as_posix()]
             if '/' in pattern else [path.name, path.stem])
    if pattern.endswith('*') and '.' not in pattern:
        names.reverse()  # the suffix belongs to no name
    for name in names:
        match = re.fullmatch(text, name)
        if match:
            return match.groups()
    return None


def _fitting(files: Sequence[Path], pattern: str, folder: Path,
             option: str) -> list[Path]:
    if '*' not in pattern:
        raise ValueError(f'{option} {pattern} has no *, which stands for '
                         "what is alike; write such as '*_mask.png'.")
    found = [path for path in files
             if _stars(path.relative_to(folder), pattern) is not None]
    if not found:
        raise ValueError(f'{option} {pattern} fits none of the {len(files)} '
                         f'files of {folder}, e.g. {_some(files, folder)}; '
                         'correct it.')
    return found


def _grouped(paths: Iterable[Path], key: Key) -> dict[Hashable, list[Path]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def nearest(name: str, names: Iterable[str]) -> str:
    """Names that are most alike, for messages; nothing if none is."""
    close = get_close_matches(name, list(names), n=2, cutoff=0.5)
    return f' (nearest: {", ".join(close)})' if close else ''


def _with_nearest(path: Path, others: Sequence[Path], folder: Path) -> str:
    return path.relative_to(folder).as_posix() + nearest(
        path.name, (other.name for other in others))


def _some(paths: Sequence[Path], folder: Path) -> str:
    return ', '.join(path.relative_to(folder).as_posix()
                     for path in paths[:3])
