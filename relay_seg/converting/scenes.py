"""One scene from raw files to an image, a label and what is in them."""
from collections.abc import Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import Grid, same_grid
from relay_seg.rasters.writing import colour_table, strips

from .sources import ColourImage, open_image
from .writing import BLACK, RasterWriter

#: Sizes of image and label may differ by this much on request.
TRIM = 8


class Label(Protocol):
    """Class ids that come in rows."""

    path: Path
    grid: Grid

    def rows(self, top: int, height: int, width: int) -> np.ndarray:
        """(height, width) uint8."""

    def finish(self) -> None:
        """Raise what only the whole label shows."""


class RawScene(Protocol):
    """An image with its label, open for reading in rows."""

    grid: Grid
    count: int
    dtype: str
    nodata: float | None
    notes: list[str]

    def rows(self, top: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, height, W) and label (height, W)."""

    def finish(self) -> None:
        """Raise what only the whole scene shows."""


@dataclass
class Pair:
    """An image file with a label of its size.

    Args:
        image: Open image.
        label: Open label.
        grid: Size to read.
        notes: Remarks for the manifest.
    """

    image: ColourImage
    label: Label
    grid: Grid
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.count = self.image.count
        self.dtype = self.image.dtype
        self.nodata = self.image.nodata

    def rows(self, top: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Scene`."""
        place = top, height, self.grid.width
        pixels, label = self.image.rows(*place), self.label.rows(*place)
        if self.nodata is not None:
            label[(pixels == self.nodata).all(0)] = IGNORE
        return pixels, label

    def finish(self) -> None:
        """See :class:`Scene`."""
        self.label.finish()


@contextmanager
def open_pair(image_path: Path, opening: AbstractContextManager[Label],
              trim: bool = False) -> Iterator[Pair]:
    """Open an image and its label.

    Args:
        image_path: Image of red, green and blue.
        opening: Opens the label.
        trim: Cut both to the size they share, if they differ by a few
            pixels.

    Raises:
        ValueError: They differ in size or place.
    """
    with ExitStack() as stack:
        image = stack.enter_context(open_image(image_path))
        label = stack.enter_context(opening)
        grid, notes = image.grid, list(getattr(label, 'notes', ()))
        sizes = [(x.height, x.width) for x in (grid, label.grid)]
        if sizes[0] != sizes[1]:
            apart = np.abs(np.subtract(sizes[0], sizes[1])).max()
            told = (f'{image.path} has {sizes[0][0]} x {sizes[0][1]} pixels '
                    f'and {label.path} {sizes[1][0]} x {sizes[1][1]} '
                    '(rows x columns)')
            if not trim or apart > TRIM:
                remedy = ('mend one of them' if apart > TRIM else
                          'mend one of them, or use --trim to cut both to '
                          'the size they share')
                raise ValueError(f'{told}; {remedy}.')
            height, width = (min(sides) for sides in zip(*sizes))
            grid = replace(grid, height=height, width=width)
            notes.append(f'{told}; trimmed to {height} x {width}')
        if not same_grid(grid, replace(
                label.grid, height=grid.height, width=grid.width)):
            raise ValueError(
                f'{label.path} does not lie on {image.path}: their CRS or '
                'transform differ. Bring them to one grid, for example with '
                'gdalwarp, or remove the place that is wrong.')
        yield Pair(image, label, grid, notes)


class BandStatistics:
    """Mean and deviation of each band, over pixels that hold something."""

    def __init__(self, count: int, nodata: float | None) -> None:
        self.nodata = nodata
        self.number = np.zeros(count, dtype=np.int64)
        self.mean = np.zeros(count)
        self.squares = np.zeros(count)  # sum of (x - mean)**2

    def add(self, rows: np.ndarray) -> None:
        """Count rows (C, H, W) in."""
        for band, pixels in enumerate(rows):
            if self.nodata is not None:
                valid = (~np.isnan(pixels) if np.isnan(self.nodata) else
                         pixels != self.nodata)
                pixels = pixels[valid]
            if pixels.size:
                self._merge(band, pixels.size, *_moments(pixels))

    def _merge(self, band: int, number: int, mean: float,
               variance: float) -> None:
        before = self.number[band]
        total = before + number
        shift = mean - self.mean[band]
        self.mean[band] += shift * number / total
        self.squares[band] += (variance * number
                               + shift**2 * before * number / total)
        self.number[band] = total

    def record(self) -> list[dict]:
        """Of each band: mean, deviation and number of valid pixels."""
        deviation = np.sqrt(self.squares / np.maximum(self.number, 1))
        return [
            dict(mean=float(m), std=float(s), valid=int(n))
            for m, s, n in zip(self.mean, deviation, self.number)
        ]


def _moments(pixels: np.ndarray) -> tuple[float, float]:
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.ravel(), minlength=256)
        mean = counts @ np.arange(256) / counts.sum()
        return mean, counts @ (np.arange(256) - mean)**2 / counts.sum()
    return pixels.mean(dtype=np.float64), pixels.var(dtype=np.float64)


def write_scene(scene: RawScene, image: Path, label: Path, scratch: Path,
                palette: Sequence[Sequence[int]]) -> dict:
    """Write a scene; both files appear when both are whole.

    Args:
        scene: Open scene.
        image: Image to write.
        label: Label to write.
        scratch: Folder for unfinished files, on the same file system.
        palette: Colour of each class.

    Returns:
        Size, pixels of each class and statistics, for the manifest.
    """
    grid = scene.grid
    counts = np.zeros(256, dtype=np.int64)
    statistics = BandStatistics(scene.count, scene.nodata)
    with RasterWriter(
            image, grid, scene.count, scene.dtype, nodata=scene.nodata,
            scratch=scratch) as images, RasterWriter(
                label, grid, 1, 'uint8', colours=colour_table(palette, BLACK),
                scratch=scratch) as labels:
        for top, height in strips(grid.height):
            pixels, ids = scene.rows(top, height)
            images.write(pixels)
            labels.write(ids[None])
            statistics.add(pixels)
            counts += np.bincount(ids.ravel(), minlength=256)
        scene.finish()
        if counts[len(palette):IGNORE].any():
            found = np.flatnonzero(counts).tolist()
            raise ValueError(
                f'{label} would hold ids {found} with {len(palette)} classes;'
                ' the tables of this converter are wrong.')
        for writer in (labels, images):
            writer.finish()
        for writer in (labels, images):
            writer.publish()
    return dict(
        height=grid.height, width=grid.width,
        class_pixels=counts[:len(palette)].tolist(),
        ignored_pixels=int(counts[IGNORE]),
        bands=statistics.record(), notes=scene.notes)
