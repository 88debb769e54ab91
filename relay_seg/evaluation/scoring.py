"""Scores of predictions that are larger than memory, and of areas in them.

shapely and pyogrio are imported where they are used: scores without areas do
not need them.
"""
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.windows import Window as Part

from relay_seg.class_ids import IGNORE
from relay_seg.datasets.labels import as_ids, label_lookup, map_labels
from relay_seg.inference.outputs import scores_of
from relay_seg.rasters import (
    MARK,
    Grid,
    data_bands,
    grid_of,
    known_crs,
    open_raster,
    refuse_overwriting,
    reused_raster,
    write_text,
)
from relay_seg.rasters.grid import APART, told
from relay_seg.views import Window

from .confusion import confusion_matrix
from .report import NAMES, SceneCount, make_report, means, scores
from .results import strict_json

if TYPE_CHECKING:
    import shapely

SIDE = 1024  # rows and columns of a raster that are counted at a time
SCHEMA, VERSION = 'relay_seg/scores', 1


@dataclass
class Count:
    """Pixels of a scene or an area.

    Args:
        matrix: (C, C) int64, by true and by predicted class.
        ignored: Pixels whose truth does not count or is not known.
        unpredicted: Pixels with a truth, but without a prediction.
    """
    matrix: np.ndarray
    ignored: int = 0
    unpredicted: int = 0

    def __add__(self, other: 'Count') -> 'Count':
        return Count(self.matrix + other.matrix,
                     self.ignored + other.ignored,
                     self.unpredicted + other.unpredicted)


@dataclass
class Counts:
    """Pixels of a part of a scene, to be added to those of other parts.

    Args:
        whole: All of them.
        areas: Those in each area; an area without pixels may be left out.
    """
    whole: Count
    areas: dict[str, Count] = field(default_factory=dict)

    def __add__(self, other: 'Counts') -> 'Counts':
        areas = dict(self.areas)
        for name, count in other.areas.items():
            areas[name] = areas[name] + count if name in areas else count
        return Counts(self.whole + other.whole, areas)


class Score:
    """Compares a prediction with the truth, a part at a time.

    Args:
        truth: Raster of class ids, with pixels as those of the prediction.
            It may be of a part of it only: elsewhere the truth is not known.
        classes: Names of the classes.
        grid: Of the prediction.
        reduce_zero_label: Id 0 of the truth is ignored and the others move
            down by one, as in the host.
        areas: Polygons to score one by one.
        area_column: Attribute that names them; those of one name are one
            area. By default ``id`` where there is one, else the number of
            the feature.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be read, or lies elsewhere.
    """

    def __init__(self, truth: Path, classes: Sequence[str], grid: Grid, *,
                 reduce_zero_label: bool = False, areas: Path | None = None,
                 area_column: str | None = None) -> None:
        self.truth, self.classes, self.areas = truth, tuple(classes), areas
        self._lookup = label_lookup(len(classes), None, reduce_zero_label)
        with open_raster(truth) as raster:
            if len(data_bands(raster)) != 1:
                raise ValueError(f'{truth} has {raster.count} bands; a truth '
                                 'has one, of class ids.')
            self._top, self._left, self._steps = _offset(
                truth, grid_of(raster), grid)
        self._areas = _Areas(areas, area_column, grid) if areas else None

    def count(self, ids: np.ndarray, top: int, left: int) -> Counts:
        """Count a part of the prediction.

        Args:
            ids: Predicted class ids (H, W) uint8; 255 is no prediction.
            top: Its first row.
            left: Its first column.

        Raises:
            ValueError: The truth has ids of no class, or is damaged.
        """
        truth = self._read(Window(top, left, *ids.shape))
        areas: dict[str, Count] = {}
        for name, part, inside in (
                self._areas.in_part(top, left, *ids.shape)
                if self._areas else ()):
            own = self._compare(ids[part], np.where(
                inside, truth[part], IGNORE))
            own.ignored -= int((~inside).sum())
            areas[name] = areas[name] + own if name in areas else own
        return Counts(self._compare(ids, truth), areas)

    def _compare(self, ids: np.ndarray, truth: np.ndarray) -> Count:
        known = truth != IGNORE
        matrix = confusion_matrix(
            torch.from_numpy(np.ascontiguousarray(ids)), torch.from_numpy(
                np.where(ids == IGNORE, IGNORE, truth)),
            len(self.classes)).numpy()
        return Count(matrix, int((~known).sum()),
                     int((known & (ids == IGNORE)).sum()))

    def _read(self, region: Window) -> np.ndarray:
        """Class ids of a part of the prediction, 255 where not known."""
        path = str(self.truth)
        with reused_raster(path) as raster:
            rows, columns = (
                slice(max(start - move, 0), max(min(
                    start + size - move, length), 0))
                for start, size, move, length in zip(
                    region[:2], region[2:4], (self._top, self._left),
                    raster.shape))
            dtype = np.promote_types(raster.dtypes[0], np.uint8)
            out = np.full(region[2:4], IGNORE, dtype)
            if rows.stop > rows.start and columns.stop > columns.start:
                there = Part.from_slices(*(
                    part if step > 0 else slice(
                        length - part.stop, length - part.start)
                    for part, step, length in zip(
                        (rows, columns), self._steps, raster.shape)))
                down, right = self._steps
                found = raster.read(1, window=there)[::down, ::right]
                known = raster.read_masks(
                    1, window=there)[::down, ::right] > 0
                first = (rows.start + self._top - region.top,
                         columns.start + self._left - region.left)
                out[first[0]:first[0] + found.shape[0],
                    first[1]:first[1] + found.shape[1]] = np.where(
                        known, found, dtype.type(IGNORE))
        return map_labels(as_ids(out, path), self._lookup, path)


