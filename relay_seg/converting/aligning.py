"""Rasters brought to the grid of the image that they belong to."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from relay_seg.rasters import Grid, grid_of, known_crs, same_grid
from relay_seg.rasters.vectors import bounds_of

#: Warped where neither raster says where on earth it is: any plane will do.
SOME_PLANE = CRS.from_epsg(3857)


@contextmanager
def laid_on(raster: rasterio.DatasetReader, grid: Grid, image: str | Path,
            method: Resampling | None, notes: list[str],
            **options) -> Iterator[rasterio.DatasetReader | WarpedVRT]:
    """A raster on the grid of an image, itself if it is there already.

    Args:
        raster: Open file.
        grid: Of the image.
        image: File of the image, for messages.
        method: How to resample; None for the mean where that is coarser,
            else bilinearly.
        notes: Remarks; one is appended if it is resampled.
        options: Of the resampled raster, see ``rasterio.vrt.WarpedVRT``.

    Raises:
        ValueError: They differ in size and one does not say where it lies,
            they do not overlap, or it has a mask.
    """
    own = grid_of(raster)
    if same_grid(own, grid):
        yield raster
        return
    if own.transform.is_identity or grid.transform.is_identity:
        raise ValueError(
            f'{image} has {grid.height} x {grid.width} pixels and '
            f'{raster.name} {own.height} x {own.width} (rows x columns), and '
            'not both say where they lie; mend one of them.')
    planes = known_crs(own.crs), known_crs(grid.crs)
    source, target = planes if None not in planes else (SOME_PLANE, ) * 2
    there = bounds_of(own.height, own.width, own.transform)
    if source != target:
        there = transform_bounds(source, target, *there)
    here = bounds_of(grid.height, grid.width, grid.transform)
    if not shapely.box(*there).intersection(shapely.box(*here)).area:
        raise ValueError(
            f'{raster.name} covers {rounded(there)} but {image} covers '
            f'{rounded(here)} in {named(grid.crs)}; they do not overlap. '
            'One has the wrong CRS or is of another place.')
    if MaskFlags.per_dataset in raster.mask_flag_enums[0]:
        raise ValueError(
            f'{raster.name} lies on another grid than {image}, and its mask '
            'would be lost on the way; write no data as a value instead, for '
            'example with gdalwarp -dstnodata.')
    if method is None:
        finer = (shapely.box(*there).area / np.prod(raster.shape)
                 < shapely.box(*here).area / (grid.height * grid.width) / 2)
        method = Resampling.average if finer else Resampling.bilinear
    notes.append(
        f'{raster.name} resampled ({method.name}) to the grid of the image, '
        f'from {own.height} x {own.width} pixels in {named(own.crs)}')
    with WarpedVRT(
            raster, src_crs=source, crs=target, transform=grid.transform,
            height=grid.height, width=grid.width, resampling=method,
            **options) as warped:
        yield warped


def rounded(bounds: Sequence[float]) -> str:
    """Bounds, for messages."""
    left, bottom, right, top = (f'{value:.7g}' for value in bounds)
    return f'x {left} to {right}, y {bottom} to {top}'


def named(crs: CRS | None) -> str:
    """A CRS, for messages."""
    return crs.to_string() if crs and known_crs(crs) else 'an unknown CRS'
