"""Many rasters side by side as one."""
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as Part

from relay_seg.views import Window

from .files import naming, replacing
from .grid import Grid, grid_of, same_grid, told
from .opening import open_raster
from .overwriting import MARK
from .writing import copy_points

SOURCES = 'SimpleSource', 'ComplexSource', 'AveragedSource'


class Mosaic:
    """Rasters of one kind side by side on a grid, read as one.

    Args:
        files: Rasters, each with its place on the grid.
        grid: Size and place of all.
        nodata: What is where there is no file.
    """

    def __init__(self, files: Mapping[Path, Window], grid: Grid,
                 nodata: float) -> None:
        self.files, self.grid, self._nodata = dict(files), grid, nodata
        self._rows: dict[tuple[int, int], list[tuple[Window, Path]]] = {}
        for path, place in self.files.items():
            self._rows.setdefault((place.top, place.top + place.height), []
                                  ).append((place, path))

    def read(self, region: Window, bands: int,
             dtype: np.dtype | str) -> np.ndarray:
        """A region inside the grid, (bands, height, width).

        Raises:
            OSError: A file cannot be read: its ``filename``.
        """
        top, left, height, width, _ = region
        out = np.full((bands, height, width), self._nodata, dtype)
        for place, path in self._at(region):
            y, x = max(place.top, top), max(place.left, left)
            rows = min(place.top + place.height, top + height) - y
            columns = min(place.left + place.width, left + width) - x
            try:
                with rasterio.open(path) as raster:
                    out[:, y - top:y - top + rows, x - left:x - left
                        + columns] = raster.read(window=Part(
                            x - place.left, y - place.top, columns, rows))
            except (RasterioError, OSError) as error:
                raise OSError(
                    errno.EIO, f'cannot be read ({error}); run the same '
                    'command again, it is made anew', str(path)) from error
        return out

    def _at(self, region: Window) -> Iterator[tuple[Window, Path]]:
        top, left, height, width, _ = region
        for (low, high), files in self._rows.items():
            if low < top + height and high > top:
                yield from (
                    (place, path) for place, path in files
                    if place.left < left + width
                    and place.left + place.width > left)

    @property
    def has_gaps(self) -> bool:
        """Whether the files leave some of the grid free."""
        ends = {place.top + place.height for place in self.files.values()}
        rows = {0, *ends, *(low for low, _ in self._rows)}
        return any(self._is_gap_in(row) for row in rows - {self.grid.height})

    def _is_gap_in(self, row: int) -> bool:
        there = [place for place, _ in self._at(
            Window(row, 0, 1, self.grid.width))]
        right = 0
        for place in sorted(there, key=lambda place: place.left):
            if place.left > right:
                return True
            right = max(right, place.left + place.width)
        return right < self.grid.width

    def write_vrt(self, path: Path, names: Sequence[str] = (),
                  tags: Mapping[str, str] = {},
                  like: Path | None = None) -> None:
        """Write a virtual raster that refers to the files.

        Between them there is no data: a mask says so, if nothing in them
        does.

        Args:
            path: File to write; paths in it are relative to it.
            names: Of the categories of the first band.
            tags: What it says of itself.
            like: Raster on the same grid, whose ground control points and
                RPCs the file gets.
        """
        with TemporaryDirectory() as folder, naming(path):
            first = Path(folder) / 'first.vrt'
            rasterio.shutil.copy(next(iter(self.files)), first, driver='VRT')
            root = ElementTree.parse(first).getroot()
        root.set('rasterXSize', str(self.grid.width))
        root.set('rasterYSize', str(self.grid.height))
        for tag in 'Metadata', 'OverviewList', 'GCPList':
            for gone in root.findall(tag):
                root.remove(gone)
        if root.find('MaskBand') is None and self.has_gaps:
            root.extend(_masks(root))
        place = root.find('GeoTransform')
        if place is not None:
            place.text = ', '.join(map(repr, self.grid.transform.to_gdal()))
        facts = ElementTree.Element('Metadata', domain=MARK)
        for key, value in tags.items():
            ElementTree.SubElement(facts, 'MDI', key=key).text = value
        root.insert(0, facts)
        for band in root.iter('VRTRasterBand'):
            source = next(x for x in band if x.tag in SOURCES)
            for gone in [x for x in band if x.tag in (*SOURCES, 'Metadata')]:
                band.remove(gone)
            band.extend(_source(source, file, window, path)
                        for file, window in self.files.items())
        if names:
            band = next(root.iter('VRTRasterBand'))
            categories = ElementTree.SubElement(band, 'CategoryNames')
            for name in names:
                ElementTree.SubElement(categories, 'Category').text = name
        ElementTree.indent(root)
        with naming(path), replacing(path) as unfinished:
            ElementTree.ElementTree(root).write(unfinished, encoding='utf-8')
            if like:
                with (open_raster(like, whole=False) as source,
                      rasterio.open(unfinished, 'r+') as target):
                    copy_points(source, target)