def _offset(truth: Path, own: Grid, grid: Grid
            ) -> tuple[int, int, tuple[int, int]]:
    """Row and column of a prediction at which its truth begins.

    And the steps, 1 or -1, by which to go through rows and columns of the
    truth: one of both may have the south at the top.

    Raises:
        ValueError: Its pixels are not those of the prediction.
    """
    if own.transform.is_identity or grid.transform.is_identity:
        offset, fits = Affine.identity(), own.shape == grid.shape
    else:
        offset = ~grid.transform @ own.transform
        planes = known_crs(own.crs), known_crs(grid.crs)
        apart = [there - (step * here + round(move)) for corner in (
            (0, 0), (own.width, 0), (0, own.height), (own.width, own.height))
            for there, here, move, step in zip(
                offset @ corner, corner, (offset.c, offset.f),
                _steps(offset)[::-1])]
        fits = (None in planes or planes[0] == planes[1]) and (
            np.abs(apart).max() <= APART)
    if not fits:
        left, top = grid.transform @ (0, 0)
        right, bottom = grid.transform @ (grid.width, grid.height)
        raise ValueError(
            f'{truth} ({told(own)}) has other pixels than the prediction '
            f'({told(grid)}); bring it to them first: gdalwarp -r near '
            f'-t_srs "{grid.crs}" -te {min(left, right)} '
            f'{min(top, bottom)} {max(left, right)} {max(top, bottom)} '
            f'-ts {grid.width} {grid.height} {truth} on_its_pixels.tif')
    steps = _steps(offset)
    top, left = (
        round(move) - (length if step < 0 else 0) for move, length, step in
        zip((offset.f, offset.c), own.shape, steps))
    if not (-own.height < top < grid.height
            and -own.width < left < grid.width):
        raise ValueError(
            f'{truth} ({told(own)}) and the prediction ({told(grid)}) do not '
            'overlap; give the truth of this scene.')
    return top, left, steps


def _steps(offset: Affine) -> tuple[int, int]:
    return 1 if offset.e > 0 else -1, 1 if offset.a > 0 else -1


class _Areas:
    """Polygons with names, in pixels of a prediction."""

    def __init__(self, path: Path, column: str | None, grid: Grid) -> None:
        import shapely

        from relay_seg.rasters.vectors import read_vectors, to_plane
        vectors = read_vectors(path)
        if column is None and 'id' in vectors.columns:
            column = 'id'
        for i, size in enumerate(shapely.get_dimensions(vectors.shapes)):
            if 0 <= size < 2 and not shapely.is_empty(vectors.shapes[i]):
                raise ValueError(
                    f'{path}: feature {vectors.ids[i]} is a '
                    f'{vectors.shapes[i].geom_type}, which has no area; give '
                    'polygons only.')
        if column is not None and column not in vectors.columns:
            raise ValueError(
                f'{path} has no attribute {column}, but '
                f'{list(vectors.columns)}; name one of them.')
        names = vectors.columns[column] if column else vectors.ids
        inverse = ~grid.transform
        shapes = shapely.transform(
            to_plane(vectors.shapes, vectors.crs, known_crs(grid.crs)),
            lambda xy: np.column_stack(inverse @ tuple(xy.T)))
        self._shapes = shapely.make_valid(shapes)
        self.names = [str(name) for name in names]
        self._tree = shapely.STRtree(self._shapes)
        if not len(self._near(0, 0, grid.height, grid.width)):
            raise ValueError(
                f'{path} has no polygon on the prediction ({told(grid)}); '
                'its CRS is wrong, or it is of another place.')

    def _near(self, top: int, left: int, height: int,
              width: int) -> np.ndarray:
        import shapely
        return np.sort(self._tree.query(shapely.box(
            left, top, left + width, top + height), predicate='intersects'))

    def in_part(self, top: int, left: int, height: int, width: int
                ) -> Iterator[tuple[str, tuple[slice, slice], np.ndarray]]:
        """Name, rows and columns, and which of them have their centre in it.

        Features of one name that share pixels are counted as one.
        """
        groups: dict[str, list[shapely.Geometry]] = {}
        for i in self._near(top, left, height, width):
            groups.setdefault(self.names[i], []).append(self._shapes[i])
        for name, shapes in groups.items():
            boxes = np.array([shape.bounds for shape in shapes])
            x0, y0 = np.floor(boxes[:, :2].min(0)).astype(int)
            x1, y1 = np.ceil(boxes[:, 2:].max(0)).astype(int)
            x0, x1 = np.clip((x0, x1), left, left + width)
            y0, y1 = np.clip((y0, y1), top, top + height)
            if x0 == x1 or y0 == y1:
                continue
            inside = rasterize(
                shapes, (y1 - y0, x1 - x0), dtype='uint8',
                transform=Affine.translation(x0, y0)).astype(bool)
            yield name, (slice(y0 - top, y1 - top),
                         slice(x0 - left, x1 - left)), inside


