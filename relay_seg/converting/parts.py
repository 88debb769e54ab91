"""One's own rasters, whole or in parts, with labels of their own."""
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine
from shapely import Geometry

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import Grid, identity, known_crs
from relay_seg.rasters.vectors import (
    Vectors,
    bounds_of,
    draw,
    read_vectors,
    sound,
    to_plane,
    touching,
)

from .bands import Bands, Resampled, Sheet, open_bands
from .legend import as_text
from .own_masks import MaskLabel, Reading, open_mask


class Box(NamedTuple):
    """An upright part of a raster in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Part:
    """What becomes one scene.

    Args:
        name: Name of the scene.
        split: train, val or test.
        sheet: Raster.
        box: Part of it.
        outline: Polygon in the plane of the raster, outside of which nothing
            is kept; None for all of the box.
    """

    name: str
    split: str
    sheet: Sheet
    box: Box
    outline: Geometry | None = None

    @property
    def grid(self) -> Grid:
        """Size and place of the box."""
        whole = self.sheet.grid
        return Grid(
            self.box.height, self.box.width, whole.crs,
            whole.transform @ Affine.translation(self.box.left, self.box.top))


@dataclass(frozen=True)
class Drawing:
    """Polygons that become labels.

    Args:
        path: File of the polygons.
        layer: Layer, None for the only one.
        column: Attribute that holds the class; None if all are of one.
        values: Class id of each value.
        background: Class id where no polygon lies.
        by_class: Whether later classes lie over earlier ones; else later
            polygons of the file over earlier ones.
        repair: Mend polygons that cannot be drawn.
    """

    path: Path
    layer: str | None
    column: str | None
    values: Mapping[str, int]
    background: int
    by_class: bool
    repair: bool


class DrawnLabel:
    """Polygons over a part, drawn in rows.

    Args:
        drawing: What to draw.
        grid: Size and place of the part.
        notes: Remarks; more are appended.
    """

    def __init__(self, drawing: Drawing, grid: Grid,
                 notes: list[str]) -> None:
        features = _features(drawing.path, drawing.layer,
                             str(identity(drawing.path)))
        crs = known_crs(grid.crs)
        plane = to_plane(features.shapes, features.crs, crs)
        near = touching(plane, bounds_of(
            grid.height, grid.width, grid.transform))
        if drawing.column is None:
            (values, ) = (np.full(len(near), ident)
                          for ident in drawing.values.values())
        else:
            texts = as_text(features.columns[drawing.column][near])
            values = np.array([drawing.values[text] for text in texts], int)
        shapes = sound(features, near, crs, drawing.repair, notes)
        if drawing.by_class:
            order = np.argsort(values, kind='stable')
            shapes, values = shapes[order], values[order]
        self._shapes, self._values = shapes, values
        self._background, self._grid = drawing.background, grid
        self._notes = notes
        self._contested = 0

    def rows(self, top: int, height: int) -> np.ndarray:
        """Class ids (height, W) from row ``top`` on."""
        size = height, self._grid.width, (
            self._grid.transform @ Affine.translation(0, top))
        label = draw(self._shapes, self._values, *size, self._background)
        below = draw(self._shapes[::-1], self._values[::-1], *size,
                     self._background)
        self._contested += int(np.count_nonzero(label != below))
        return label

    def finish(self) -> None:
        """Tell what only the whole part shows."""
        if self._contested:
            share = self._contested / (self._grid.height * self._grid.width)
            self._notes.append(
                f'{self._contested} pixels ({share:.2%}) lie in polygons of '
                'several classes')


class CutLabel:
    """A part of a label raster.

    Args:
        label: The raster.
        box: The part.
    """

    def __init__(self, label: MaskLabel, box: Box) -> None:
        self._label, self._box = label, box

    def rows(self, top: int, height: int) -> np.ndarray:
        """Class ids (height, W) from row ``top`` of the part on."""
        return self._label.rows(
            self._box.top + top, height, self._box.width, self._box.left)

    def finish(self) -> None:
        """See :meth:`own_masks.MaskLabel.finish`."""
        self._label.finish()


class PartScene:
    """A part of a raster with its label, see :class:`scenes.Scene`.

    Args:
        bands: Open raster.
        label: Its label.
        part: The part.
        notes: Remarks for the manifest.
    """

    def __init__(self, bands: Bands | Resampled,
                 label: DrawnLabel | CutLabel, part: Part,
                 notes: list[str]) -> None:
        self.grid = part.grid
        self.count, self.dtype = bands.count, bands.dtype
        self.nodata, self.notes = bands.nodata, notes
        self._bands, self._label, self._part = bands, label, part
        self._labelled = 0

    def rows(self, top: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, height, W) and label (height, W)."""
        box = self._part.box
        pixels = self._bands.rows(
            box.top + top, box.left, height, box.width)
        label = self._label.rows(top, height)
        if self._part.outline is not None:
            place = self.grid.transform @ Affine.translation(0, top)
            inside = draw(np.array([self._part.outline]), [1], height,
                          box.width, place, 0)
            pixels[:, inside == 0] = self.nodata
            label[inside == 0] = IGNORE
        label[self._bands.is_empty(pixels)] = IGNORE
        self._labelled += int(np.count_nonzero(label != IGNORE))
        return pixels, label

    def finish(self) -> None:
        """Tell what only the whole part shows."""
        self._label.finish()
        if not self._labelled:
            self.notes.append('no pixel has a class')


@contextmanager
def open_part(image_path: Path, *label_paths: Path, part: Part,
              truth: Drawing | Reading) -> Iterator[PartScene]:
    """Open a part of a raster.

    Args:
        image_path: The raster.
        label_paths: Label raster, or polygons, and what else the part
            depends on.
        part: What to read.
        truth: Polygons, or what the pixels of the label mean.

    Raises:
        ValueError: Something does not fit; says what.
    """
    notes: list[str] = []
    label: DrawnLabel | CutLabel
    with ExitStack() as stack:
        bands = stack.enter_context(
            open_bands(part.sheet, part.outline is not None))
        if isinstance(truth, Drawing):
            label = DrawnLabel(truth, part.grid, notes)
        else:
            label = CutLabel(stack.enter_context(open_mask(
                label_paths[0], truth, part.sheet.grid, image_path, notes)),
                part.box)
        yield PartScene(bands, label, part, notes)


@lru_cache(maxsize=2)
def _features(path: Path, layer: str | None, state: str) -> Vectors:
    """Parts of one raster share their polygons."""
    return read_vectors(path, layer)


def whole_box(sheet: Sheet) -> Box:
    """All of a raster."""
    return Box(0, 0, sheet.grid.height, sheet.grid.width)
