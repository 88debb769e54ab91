"""What a converter has made, so that it can go on, check and be trusted.

``manifest.json`` is replaced as a whole. While a conversion runs, each
finished scene is one line in ``manifest.journal``; killed at any moment, at
most the last line is lost.
"""
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relay_seg.rasters import write_text

MANIFEST = 'manifest.json'
JOURNAL = 'manifest.journal'
FORMAT = 1
SPLITS = ('train', 'val', 'test')
CHUNK = 2**20


@dataclass
class Manifest:
    """Contents of ``manifest.json``.

    Args:
        dataset: Name of the data set.
        classes: Names of the classes, in the order of ``class_pixels``.
        options: Options that change the result.
        scenes: A record of each finished scene, by path of its image.
        failures: What went wrong, by path of the image, or in general.
    """

    dataset: str
    classes: Sequence[str]
    options: Mapping[str, object]
    scenes: dict[str, dict] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """Replace the file and forget the journal."""
        scenes = sorted(self.scenes.values(), key=lambda s: s['image']['path'])
        content = dict(
            format=FORMAT, dataset=self.dataset, options=dict(self.options),
            classes=list(self.classes),
            splits={split: sum(s['split'] == split for s in scenes)
                    for split in SPLITS},
            failures=self.failures, scenes=scenes)
        write_text(out / MANIFEST, json.dumps(content, indent=1) + '\n')
        (out / JOURNAL).unlink(missing_ok=True)

    def add(self, record: dict, out: Path) -> None:
        """Note a finished scene, in memory and in the journal."""
        self.scenes[record['image']['path']] = record
        with (out / JOURNAL).open('a') as journal:
            journal.write(json.dumps(record) + '\n')


def read_manifest(out: Path) -> Manifest | None:
    """What is known of a result, None if nothing is.

    Raises:
        ValueError: The file is damaged or of another version.
    """
    path = out / MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content['format'] != FORMAT:
            raise ValueError(f'format {content["format"]} is not {FORMAT}')
        manifest = Manifest(
            content['dataset'], content['classes'], content['options'],
            {s['image']['path']: s for s in content['scenes']},
            content['failures'])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); delete it to convert anew.'
        ) from error
    for record in _journal(out / JOURNAL):
        manifest.scenes[record['image']['path']] = record
    return manifest


def _journal(path: Path) -> Iterable[dict]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the line that was being written at the end
            return


def fingerprint(path: Path, base: Path) -> dict:
    """What tells that a raw file is still the same."""
    stat = path.stat()
    return dict(path=os.path.relpath(path, base), bytes=stat.st_size,
                modified_ns=stat.st_mtime_ns)


def file_record(path: Path, out: Path) -> dict:
    """Path, size and checksum of an output file."""
    return dict(path=path.relative_to(out).as_posix(),
                bytes=path.stat().st_size, sha256=checksum(path))


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_whole(record: dict, out: Path) -> bool:
    """Whether the files of a scene are there with the right size."""
    for key in ('image', 'label'):
        path = out / record[key]['path']
        if not path.is_file() or path.stat().st_size != record[key]['bytes']:
            return False
    return True


def damage(record: dict, out: Path) -> list[str]:
    """What is wrong with the files of a scene, by their checksums."""
    wrong = []
    for key in ('image', 'label'):
        path = out / record[key]['path']
        if not path.is_file():
            wrong.append(f'{path} is missing')
        elif checksum(path) != record[key]['sha256']:
            wrong.append(f'{path} is not what was written')
    return wrong