def count_raster(classes: Path, score: Score) -> Counts:
    """Count a whole prediction of any size.

    Args:
        classes: Raster of class ids.
        score: What it is compared with.
    """
    size = len(score.classes)
    counts = Counts(Count(np.zeros((size, size), np.int64)))
    with open_raster(classes) as raster:
        for top in range(0, raster.height, SIDE):
            for left in range(0, raster.width, SIDE):
                part = Part(left, top, min(SIDE, raster.width - left),
                            min(SIDE, raster.height - top))
                counts += score.count(raster.read(1, window=part), top, left)
    return counts


def score_prediction(classes: Path, truth: Path, *,
                     reduce_zero_label: bool = False,
                     areas: Path | None = None,
                     area_column: str | None = None,
                     overwrite: bool = False) -> dict:
    """Score a prediction; ``NAME_scores.json`` and ``.csv`` beside it.

    Args:
        classes: Class ids that a prediction wrote.
        truth: See :class:`Score`, as what follows.
        reduce_zero_label: Whether id 0 of the truth is ignored.
        areas: Polygons to score one by one.
        area_column: Attribute that names them.
        overwrite: Write over files that are no scores.

    Returns:
        What the file holds.

    Raises:
        ValueError: Truth or areas do not fit, nothing wrote ``classes``
            that names its classes, or a file would be lost.
    """
    out = scores_of(classes)
    refuse_overwriting(
        {'scores': out, 'their table': out.with_suffix('.csv')},
        filter(None, (classes, truth, areas)), overwrite)
    with open_raster(classes) as raster:
        names = raster.tags(ns=MARK).get('CLASS_NAMES')
        grid = grid_of(raster)
    if names is None:
        raise ValueError(f'{classes} does not name its classes; give a file '
                         'that tools/predict.py wrote.')
    score = Score(truth, json.loads(names), grid,
                  reduce_zero_label=reduce_zero_label, areas=areas,
                  area_column=area_column)
    return write_scores(out, count_raster(classes, score), score)


def write_scores(path: Path, counts: Counts, score: Score) -> dict:
    """Write what counts say, as JSON, and as a table beside it (.csv).

    Args:
        path: File to write, ``.json``.
        counts: Sum of all parts.
        score: Where they come from.

    Returns:
        What the file holds; shares in percent, NaN where undefined.
    """
    whole = counts.whole
    report = make_report([SceneCount(
        path=None, matrix=whole.matrix, ignored=whole.ignored)],
        score.classes)
    areas = [dict(area=name, **_line(count, score.classes))
             for name, count in sorted(counts.areas.items())]
    found = {MARK: 'scores', 'schema': SCHEMA, 'schema_version': VERSION,
             'truth': str(score.truth),
             'areas_of': str(score.areas) if score.areas else None,
             'metrics': report['metrics'], 'classes': report['classes'],
             'confusion': report['confusion'], 'ignored': whole.ignored,
             'unpredicted': whole.unpredicted, 'areas': areas}
    lines = [dict(area='', **_line(whole, score.classes)), *areas]
    table = StringIO()
    writer = csv.DictWriter(table, list(lines[0]), lineterminator='\n')
    writer.writeheader()
    for line in lines:
        writer.writerow({k: '' if v != v else v for k, v in line.items()})
    write_text(path.with_suffix('.csv'), table.getvalue())
    write_text(path, strict_json(found))
    return found


def _line(count: Count, classes: Sequence[str]) -> dict:
    by_class = scores(count.matrix)
    return dict(
        pixels=int(count.matrix.sum()), ignored=count.ignored,
        unpredicted=count.unpredicted,
        **{k: v for k, v in means(count.matrix).items()
           if not k.endswith('_all')},
        **{f'{name}/{label}': 100 * float(by_class[name][i])
           for name in NAMES for i, label in enumerate(classes)})
