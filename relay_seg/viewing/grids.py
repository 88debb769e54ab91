"""Where the pixels of one raster lie in another."""
from collections.abc import Sequence

import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as to_crs

from relay_seg.rasters import Grid, ground_pixel, same_grid

#: Two files without a CRS but with coordinates are taken to share a plane.
PLANE = CRS.from_epsg(3857)


def square_metres(grid: Grid) -> float | None:
    """Area of the middle pixel; None if it has no place on the earth."""
    if grid.crs is None or grid.transform.is_identity:
        return None
    side = ground_pixel(grid.crs, grid.transform, grid.shape)
    return None if side is None else side**2


def _corners(grid: Grid) -> list[tuple[float, float]]:
    return [(0, 0), (grid.width, 0), (grid.width, grid.height),
            (0, grid.height)]


def check_fit(grid: Grid, other: Grid, name: str, other_name: str) -> None:
    """Raise ValueError unless a raster can be laid over another one.

    Args:
        grid: Of the raster to lay over.
        other: Of the raster below.
        name: Of the raster to lay over.
        other_name: Of the raster below.
    """
    if same_grid(grid, other):
        return
    sizes = (f'{name} has {grid.width} x {grid.height} pixels, {other_name} '
             f'has {other.width} x {other.height}')
    for side, which in ((grid, name), (other, other_name)):
        if side.transform.is_identity:
            raise ValueError(
                f'{sizes}, and {which} has no georeferencing to lay one over '
                'the other; give rasters of one size, or georeferenced ones.')
    if bool(grid.crs) != bool(other.crs):
        which = other_name if grid.crs else name
        raise ValueError(f'{sizes}, and {which} has no CRS; set it, for '
                         'instance by `rio edit-info --crs`.')
    columns, rows = zip(*map_pixels(_corners(grid), grid, other))
    if (max(columns) <= 0 or max(rows) <= 0 or min(columns) >= other.width
            or min(rows) >= other.height):
        raise ValueError(f'{name} and {other_name} do not overlap; check that '
                         'they show the same place.')


def map_pixels(points: Sequence[tuple[float, float]], source: Grid,
               target: Grid) -> list[tuple[float, float]]:
    """Points (column, row) of one grid as points of another one."""
    if same_grid(source, target):
        return list(points)
    places = [source.transform @ point for point in points]
    if source.crs and target.crs and source.crs != target.crs:
        places = list(zip(*to_crs(source.crs, target.crs, *zip(*places))))
    return [~target.transform @ place for place in places]


def lay_over(raster: rasterio.DatasetReader, grid: Grid,
             nodata: float) -> WarpedVRT:
    """A raster of ids at the pixels of another grid, by nearest neighbour.

    Args:
        raster: Open file.
        grid: Of the result.
        nodata: Value outside the raster.
    """
    return WarpedVRT(
        raster, src_crs=raster.crs or PLANE, crs=grid.crs or PLANE,
        transform=grid.transform, height=grid.height, width=grid.width,
        resampling=Resampling.nearest, src_nodata=raster.nodata,
        nodata=nodata)
