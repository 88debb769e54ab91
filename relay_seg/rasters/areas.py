"""Areas on the ground, in whatever CRS a raster is."""
import numpy as np
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as reproject

SIDE = 21  # points on a side of the grid that stands for a raster
#: From the middle of an azimuthal map, where a quarter of the earth away is.
QUARTER = 6.371e6 * 2**0.5


def equal_area(crs: CRS, transform: Affine,
               shape: tuple[int, int]) -> CRS | None:
    """A CRS in metres that keeps areas, made for the place of a raster.

    Azimuthal; cylindrical for rasters of more than half the earth.

    Returns:
        None if the CRS has no known place on the earth.
    """
    points: np.ndarray = np.reshape(np.meshgrid(*(
        np.linspace(0, side, SIDE) for side in shape[::-1])), (2, -1))
    xs, ys = transform @ points
    middle = len(xs) // 2
    try:
        (lon, ), (lat, ) = reproject(
            crs, 'EPSG:4326', xs[middle:middle + 1], ys[middle:middle + 1])
    except (RasterioError, CPLE_BaseError):
        return None
    if not np.isfinite((lon, lat)).all():
        return None
    for map_of in (dict(proj='laea', lat_0=lat), dict(proj='cea')):
        found = CRS.from_dict(
            **map_of, lon_0=lon, ellps='WGS84', units='m')
        try:
            far = np.hypot(*reproject(crs, found, xs, ys))
        except (RasterioError, CPLE_BaseError):
            continue  # some points have no place in it
        if map_of['proj'] == 'cea' or far.max() < QUARTER:
            return found
    return None


def ground_pixel(crs: CRS, transform: Affine,
                 shape: tuple[int, int]) -> float | None:
    """Side in metres of a square as large as the middle pixel of a raster."""
    equal = equal_area(crs, transform, shape)
    if equal is None:
        return None
    row, column = shape[0] / 2, shape[1] / 2
    corners = (column, column + 1, column), (row, row, row + 1)
    xs, ys = reproject(crs, equal, *transform @ np.array(corners))
    right, down = (np.array((xs[i] - xs[0], ys[i] - ys[0])) for i in (1, 2))
    return abs(np.linalg.det((right, down)))**0.5
