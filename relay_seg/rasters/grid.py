"""Size and place of a raster, and whether two rasters share them."""
from dataclasses import dataclass

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

#: Largest difference of grids that are taken for one, in pixels.
APART = 0.01


@dataclass(frozen=True)
class Grid:
    """Size and place of a raster; no CRS and the identity if unknown."""
    height: int
    width: int
    crs: CRS | None = None
    transform: Affine = Affine.identity()

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width


def transform_of(raster: DatasetReader | WarpedVRT) -> Affine:
    """Where pixels lie; the identity where the file does not say.

    Of some formats, such as PPM, rasterio leaves it undefined then.
    """
    place = raster.transform
    if raster.driver == 'PNM' or abs(place.determinant) < 1e-30:
        return Affine.identity()
    return place


def grid_of(raster: DatasetReader | WarpedVRT) -> Grid:
    """Size and place of an open file."""
    return Grid(raster.height, raster.width, raster.crs, transform_of(raster))


def known_crs(crs: str | CRS | None) -> CRS | None:
    """A CRS, or None for one that names no place on earth."""
    if not crs:
        return None
    try:
        found = CRS.from_user_input(crs)
    except CRSError:
        return None
    return found if found.is_geographic or found.is_projected else None


def same_grid(a: Grid | DatasetReader, b: Grid | DatasetReader) -> bool:
    """Whether each pixel of one raster is that pixel of the other.

    A raster without a place fits any of its size, one without a CRS lies in
    the plane of the other.
    """
    if (a.height, a.width) != (b.height, b.width):
        return False
    if a.transform.is_identity or b.transform.is_identity:
        return True
    planes = known_crs(a.crs), known_crs(b.crs)
    if None not in planes and planes[0] != planes[1]:
        return False
    to_b = ~b.transform @ a.transform
    corners = (0, 0), (a.width, 0), (0, a.height), (a.width, a.height)
    return all(abs(found - here) <= APART for corner in corners
               for found, here in zip(to_b @ corner, corner))


def told(grid: Grid) -> str:
    """A grid in words, for messages."""
    place = ('no place' if grid.transform.is_identity
             else f'from {grid.transform.c:.10g}, {grid.transform.f:.10g}')
    return (f'{grid.height} x {grid.width} pixels, {place}, '
            f'{grid.crs or "no CRS"}')


def pixel_metres(grid: Grid) -> float | None:
    """Side of a pixel in metres; None where the file does not say.

    A place without a CRS is taken to be in metres: some owners hide where
    their data lie by removing it.
    """
    if grid.transform.is_identity:
        return None
    if grid.crs is None:
        unit = 1.
    elif grid.crs.is_projected:
        unit = grid.crs.linear_units_factor[1]
    else:
        return None
    return abs(grid.transform.determinant)**0.5 * unit