def _masks(root: ElementTree.Element) -> list[ElementTree.Element]:
    """One for bands of which some have no nodata value, else none.

    It is that of the last of these: what files say by an alpha band, which
    lies there, is left to that.
    """
    bands = [band.get('band') for band in root.iter('VRTRasterBand')
             if band.find('NoDataValue') is None]
    return [ElementTree.fromstring(
        '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource>'
        f'<SourceFilename/><SourceBand>mask,{band}</SourceBand>'
        '</SimpleSource></VRTRasterBand></MaskBand>') for band in bands[-1:]]


def _source(like: ElementTree.Element, file: Path, place: Window,
            vrt: Path) -> ElementTree.Element:
    """How a virtual raster refers to a file."""
    source = deepcopy(like)
    name = source.find('SourceFilename')
    assert name is not None
    name.text = os.path.relpath(file, vrt.parent)
    name.set('relativeToVRT', '1')
    for facts in source.findall('SourceProperties'):
        source.remove(facts)
    for tag, top, left in (('SrcRect', 0, 0),
                           ('DstRect', place.top, place.left)):
        rectangle = source.find(tag)
        if rectangle is None:
            rectangle = ElementTree.SubElement(source, tag)
        for key, value in (('xOff', left), ('yOff', top),
                           ('xSize', place.width), ('ySize', place.height)):
            rectangle.set(key, str(value))
    return source


def _in_words(count: int, types: tuple[str, ...], nodata: str,
              meaning: list[str], masked: bool) -> str:
    return (f'{count} bands {", ".join(types)} of {", ".join(meaning)}, '
            f'nodata {nodata}, {"with a" if masked else "no"} mask')


def mosaic_of(paths: Sequence[Path]) -> Mosaic:
    """Tiles that belong together.

    Args:
        paths: Rasters of one CRS, one pixel size and one kind of bands,
            whose pixels lie on one grid.

    Raises:
        ValueError: They do not.
    """
    grids: dict[Path, Grid] = {}
    kinds = {}
    for path in paths:
        with open_raster(path, whole=False) as raster:
            grids[path] = grid_of(raster)
            kinds[path] = (
                raster.count, raster.dtypes, str(raster.nodatavals),
                [kind.name for kind in raster.colorinterp],
                any(MaskFlags.per_dataset in flags
                    for flags in raster.mask_flag_enums))
    first = paths[0]
    own, kind = grids[first], kinds[first]
    if own.transform.is_identity:
        raise ValueError(f'{first} does not say where it is, so it has no '
                         'place in a mosaic; give it a transform.')
    places: dict[Path, tuple[int, int]] = {}
    for path, grid in grids.items():
        x, y = ~own.transform @ (grid.transform.c, grid.transform.f)
        left, top = round(x), round(y)
        moved = Grid(grid.height, grid.width, own.crs, own.transform
                     @ Affine.translation(left, top))
        if kinds[path] != kind or not same_grid(grid, moved):
            raise ValueError(
                f'{path} ({told(grid)}, {_in_words(*kinds[path])}) does not '
                f'fit {first} ({told(own)}, {_in_words(*kind)}) in a mosaic; '
                'bring all to one grid and kind, for example with gdalwarp.')
        places[path] = top, left
    top, left = (min(axis) for axis in zip(*places.values()))
    files = {
        path: Window(y - top, x - left, grids[path].height, grids[path].width)
        for path, (y, x) in places.items()}
    grid = Grid(max(w.top + w.height for w in files.values()),
                max(w.left + w.width for w in files.values()), own.crs,
                own.transform @ Affine.translation(left, top))
    return Mosaic(files, grid, 0)
