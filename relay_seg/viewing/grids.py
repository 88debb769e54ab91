"""Where the pixels of one raster lie in another."""
from collections.abc import Sequence
from typing import NamedTuple

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as to_crs

#: Two files without a CRS but with coordinates are taken to share a plane.
PLANE = CRS.from_epsg(3857)
TOLERANCE = 0.1  # pixels by which the corners of equal grids may differ


class Grid(NamedTuple):
    """Size of a raster in pixels, and where they lie on the ground.

    Args:
        height: Rows.
        width: Columns.
        transform: From (column, row) to map coordinates.
        crs: Of the map coordinates.
    """
    height: int
    width: int
    transform: Affine
    crs: CRS | None

    @classmethod
    def of(cls, raster: rasterio.DatasetReader) -> 'Grid':
        return cls(raster.height, raster.width, raster.transform, raster.crs)

    @property
    def has_coordinates(self) -> bool:
        return self.transform != Affine.identity()

    @property
    def square_metres(self) -> float | None:
        """Area of a pixel; None without a projected CRS."""
        if self.crs is None or not self.crs.is_projected:
            return None
        try:
            metres = self.crs.linear_units_factor[1]
        except CRSError:
            return None
        return abs(self.transform.determinant) * metres**2

    def corners(self) -> list[tuple[float, float]]:
        return [(0, 0), (self.width, 0), (self.width, self.height),
                (0, self.height)]


def is_same(a: Grid, b: Grid) -> bool:
    """Whether pixel (x, y) of one grid is pixel (x, y) of the other.

    A raster without map coordinates (a PNG, say) fits one of its size.
    """
    if (a.height, a.width) != (b.height, b.width):
        return False
    if not (a.has_coordinates and b.has_coordinates):
        return True
    if a.crs and b.crs and a.crs != b.crs:
        return False
    to_b = ~b.transform @ a.transform
    return all(
        abs(found - here) < TOLERANCE for corner in a.corners()
        for found, here in zip(to_b @ corner, corner))


def check_fit(grid: Grid, other: Grid, name: str, other_name: str) -> None:
    """Raise ValueError unless a raster can be laid over another one.

    Args:
        grid: Of the raster to lay over.
        other: Of the raster below.
        name: Of the raster to lay over.
        other_name: Of the raster below.
    """
    if is_same(grid, other):
        return
    sizes = (f'{name} has {grid.width} x {grid.height} pixels, {other_name} '
             f'has {other.width} x {other.height}')
    for side, which in ((grid, name), (other, other_name)):
        if not side.has_coordinates:
            raise ValueError(
                f'{sizes}, and {which} has no georeferencing to lay one over '
                'the other; give rasters of one size, or georeferenced ones.')
    if bool(grid.crs) != bool(other.crs):
        which = other_name if grid.crs else name
        raise ValueError(f'{sizes}, and {which} has no CRS; set it, for '
                         'instance by `rio edit-info --crs`.')
    columns, rows = zip(*map_pixels(grid.corners(), grid, other))
    if (max(columns) <= 0 or max(rows) <= 0 or min(columns) >= other.width
            or min(rows) >= other.height):
        raise ValueError(f'{name} and {other_name} do not overlap; check that '
                         'they show the same place.')


def map_pixels(points: Sequence[tuple[float, float]], source: Grid,
               target: Grid) -> list[tuple[float, float]]:
    """Points (column, row) of one grid as points of another one."""
    if is_same(source, target):
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
