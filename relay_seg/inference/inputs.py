"""Which scenes a command line names, and where their results go."""
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePath

from relay_seg.rasters import SUFFIXES, is_prediction, mosaic_of
from relay_seg.rasters.identity import inode
from relay_seg.rasters.remote import (
    file_name,
    is_remote,
    is_virtual,
    located,
    shown,
)

#: Between files of a scene: in an address, + is a letter like others.
_PLUS = re.compile(r'(?<!\bzip)(?<!\btar)\+(?=\w+(?:\+\w+)?://|/vsi)')

#: How the name of one output ends.
OUT_SUFFIXES = '.tif', '.tiff', '.vrt'


@dataclass(frozen=True)
class Scene:
    """Aligned rasters, and the file that their classes go to."""
    paths: tuple[Path, ...]
    out: Path

    def __str__(self) -> str:
        return '+'.join(map(shown, self.paths))


def find_scenes(inputs: Sequence[str], out: str | Path,
                mosaic: bool = False) -> list[Scene]:
    """Scenes of a command line.

    Args:
        inputs: Each a raster, aligned rasters as ``rgb.tif+dtm.tif``, a
            folder, a pattern such as ``'area/*.tif'``, an address
            (``https://``, ``s3://``, ``/vsi...``), an asset of a STAC item
            as ``item.json#NAME``, or a text file (``.txt``) with one of
            these in each line.
        out: File, for one scene, or folder.
        mosaic: All are tiles of one scene, which is read as a virtual raster
            ``OUT_mosaic.vrt``.

    Raises:
        FileNotFoundError: A folder or a pattern holds no raster.
        OSError: A STAC item cannot be reached.
        ValueError: Several scenes would be written to one file, one over
            its own input, or the folder has the name of a file.
    """
    found = [paths for text in inputs for paths in _expand(text)]
    out = Path(out)
    if mosaic:
        found = [(_mosaic(found, out), )]
    if out.suffix.lower() in OUT_SUFFIXES and not out.is_dir():
        if len(found) > 1:
            raise ValueError(f'{out} is one file but {len(found)} scenes are '
                             'given; give a folder.')
        scenes = [Scene(found[0], out)]
    else:
        if out.suffix.lower() in SUFFIXES and not out.is_dir():
            raise ValueError(
                f'{out} has the name of a file, but what is written is a '
                f'GeoTIFF: name it {out.with_suffix(".tif")}, or give a '
                'folder.')
        scenes = [
            Scene(paths, out / f'{PurePath(file_name(paths[0])).stem}.tif')
            for paths in found]
    by_out: dict[Path, Scene] = {}
    for scene in scenes:
        twin = by_out.setdefault(scene.out, scene)
        if twin is not scene:
            raise ValueError(f'{twin} and {scene} would both be written to '
                             f'{scene.out}; predict them into two folders.')
        if any(inode(path) == inode(scene.out) for path in scene.paths):
            raise ValueError(f'{scene.out} is an input; write elsewhere.')
    return scenes


def _mosaic(tiles: Sequence[tuple[Path, ...]], out: Path) -> Path:
    """A virtual raster of tiles, beside an output."""
    for paths in tiles:
        if len(paths) > 1 or is_remote(paths[0]):
            raise ValueError(
                f'{Scene(paths, out)} is no tile of --mosaic: tiles are '
                'single files on a disk; make a VRT of them first.')
    if out.suffix.lower() not in OUT_SUFFIXES:
        raise ValueError(f'{out} is no file: with --mosaic there is one '
                         f'output, such as {out}.tif.')
    path = out.with_name(f'{out.stem}_mosaic.vrt')
    if path.exists() and not is_prediction(path):
        raise ValueError(f'{path} exists and is no prediction; move it or '
                         'name the output otherwise.')
    files = [file for file, in tiles]
    mosaic_of(files).write_vrt(path, tags=dict(CONTENT='mosaic'))
    # The same tiles give the same file, whichever process writes it.
    newest = max(file.stat().st_mtime_ns for file in files)
    os.utime(path, ns=(newest, newest))
    return path


def _expand(text: str) -> list[tuple[Path, ...]]:
    parts = _PLUS.split(text)
    if len(parts) > 1 or is_virtual(text):
        return [tuple(
            located(name) for part in parts for name in
            ([part] if is_virtual(part) else part.split('+')))]
    path = Path(text)
    if path.is_dir():
        found = sorted(p for p in path.iterdir()
                       if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise FileNotFoundError(f'{path} holds no raster; its files end '
                                    'in none of ' + ' '.join(sorted(SUFFIXES)))
        return [(p, ) for p in found]
    if path.suffix.lower() == '.txt':
        return _listed(path)
    if not path.exists() and has_magic(text):
        names = sorted(glob(text, recursive=True))
        if not names:
            raise FileNotFoundError(f'{text} fits no file.')
        return [(Path(name), ) for name in names]
    if not path.exists() and '+' in text:
        return [tuple(located(part) for part in text.split('+'))]
    return [(located(text), )]


def _listed(path: Path) -> list[tuple[Path, ...]]:
    """Lines of a text file; paths are relative to it, or to where we are."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; give a list with a '
                                'raster in each line.')
    found = []
    for line in path.read_text(encoding='utf-8-sig').splitlines():
        line = line.strip()
        if line and not line.startswith('#'):
            beside = '+'.join(
                part if is_virtual(part) else '+'.join(
                    str(path.parent / name) for name in part.split('+'))
                for part in _PLUS.split(line))
            first = line.split('+')[0]
            found += _expand(line if Path(first).exists() else beside)
    if not found:
        raise ValueError(f'{path} lists no raster.')
    return found
