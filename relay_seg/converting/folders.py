"""Finding one's way in unpacked downloads."""
from collections.abc import Iterable, Sequence
from pathlib import Path


def find_folder(raw: Path, names: Sequence[str]) -> Path | None:
    """A folder of a download, also where unpacking nested it in itself.

    Args:
        raw: The raw folder.
        names: Names it may have, the first found counts.
    """
    for name in names:
        for path in (raw / name / name, raw / name):
            if path.is_dir():
                return path
    return None


def files_by_stem(folder: Path, suffixes: Iterable[str],
                  ending: str = '') -> dict[str, Path]:
    """Files of a folder by name without ending and suffix, sorted.

    Args:
        folder: The folder; nothing if there is none.
        suffixes: Suffixes to take, in lower case.
        ending: What stands before the suffix and is left out of the name;
            files without it are left out.

    Raises:
        ValueError: Two files differ in the suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob('*')):
        if (path.suffix.lower() in suffixes and not path.name.startswith('.')
                and path.stem.endswith(ending)):
            stem = path.stem[:len(path.stem) - len(ending)]
            if stem in found:
                raise ValueError(f'{found[stem]} and {path} have one name; '
                                 'remove one.')
            found[stem] = path
    return found


def pair(images: dict[str, Path], labels: dict[str, Path],
         where: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Images with their labels.

    Args:
        images: Images by name.
        labels: Labels by name.
        where: Folder that was searched for labels, for messages.

    Returns:
        Name, image and label of each pair; and what stands alone, in words.
    """
    pairs = [(name, images[name], labels[name])
             for name in images if name in labels]
    alone = [f'{path} has no label in {where}; complete the raw folder or '
             'remove it.' for name, path in images.items()
             if name not in labels]
    alone += [f'{path} has no image; complete the raw folder or remove it.'
              for name, path in labels.items() if name not in images]
    return pairs, alone
