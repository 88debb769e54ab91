"""Virtual rasters (VRT): which of their files are missing, and where."""
from collections.abc import Iterator
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from relay_seg.views import Window

NESTED = 8  # virtual rasters in one another, before it must be a circle


class Missing(NamedTuple):
    """A file that a virtual raster refers to and that is not there.

    Args:
        file: As it is named there.
        window: Pixels of the virtual raster that lie in it.
    """
    file: str
    window: Window


def missing_parts(path: str | Path, shape: tuple[int, int]) -> list[Missing]:
    """Files that are missing, also of virtual rasters inside.

    GDAL says that a file is missing when it is first read, and gives zeros
    from then on, to whoever asks.

    Args:
        path: Virtual raster; of one that does not lie here nothing is known.
        shape: Its height and width in pixels.
    """
    if not Path(path).is_file():
        return []
    return list(dict.fromkeys(_missing(Path(path), shape, NESTED)))


def _missing(path: Path, shape: tuple[int, int],
             depth: int) -> Iterator[Missing]:
    if not depth:
        raise ValueError(f'{path} refers to itself; make it anew.')
    root = ElementTree.parse(path).getroot()
    for source in root.iter():
        name = source.find('SourceFilename')
        if source.tag == 'SourceDataset':
            name = source
        if name is None or not name.text or name.text.startswith('/vsi'):
            continue
        file = Path(name.text)
        if name.get('relativeToVRT') == '1':
            file = path.parent / file
        there = _rectangle(source, 'DstRect') or (0, 0, *shape[::-1])
        if not file.exists():
            # What is no file may be a name that a driver knows.
            if ':' not in name.text:
                yield Missing(str(file), _window(*there))
        elif file.suffix.lower() == '.vrt':
            yield from _inside(source, file, there, depth)


def _inside(source: ElementTree.Element, file: Path,
            there: tuple[float, ...], depth: int) -> Iterator[Missing]:
    """What is missing in a virtual raster that is part of another one."""
    inner = ElementTree.parse(file).getroot()
    size = int(inner.get('rasterYSize', 0)), int(inner.get('rasterXSize', 0))
    x, y, width, height = _rectangle(source, 'SrcRect') or (
        0, 0, *size[::-1])
    across, down = there[2] / width, there[3] / height
    for name, window in _missing(file, size, depth - 1):
        left, top = max(window.left, x), max(window.top, y)
        right = min(window.left + window.width, x + width)
        bottom = min(window.top + window.height, y + height)
        if right > left and bottom > top:
            yield Missing(name, _window(
                there[0] + (left - x) * across, there[1] + (top - y) * down,
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
