"""Virtual rasters (VRT): what of them cannot be read, and where."""
import os
from collections.abc import Container, Iterator
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from relay_seg.views import Window

from .identity import driver_of
from .remote import is_remote, is_virtual

NESTED = 8  # virtual rasters in one another, before it must be a circle
#: Sources of which a file fills just the rectangle that is named.
PLAIN = frozenset((
    'SimpleSource', 'ComplexSource', 'AveragedSource', 'NoDataFromMaskSource'))
RELATIVE = 'relativetovrt'  # GDAL knows it in any case

Rectangle = tuple[float, float, float, float]  # left, top, width, height


class Missing(NamedTuple):
    """A file that a virtual raster refers to and that cannot be opened.

    Args:
        file: As it is named there.
        window: Pixels of the virtual raster that depend on it.
    """
    file: str
    window: Window


class Source(NamedTuple):
    """A file that a virtual raster refers to."""
    parent: ElementTree.Element
    element: ElementTree.Element
    name: ElementTree.Element
    file: str

    @property
    def is_plain(self) -> bool:
        """Whether its file matters in its rectangle only."""
        return self.element.tag in PLAIN and (  # nor to a function of pixels
            'Derived' not in self.parent.get('subClass', ''))

    def rectangle(self, name: str, other: Rectangle) -> Rectangle:
        """One that it names, or another."""
        found = self.element.find(name)
        if found is None or not self.is_plain:
            return other
        left, top, width, height = (
            float(found.get(key, 0))
            for key in ('xOff', 'yOff', 'xSize', 'ySize'))
        return left, top, width, height

    def is_there(self, far: bool) -> bool:
        """Whether it can be opened, as far as that is known."""
        if is_remote(self.file) and not far:
            return True
        if not (is_virtual(self.file) or Path(self.file).exists()):
            # It may be a name that a driver knows.
            return ':' in str(self.name.text)
        # Numbers without a header, and what needs to be told how.
        raw = (self.element.tag == 'VRTRasterBand'
               or self.element.find('OpenOptions') is not None)
        return raw or bool(driver_of(self.file))

    @property
    def is_mosaic(self) -> bool:
        """Whether it is a virtual raster on this machine."""
        return Path(self.file).is_file() and driver_of(self.file) == 'VRT'


def missing_parts(path: str | Path, shape: tuple[int, int],
                  far: bool = False) -> list[Missing]:
    """Files that cannot be opened, also of virtual rasters inside.

    GDAL says so once, if at all, and gives zeros from then on.

    Args:
        path: Virtual raster; of one that does not lie here nothing is known.
        shape: Its height and width in pixels.
        far: Look also at those behind an address.

    Raises:
        OSError: One of these cannot be reached.
    """
    if not Path(path).is_file():
        return []
    return list(dict.fromkeys(_missing(Path(path), shape, far, NESTED)))


def without(path: Path, files: Container[str]) -> str:
    """A virtual raster as XML that refers to all but some files.

    It may lie anywhere: other files have their full names.

    Args:
        path: Virtual raster on this machine.
        files: Names as :func:`missing_parts` has them.

    Raises:
        ValueError: That cannot be written.
    """
    if path.with_name(f'{path.name}.msk').exists():
        raise ValueError(
            f'{path} has a mask beside it (.msk) and lacks files; bring '
            'these back, or the mask into one of its files.')
    root = ElementTree.parse(path).getroot()
    for source in _sources(path, root):
        if source.file in files and source.is_plain:
            source.parent.remove(source.element)
        elif source.is_mosaic:
            source.name.text = without(Path(source.file), files)
        elif _is_relative(source.name) and not is_virtual(source.file):
            if ':' in str(source.name.text) and (
                    not Path(source.file).exists()):
                raise ValueError(
                    f'{path} lacks files, and {source.name.text} is no full '
                    'name; bring the files back, or name it in full.')
            source.name.text = os.path.abspath(source.file)
        for key in [*source.name.keys()]:
            if key.lower() == RELATIVE:
                del source.name.attrib[key]
    return ElementTree.tostring(root, encoding='unicode')


def _sources(path: Path, root: ElementTree.Element) -> Iterator[Source]:
    """All files that a virtual raster refers to for its pixels."""
    folder = Path(os.path.realpath(path)).parent  # as GDAL has it
    for parent in list(root.iter()):
        for element in list(parent):
            name = element if element.tag == 'SourceDataset' else (
                element.find('SourceFilename'))
            if name is None or not name.text or element.tag == 'Overview':
                continue
            inside = _is_relative(name) and not is_virtual(name.text)
            yield Source(parent, element, name, str(
                folder / name.text) if inside else name.text)


def _is_relative(name: ElementTree.Element) -> bool:
    return any(key.lower() == RELATIVE and value == '1'
               for key, value in name.items())


def _missing(path: Path, shape: tuple[int, int], far: bool,
             depth: int) -> Iterator[Missing]:
    if not depth:
        raise ValueError(f'{path} refers to itself; make it anew.')
    everything = 0, 0, *shape[::-1]
    for source in _sources(path, ElementTree.parse(path).getroot()):
        there = source.rectangle('DstRect', everything)
        if not source.is_there(far):
            yield Missing(source.file, _window(*there))
        elif source.is_mosaic:
            yield from _inside(source, there, far, depth)


def _inside(source: Source, there: Rectangle, far: bool,
            depth: int) -> Iterator[Missing]:
    """What is missing in a virtual raster that is part of another one."""
    inner = ElementTree.parse(source.file).getroot()
    size = int(inner.get('rasterYSize', 0)), int(inner.get('rasterXSize', 0))
    x, y, width, height = source.rectangle('SrcRect', (0, 0, *size[::-1]))
    across, down = there[2] / width, there[3] / height
    for name, part in _missing(Path(source.file), size, far, depth - 1):
        left, top = max(part.left, x), max(part.top, y)
        right = min(part.left + part.width, x + width)
        bottom = min(part.top + part.height, y + height)
        if not source.is_plain:  # nobody knows where
            yield Missing(name, _window(*there))
        elif right > left and bottom > top:
            yield Missing(name, _window(
                there[0] + (left - x) * across, there[1] + (top - y) * down,
                (right - left) * across, (bottom - top) * down))


def _window(left: float, top: float, width: float, height: float) -> Window:
    """All pixels of which some part lies in a rectangle."""
    first, second = floor(top), floor(left)
    return Window(first, second, ceil(top + height) - first,
                  ceil(left + width) - second)
