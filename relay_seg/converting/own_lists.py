"""Splits as owners of data publish them: lists, tables, YAML."""
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from .own_pairs import SPLIT_WORDS, nearest

SHOWN = 5


def split_lists(files: Sequence[Path], images: Sequence[Path],
                names: Mapping[Path, str],
                raw: Path) -> tuple[dict[Path, str], list[str]]:
    """The split of each image that is named.

    Args:
        files: ``train.txt`` and the like, one name in each line; a CSV with
            a column of names and one of splits; YAML or JSON with lists,
            files or folders under train, val and test.
        images: Images.
        names: What some of them share with their label, which may stand for
            them.
        raw: Their folder.

    Returns:
        Splits, and what is wrong: names without image or of several.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: It cannot be read, or an image is in two splits.
    """
    index: dict[str, set[Path]] = defaultdict(set)
    for image in images:
        for name in (*_names_of(image.relative_to(raw)),
                     *([names[image]] if names.get(image) else ())):
            index[name].add(image)
    splits: dict[Path, str] = {}
    lost, unclear = [], []
    for file in files:
        for name, split in _entries(file, index):
            found = _find(name, index)
            if len(found) > 1:
                unclear.append(f'{name} of {file} is ' + ' or '.join(
                    str(path.relative_to(raw)) for path in sorted(found)[:3]))
            elif not found:
                lost.append((name, file))
            for image in found if len(found) == 1 else ():
                if splits.setdefault(image, split) != split:
                    raise ValueError(
                        f'{image} is in {splits[image]} and, by {file}, in '
                        f'{split}; leave it in one.')
    problems = [f'{text}; write more of its path.' for text in unclear[:SHOWN]]
    if lost:
        known = {image.name for image in images}
        told = ', '.join(name + nearest(PurePosixPath(name).name, known)
                         for name, _ in lost[:SHOWN])
        more = f' and {len(lost) - SHOWN} more' * (len(lost) > SHOWN)
        problems.append(
            f'{len(lost)} name(s) of {lost[0][1]} fit no image of {raw}: '
            f'{told}{more}. Correct them, or use --leave-out.')
    return splits, problems


def _names_of(path: Path) -> Iterator[str]:
    """What may stand for a file: ends of its path, with and without suffix."""
    for text in (path.as_posix(), path.with_suffix('').as_posix()):
        parts = text.split('/')
        for i in range(len(parts)):
            yield '/'.join(parts[i:])


def _find(name: str, index: Mapping[str, set[Path]]) -> set[Path]:
    """Images of a name, by as much of it as fits.

    A folder that does not fit may be of the owner's machine, but not another
    one of the images here.
    """
    parts = name.strip().replace('\\', '/').lstrip('./').split('/')
    for i in range(len(parts)):
        end = '/'.join(parts[i:])
        stem, _, suffix = end.rpartition('.')
        for text in (end, stem if '/' not in suffix else end):
            if text in index:
                return {path for path in index[text] if not i
                        or parts[i - 1] in path.parts
                        or not _is_folder(parts[i - 1], index)}
    return set()


def _is_folder(name: str, index: Mapping[str, set[Path]]) -> bool:
    """Whether images lie in a folder of this name."""
    return any(f'/{name}/' in f'/{path}' for path in index)


def _entries(file: Path, index: Mapping[str, set[Path]]
             ) -> Iterator[tuple[str, str]]:
    """Names with their splits."""
    if not file.is_file():
        raise FileNotFoundError(f'{file} is no file; correct the path.')
    try:
        text = file.read_text(encoding='utf-8-sig')
        if file.suffix.lower() in ('.yaml', '.yml', '.json'):
            yield from _tree(file, text, index)
        elif file.suffix.lower() in ('.csv', '.tsv'):
            yield from _table(file, text, index)
        else:
            yield from _list(file, text, index)
    except (UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError,
            csv.Error) as error:
        raise ValueError(f'{file} cannot be read ({error}); mend it.'
                         ) from error


