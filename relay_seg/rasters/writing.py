"""GeoTIFFs, written from top to bottom."""
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from relay_seg.class_ids import IGNORE

from .files import naming, replacing
from .grid import Grid, grid_of, transform_of
from .opening import open_raster
from .overwriting import MARK

TILE = 256
LAYOUT = dict(driver='GTiff', tiled=True, blockxsize=TILE, blockysize=TILE,
              bigtiff='if_safer')


#: Columns that are written or read at once, a multiple of the tiles.
WIDE = 32 * TILE


def pieces(height: int, width: int) -> Iterator[Window]:
    """What is written at once: parts of a row of tiles, row by row."""
    for top, rows in strips(height):
        for left in range(0, width, WIDE):
            yield Window(left, top, min(WIDE, width - left), rows)


def strips(height: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each row of tiles."""
    for top in range(0, height, TILE):
        yield top, min(TILE, height - top)


class RowWriter:
    """A tiled GeoTIFF that grows from its top, a row of tiles at a time.

    Args:
        path: File to write; it is unfinished until it is closed.
        grid: Size and place.
        profile: Bands, type, compression and the like.
    """

    def __init__(self, path: Path, grid: Grid, **profile) -> None:
        self.path, self.crc = path, 0
        self._top, self._rows = 0, list[np.ndarray]()
        self._dtype = profile['dtype']
        self.raster = rasterio.open(
            path, 'w', **LAYOUT, height=grid.height, width=grid.width,
            crs=grid.crs, transform=grid.transform, **profile)

    def write(self, rows: np.ndarray) -> None:
        """Append rows (C, H, W); no tile is written twice."""
        self._rows.append(rows)
        waiting = sum(rows.shape[1] for rows in self._rows)
        if waiting >= TILE:
            self._flush(waiting // TILE * TILE)

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush(sum(rows.shape[1] for rows in self._rows))
        self.raster.close()

    def _flush(self, count: int) -> None:
        rows = (self._rows[0] if len(self._rows) == 1 else
                np.concatenate(self._rows, axis=1))
        self._rows = [rows[:, count:]] if rows.shape[1] > count else []
        for part in pieces(count, rows.shape[2]):
            left, top = part.col_off, part.row_off
            self.put(rows[:, top:top + part.height, left:left + part.width],
                     Window(left, self._top + top, part.width, part.height))
        self._top += count

    def put(self, pixels: np.ndarray, part: Window) -> None:
        """Write one of the :func:`pieces` (C, H, W), in their order."""
        pixels = np.ascontiguousarray(pixels, dtype=self._dtype)
        self.raster.write(pixels, window=part)
        self.crc = zlib.crc32(pixels.data, self.crc)


def read_back(path: Path, crc: int, lossy: bool = False, **options) -> None:
    """Read all of a file: a full disk shows late, and silently.

    Args:
        path: File.
        crc: Of its pixels as they were written.
        lossy: They need not be the same.
        options: Of opening, such as an overview.

    Raises:
        RasterioError: It cannot be read, or it is not what was written.
    """
    found = 0
    with rasterio.open(path, **options) as raster:
        for part in pieces(*raster.shape):
            found = zlib.crc32(np.ascontiguousarray(
                raster.read(window=part)).data, found)
    if found != crc and not lossy:
        raise RasterioError('it reads back otherwise')


def colour_table(palette: Sequence[Sequence[int]],
                 ignored: tuple[int, ...] | None = None) -> dict[int, tuple]:
    """Colours (R, G, B, A) of class ids.

    Args:
        palette: Colour of each class.
        ignored: Colour of what belongs to none; left out by default.
    """
    colours = {i: (*colour, 255) for i, colour in enumerate(palette)}
    return colours | ({IGNORE: ignored} if ignored else {})


def write_class_ids(path: Path, ids: np.ndarray,
                    palette: Sequence[Sequence[int]], like: Path) -> None:
    """Write class ids as a tiled GeoTIFF with a colour table.

    Args:
        path: File to write; it appears under this name when it is whole.
        ids: (H, W) uint8.
        palette: Colour of each class.
        like: Raster whose place the file gets.
    """
    with (open_raster(like) as source, replacing(path) as unfinished,
          naming(path)):
        place = grid_of(source)
        writer = RowWriter(
            unfinished, replace(
                place, height=ids.shape[0], width=ids.shape[1]), count=1,
            dtype='uint8', compress='deflate')
        copy_points(source, writer.raster)
        writer.raster.update_tags(ns=MARK, CONTENT='class ids')
        writer.write(ids[None])
        writer.raster.write_colormap(1, colour_table(palette))
        writer.close()


def copy_points(source: rasterio.DatasetReader,
                target: rasterio.io.DatasetWriter) -> None:
    """Ground control points and RPCs of a raster on the same grid.

    Where there is a transform, too, it is the place, and points are not.
    """
    points, crs = source.gcps
    if points and transform_of(source).is_identity:
        target.gcps = points, crs
    if source.rpcs:
        target.rpcs = source.rpcs
