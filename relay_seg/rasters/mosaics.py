"""Virtual rasters (VRT): which of their files are missing, and where."""
import os
import warnings
from collections.abc import Container, Iterator
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from relay_seg.views import Window

from .remote import gdal_name, is_virtual, patience, trouble

NESTED = 8  # virtual rasters in one another, before it must be a circle


class Missing(NamedTuple):
    """A file that a virtual raster refers to and that is not there.

    Args:
        file: As it is named there.
        window: Pixels of the virtual raster that lie in it.
    """
    file: str
    window: Window


def can_open(file: str | Path) -> bool:
    """Whether GDAL opens a file.

    Raises:
        OSError: It lies behind a network and cannot be reached.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(**patience(file)):
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            rasterio.open(gdal_name(file)).close()
    except RasterioError:
        if error := trouble(file):
            raise error from None
        return False
    return True


def missing_parts(path: str | Path, shape: tuple[int, int],
                  thorough: bool = False) -> list[Missing]:
    """Files that are missing, also of virtual rasters inside.

    Args:
        path: Virtual raster; of one that does not lie here nothing is known.
        shape: Its height and width in pixels.
        thorough: Those that cannot be opened, too; opens each.

    Raises:
        OSError: One of these lies behind a network and cannot be reached.
    """
    if not Path(path).is_file():
        return []
    return list(dict.fromkeys(_missing(Path(path), shape, thorough, NESTED)))


def without(path: Path, files: Container[str]) -> str:
    """A virtual raster as XML that refers to all but some files.

    It may lie anywhere: other files have their full names.

    Args:
        path: Virtual raster on this machine.
        files: Names as :func:`missing_parts` has them.

    Raises:
        ValueError: That cannot be written.
    """
    root = ElementTree.parse(path).getroot()
    if path.with_name(f'{path.name}.msk').exists():
        raise ValueError(
            f'{path} has a mask beside it (.msk) and lacks files; bring '
            'these back, or the mask into one of its files.')
    for parent in list(root.iter()):
        for source in list(parent):
            name, file = _named(path, source)
            if name is None:
                continue
            if file in files:
                parent.remove(source)
            elif _is_mosaic(file):
                name.text = without(Path(file), files)
            elif name.get('relativeToVRT') == '1' and not is_virtual(file):
                if ':' in str(name.text) and not Path(file).exists():
                    raise ValueError(
                        f'{path} lacks files, and {name.text} is no full '
                        'name; bring the files back, or name it in full.')
                name.text = os.path.abspath(file)
            name.set('relativeToVRT', '0')
    return ElementTree.tostring(root, encoding='unicode')


def _named(path: Path, source: ElementTree.Element) -> tuple[
        ElementTree.Element | None, str]:
    """Where a source of a virtual raster has its file's name; which it is."""
    name = source.find('SourceFilename')
    if source.tag == 'SourceDataset':
        name = source
    if name is None or not name.text:
        return None, ''
    if name.get('relativeToVRT') == '1' and not is_virtual(name.text):
        return name, str(path.parent / name.text)
    return name, name.text


def _is_mosaic(file: str) -> bool:
    """Whether it is a virtual raster on this machine."""
    return (file.lower().endswith('.vrt') and not is_virtual(file)
            and Path(file).exists())


def _missing(path: Path, shape: tuple[int, int],
             thorough: bool, depth: int) -> Iterator[Missing]:
    if not depth:
        raise ValueError(f'{path} refers to itself; make it anew.')
    everything = 0, 0, *shape[::-1]
    for parent in ElementTree.parse(path).getroot().iter():
        # Functions of pixels need all that they are of.
        derived = 'Derived' in parent.get('subClass', '')
        for source in parent:
            name, file = _named(path, source)
            if name is None:
                continue
            window = _rectangle(source, 'DstRect') or everything
            if not _is_there(file, str(name.text), thorough):
                yield Missing(file, _window(
                    *(everything if derived else window)))
            elif _is_mosaic(file):
                yield from _inside(
                    source, Path(file), window, thorough, depth)


def _is_there(file: str, text: str, thorough: bool) -> bool:
    """Whether a source can be read, as far as that is known."""
    if is_virtual(file) or Path(file).exists():
        return not thorough or can_open(file)
    return ':' in text  # it may be a name that a driver knows


def _inside(source: ElementTree.Element, file: Path,
            window: tuple[float, ...], thorough: bool,
            depth: int) -> Iterator[Missing]:
    """What is missing in a virtual raster that is part of another one."""
    inner = ElementTree.parse(file).getroot()
    size = int(inner.get('rasterYSize', 0)), int(inner.get('rasterXSize', 0))
    x, y, width, height = _rectangle(source, 'SrcRect') or (
        0, 0, *size[::-1])
    across, down = window[2] / width, window[3] / height
    for name, part in _missing(file, size, thorough, depth - 1):
        left, top = max(part.left, x), max(part.top, y)
        right = min(part.left + part.width, x + width)
        bottom = min(part.top + part.height, y + height)
        if right > left and bottom > top:
            yield Missing(name, _window(
                window[0] + (left - x) * across,
                window[1] + (top - y) * down,
                (right - left) * across, (bottom - top) * down))


def _rectangle(source: ElementTree.Element,
               name: str) -> tuple[float, ...] | None:
    """Left, top, width and height."""
    found = source.find(name)
    if found is None:
        return None
    return tuple(float(found.get(key, 0))
                 for key in ('xOff', 'yOff', 'xSize', 'ySize'))


def _window(left: float, top: float, width: float, height: float) -> Window:
    """All pixels of which some part lies in a rectangle."""
    first, second = floor(top), floor(left)
    return Window(first, second, ceil(top + height) - first,
                  ceil(left + width) - second)
