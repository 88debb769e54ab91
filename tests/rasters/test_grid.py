"""Whether two rasters lie on each other."""
import math
from dataclasses import replace

import pytest
from affine import Affine
from rasterio.crs import CRS

from relay_seg.rasters import Grid, same_grid

UTM = CRS.from_epsg(32648)
HERE = Grid(60, 80, UTM, Affine(0.5, 0, 4e5, 0, -0.5, 15e5))
LOCAL = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')


def moved(across, down):
    return HERE.transform @ Affine.translation(across, down)


@pytest.mark.parametrize('other, same', [
    (dict(transform=moved(40, 25)), False),
    (dict(transform=moved(0.009, -0.009)), True),
    (dict(transform=moved(0, 0.011)), False),
    # Only the corner far off shows these.
    (dict(transform=HERE.transform @ Affine.scale(1 + .011 / 80, 1)), False),
    (dict(transform=HERE.transform @ Affine.scale(1 + .009 / 80, 1)), True),
    # Left in place at the first corner and at the one across.
    (dict(transform=HERE.transform @ Affine(
        1 + .02 / 80, -.02 / 60, 0, 0, 1, 0)), False),
    (dict(transform=HERE.transform @ Affine.rotation(
        math.degrees(.02 / 80))), False),
    (dict(height=61), False),
    (dict(crs=CRS.from_epsg(32647)), False),
    (dict(crs=None), True),
    (dict(crs=LOCAL), True),
    (dict(crs=None, transform=Affine.identity()), True),
    (dict(crs=None, transform=Affine.identity(), width=81), False),
])
def test_same_grid_to_a_hundredth_of_a_pixel_at_each_corner(other, same):
    other = replace(HERE, **other)
    assert same_grid(HERE, other) is same_grid(other, HERE) is same
