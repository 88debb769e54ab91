"""What a raster is read from, and whether it is still the same."""
import os
import re
import warnings
from functools import lru_cache
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from .remote import gdal_name, is_remote, patience, trouble, version_of

#: Files that are read as one with all of their stem.
TOGETHER = ('.shp', )


def files_of(path: str | Path) -> tuple[Path, ...]:
    """A file and all that is read with it, whether it is there or not.

    Of a raster: sources of a VRT, and theirs, world files, masks, overviews
    and .aux.xml; of a shapefile, all parts; of what lies in an archive, that.

    Raises:
        OSError: One of them lies behind an address and cannot be reached.
    """
    found, waiting = dict[str, None](), [gdal_name(path)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = None
        waiting += _opened(name)[1]
    return tuple(dict.fromkeys(map(_on_disk, found)))


def driver_of(path: str | Path) -> str:
    """What GDAL takes a file for; nothing if it cannot open it.

    Raises:
        OSError: It lies behind an address and cannot be reached.
    """
    return _opened(gdal_name(path))[0]


def _opened(name: str) -> tuple[str, tuple[str, ...]]:
    file = _on_disk(name)
    # What appears beside it changes the folder.
    around = [] if is_remote(name) else _stamp(file.parent)
    return _open_once(name, *_stamp(file), *around)


@lru_cache(maxsize=2**16)
def _open_once(name: str, *stamp: str | int) -> tuple[str, tuple[str, ...]]:
    """Driver of a file, and what it says that it is read from."""
    try:
        with warnings.catch_warnings(), rasterio.Env(**patience(name)):
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(name) as raster:
                return raster.driver, tuple(raster.files)
    except RasterioError:  # no raster
        if error := trouble(name):
            raise error from None
        if Path(name).suffix.lower() not in TOGETHER:
            return '', ()
        return '', tuple(map(str, Path(name).parent.glob(
            f'{Path(name).stem}.*')))


def identity(path: str | Path) -> list[list]:
    """Changes when anything does that a file is read from.

    Returns:
        Real path, bytes and time of last change of each file, in order; a
        file that is missing has neither. Of a remote file its address, bytes
        and ETag.
    """
    return sorted(_stamp(file) for file in files_of(path))


def changed(before: list[list], path: str | Path) -> list[str]:
    """Files that are no longer as in an earlier :func:`identity`."""
    now = identity(path)
    return sorted({entry[0] for entry in (*before, *now)
                   if (entry in before) != (entry in now)})


def inode(path: str | Path) -> tuple[int, int] | str:
    """Tells files apart whatever their names are: links are one file."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _on_disk(name: str) -> Path:
    """The archive of what lies in one."""
    if is_remote(name):
        return Path(name)
    path = Path(re.sub(r'^(/vsi\w+/)+\{?', '', name).replace('}/', '/', 1))
    return next((p for p in (path, *path.parents) if p.is_file()), path)


def _stamp(path: Path) -> list:
    if is_remote(path):
        return version_of(path)
    name = os.path.realpath(path)
    try:
        status = os.stat(name)
    except OSError:
        return [name, -1, -1]
    return [name, status.st_size, status.st_mtime_ns]