def _list(file: Path, text: str, index: Mapping[str, set[Path]],
          split: str | None = None) -> Iterator[tuple[str, str]]:
    """One name a line; of image and label, that of the image."""
    split = split or _named_split(file)
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith('#'):
            words = [line, *line.replace(',', ' ').split()]
            yield next((word for word in words if _find(word, index)),
                       line), split


def _table(file: Path, text: str,
           index: Mapping[str, set[Path]]) -> Iterator[tuple[str, str]]:
    """A column of names and one of splits, whatever they are called."""
    lines = text.splitlines()
    marks = Counter({mark: lines[0].count(mark) for mark in ',;\t'}
                    if lines else {})
    rows = [row for row in csv.reader(
        lines, delimiter=max(marks, key=marks.__getitem__, default=','))
        if any(row)]
    width = max(map(len, rows), default=0)
    rows = [[*row, *[''] * (width - len(row))] for row in rows]

    def fitting(column: int, fits) -> int:
        return sum(bool(fits(row[column])) for row in rows)

    def is_split(text: str) -> bool:
        return text.strip().casefold() in SPLIT_WORDS

    name, split = (max(range(width), key=lambda column: fitting(
        column, fits), default=0) for fits in (
            lambda text: _find(text, index), is_split))
    several = [column for column in range(width)
               if 2 * fitting(column, is_split) > len(rows)]
    if len({tuple(row[column] for row in rows[1:]) for column in several}) > 1:
        raise ValueError(
            f'{file} has several columns of splits, '
            f'{" and ".join(rows[0][column] for column in several)}; leave '
            'the one that is meant.')
    if not rows or not fitting(name, lambda text: _find(text, index)):
        raise ValueError(f'{file} has no column with names of images; '
                         'correct it.')
    if not fitting(split, is_split):
        yield from _list(file, '\n'.join(
            row[name] for row in rows[not _find(rows[0][name], index):]),
            index)
        return
    for number, row in enumerate(rows):
        if is_split(row[split]):
            yield row[name], SPLIT_WORDS[row[split].strip().casefold()]
        elif number or _find(row[name], index):  # else it is the head
            raise ValueError(
                f'{file} has {row[split]!r} for {row[name]}; train, val and '
                'test are expected. Correct it.')


def _tree(file: Path, text: str,
          index: Mapping[str, set[Path]]) -> Iterator[tuple[str, str]]:
    content = yaml.safe_load(text)  # JSON is YAML
    named = {key: value for key, value in content.items() if str(
        key).casefold() in SPLIT_WORDS} if isinstance(content, dict) else {}
    if not named:
        raise ValueError(f'{file} has nothing under train, val or test; '
                         'write lists of names there.')
    for key, value in named.items():
        split = SPLIT_WORDS[str(key).casefold()]
        if value is None:  # nothing is in this one
            continue
        for name in value if isinstance(value, list) else [value]:
            name = str(name)
            listed = file.parent / name
            if name.endswith('.txt') and listed.is_file():
                yield from _list(listed, listed.read_text(), index, split)
            elif _find(name, index) or isinstance(value, list):
                yield name, split
            else:
                yield from _folder(file, name, split, index)


def _folder(file: Path, name: str, split: str,
            index: Mapping[str, set[Path]]) -> Iterator[tuple[str, str]]:
    """Images of a folder."""
    wanted = name.strip('./') + '/'
    images = {path for some in index.values() for path in some}
    found = [path for path in sorted(images) if f'/{wanted}' in
             f'/{path.as_posix()}']
    if not found:
        raise ValueError(f'{file} names {name}, which is no image, list or '
                         'folder of images; correct it.')
    for path in found:
        yield path.as_posix(), split


def _named_split(file: Path) -> str:
    """The split in the name of a file."""
    words = [SPLIT_WORDS[word] for word in file.stem.casefold().replace(
        '-', '_').replace('.', '_').split('_') if word in SPLIT_WORDS]
    if len({*words}) != 1:
        raise ValueError(f'{file} is a list of names, so its own name has to '
                         'say of what: name it such as train.txt.')
    return words[0]
