"""Areas and pixel sizes on the ground, and places other than a transform."""
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.warp import transform

from relay_seg.inference import predict_raster
from relay_seg.inference.model import classes_of
from relay_seg.inference.polygons import Measure, write_polygons
from relay_seg.rasters import write_class_ids

LOCAL = 'LOCAL_CS["building site",UNIT["{}",{}]]'
MOON = 'IAU_2015:30110'


@pytest.fixture
def areas_of(scene_file, tmp_path):
    """Areas of the polygons of class ids, and what they are called."""

    def measure(ids, crs, place, min_area=0.):
        path = scene_file(tmp_path / 'ids.tif', ids[None].astype(np.uint8),
                          crs=crs, transform=place)
        out = tmp_path / 'ids.gpkg'
        out.unlink(missing_ok=True)
        write_polygons(path, out, 'abc', min_area)
        meta, *_, fields = pyogrio.raw.read(out)
        return meta['fields'][2], sorted(fields[2])

    return measure


# On the ellipsoid, one hundredth of a degree at 60 degrees: 557.9 x 1114.1 m.
SQUARE = 557.9 * 1114.1


@pytest.mark.parametrize('crs', [
    'EPSG:4326', 'EPSG:3857', 'EPSG:32631', 'EPSG:3035', 'EPSG:3575'])
def test_areas_are_those_of_the_ground(areas_of, crs):
    """A hundredth of a degree at 60 degrees north, in whatever CRS."""
    (left, right, up), (bottom, low, top) = transform(
        'EPSG:4326', crs, [5., 5.01, 5.], [60., 60., 60.01])
    place = Affine((right - left) / 10, (up - left) / 10, left,
                   (low - bottom) / 10, (top - bottom) / 10, bottom)
    name, (area, ) = areas_of(np.zeros((10, 10)), crs, place)
    assert name == 'area_m2'
    assert area == pytest.approx(SQUARE, rel=3e-3)


def test_least_areas_are_those_of_the_ground(areas_of):
    """In Web Mercator at 60 degrees, squares look four times as large."""
    (x, ), (y, ) = transform('EPSG:4326', 'EPSG:3857', [5.], [60.])
    ids = np.zeros((20, 20))
    ids[5:10, 5:10] = 1  # 25 pixels of 10 m, which are 5 m: 625 m2
    place = Affine(10, 0, x, 0, -10, y)
    assert areas_of(ids, 'EPSG:3857', place)[1] == pytest.approx(
        [625, 375 * 25], rel=0.01)
    assert len(areas_of(ids, 'EPSG:3857', place, 630)[1]) == 1
    assert len(areas_of(ids, 'EPSG:3857', place, 615)[1]) == 2


def test_feet_and_wide_scenes(areas_of):
    place = Affine(1000, 0, 981_000, 0, -1000, 200_000)  # New York, in feet
    _, (area, ) = areas_of(np.zeros((10, 10)), 'EPSG:2263', place)
    assert area == pytest.approx(100 * 304.8**2, rel=1e-3)
    earth = 510.07e12
    for left in (-180, 0):
        _, areas = areas_of(np.arange(4).reshape(2, 2) % 3, 'EPSG:4326',
                            Affine(180, 0, left, 0, -90, 90))
        assert areas == pytest.approx([earth / 4] * 4, rel=1e-3)
    # Around the pole; the region reaches over the date line.
    place = Affine(10_000, 0, -1e6, 0, -10_000, 1e6)
    _, (area, ) = areas_of(np.zeros((200, 200)), 'EPSG:3031', place)
    assert area == pytest.approx(4e12, rel=0.06)
    assert area > 4e12  # true at 71 degrees, too small at the pole


def test_long_edges_are_bent(areas_of):
    """One region or many: the sum is the same."""
    place = Affine(0.1, 0, -5, 0, -0.1, 65)
    _, (whole, ) = areas_of(np.zeros((100, 200)), 'EPSG:4326', place)
    _, parts = areas_of(np.indices((100, 200)).sum(0) % 2, 'EPSG:4326', place)
    assert len(parts) == 20_000
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize('unit, metres', [('metre', 1), ('foot', 0.3048)])
def test_a_local_crs_is_flat(areas_of, unit, metres):
    found = areas_of(np.zeros((10, 10)), LOCAL.format(unit, metres),
                     Affine(2, 0, 0, 0, -2, 0), min_area=1)
    assert found == ('area_m2', [pytest.approx(400 * metres**2)])


def test_square_metres_that_are_not_known(
        cheap, noise, scene_file, tmp_path):
    """Pixels, and a least area is refused before any work."""
    crs = CRS.from_user_input(MOON)
    assert Measure(crs, Affine.scale(5), (9, 9)).attribute == 'area_px'
    scene = scene_file(tmp_path / 'moon.tif', noise(48, 48), crs=MOON)
    settings = dict(polygons=tmp_path / 'moon.gpkg')
    model = cheap()
    with pytest.raises(ValueError, match='moon.tif.*leave out --min-area'):
        predict_raster(model, scene, tmp_path / 'out.tif', min_area=5,
                       **settings)
    assert not model.calls
    predict_raster(model, scene, tmp_path / 'out.tif', **settings)
    fields = pyogrio.read_info(settings['polygons'])['fields']
    assert 'area_px' in fields


def test_polygons_that_have_no_place_on_a_local_crs(
        cheap, noise, scene_file, tmp_path):
    scene = scene_file(tmp_path / 'site.tif', noise(48, 48),
                       crs=LOCAL.format('metre', 1))
    aoi = tmp_path / 'aoi.gpkg'
    pyogrio.raw.write(
        aoi, shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)], object)), [],
        [], crs='EPSG:4326', geometry_type='Polygon', driver='GPKG')
    with pytest.raises(ValueError, match='aoi.gpkg.*site.tif.*in that CRS'):
        predict_raster(cheap(), scene, tmp_path / 'out.tif', aoi=aoi)


# Pixel size -----------------------------------------------------------------


@pytest.mark.parametrize('lat, zone', [(60, 32631), (-60, 32731)])
def test_pixel_sizes_are_no_degrees(
        cheap, noise, scene_file, tmp_path, lat, zone):
    scene = scene_file(
        tmp_path / 'scene.tif', noise(48, 48), crs='EPSG:4326',
        transform=Affine(2e-5, 0, 5, 0, -1e-5, lat))
    model, out = cheap(), tmp_path / 'out.tif'
    # 2e-5 degrees there are 1.1 m, as are 1e-5 of a meridian.
    with pytest.raises(ValueError, match='scene.tif is in degrees.*'
                       f'about 1.12 m.*-t_srs EPSG:{zone} -tr 0.5 0.5'):
        predict_raster(model, scene, out, pixel_size=0.5)
    assert not model.calls and not out.exists()


# Places ---------------------------------------------------------------------


POINTS = [GroundControlPoint(row, column, 5 + column / 100, 60 - row / 100, 7)
          for row in (0, 48) for column in (0, 48)]
RATIONAL = RPC(
    height_off=1., height_scale=2., lat_off=60., lat_scale=0.1, long_off=5.,
    long_scale=0.2, line_off=24., line_scale=24., samp_off=24.,
    samp_scale=24., line_num_coeff=[0.1] * 20, line_den_coeff=[0.2] * 20,
    samp_num_coeff=[0.3] * 20, samp_den_coeff=[0.4] * 20, err_bias=None,
    err_rand=None)


@pytest.fixture
def place_of(noise, scene_file, tmp_path):
    """A scene with another place than a transform."""

    def write(kind):
        path = scene_file(tmp_path / f'{kind}.tif', noise(48, 48), crs=None,
                          transform=Affine.identity())
        with rasterio.open(path, 'r+') as raster:
            if kind == 'points':
                raster.gcps = POINTS, CRS.from_epsg(4326)
            else:
                raster.rpcs = RATIONAL
        return path

    return write


@pytest.mark.parametrize('kind', ['points', 'rational'])
@pytest.mark.parametrize('form', ['gtiff', 'cog', 'vrt', 'test'])
def test_points_and_rpcs_are_carried_over(
        cheap, place_of, tmp_path, kind, form):
    scene = place_of(kind)
    out = tmp_path / ('out.vrt' if form == 'vrt' else 'out.tif')
    if form == 'test':  # as tools/test.py does
        write_class_ids(out, np.zeros((48, 48), np.uint8), [(0, 0, 0)], scene)
    else:
        predict_raster(cheap(), scene, out, output_format=form)
    with rasterio.open(out) as raster, rasterio.open(scene) as wanted:
        assert raster.rpcs == wanted.rpcs
        assert (raster.rpcs is not None) == (kind == 'rational')
        found, crs = raster.gcps
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == [
            (p.row, p.col, p.x, p.y, p.z) for p in wanted.gcps[0]]
        assert (len(found) == 4) == (kind == 'points')
        assert crs == wanted.gcps[1]
        assert raster.crs is None and raster.transform.is_identity


# Preview --------------------------------------------------------------------


def scene_in(picture, classes, model):
    """What of a preview is the scene, (C, H, W), and where that is known."""
    palette = np.array(classes_of(model).palette)
    with rasterio.open(classes) as raster:
        ids = raster.read(1)
    shown = np.asarray(Image.open(picture)).astype(int)
    there = ids != 255
    scene = 2 * shown - palette[np.where(there, ids, 0)]
    return np.where(there[..., None], scene, shown).transpose(2, 0, 1)


def test_preview_shows_the_bands_that_are_predicted(
        cheap, noise, scene_file, tmp_path):
    """Of several files, in their order; what is masked is black."""
    image = noise(48, 48, 5)
    mask = np.arange(48) % np.full((48, 1), 48) > 9
    for names, bands in (('a', (4, 2, 5)), ('ab', (6, 1, 5))):
        paths = [scene_file(tmp_path / f'{name}.tif', image // (1 + i))
                 for i, name in enumerate(names)]
        for path in paths:
            with rasterio.open(path, 'r+') as raster:
                raster.write_mask(mask)
        out, picture = tmp_path / f'{names}.out.tif', tmp_path / 'a.png'
        predict_raster(cheap(), paths, out, bands=bands, preview=picture)
        every = np.concatenate([image // (1 + i) for i in range(len(names))])
        wanted = np.where(mask, every[np.array(bands) - 1], 0)
        assert abs(scene_in(picture, out, cheap()) - wanted).max() <= 2


def test_preview_of_fewer_bands_is_grey(cheap, noise, scene_file, tmp_path):
    image = noise(48, 48, 3)
    image[:, :, :10] = 0
    path = scene_file(tmp_path / 'a.tif', image, 0)
    out, picture = tmp_path / 'out.tif', tmp_path / 'a.png'
    model = cheap(bands=2, context_factors=())
    predict_raster(model, path, out, bands=(3, 1), preview=picture)
    assert abs(scene_in(picture, out, cheap()) - image[2]).max() <= 2


def test_preview_lies_on_the_prediction(cheap, noise, scene_file, tmp_path):
    """Also where a raster is turned and its pixels made larger."""
    image = np.zeros((3, 64, 64), np.uint8)
    image[:, :, 32:] = 200
    image[:, :32] += 40
    turned = Affine(0.5, 0, 4e5, 0, -0.5, 1.5e6) @ Affine.rotation(90)
    path = scene_file(tmp_path / 'a.tif', image, 0, transform=turned)
    picture = tmp_path / 'a.png'
    predict_raster(cheap(), path, tmp_path / 'out.tif', pixel_size=1.,
                   preview=picture)
    shown = np.asarray(Image.open(picture)).sum(-1)
    with rasterio.open(path) as raster, rasterio.vrt.WarpedVRT(
            raster, crs=raster.crs, height=32, width=32,
            transform=rasterio.open(tmp_path / 'out.tif').transform) as grid:
        wanted = grid.read(1)
    # The brightest quarter is where it is in the raster.
    bright = [int(np.argmax([
        field[y:y + 12, x:x + 12].mean() for y in (2, 18) for x in (2, 18)]))
        for field in (shown, wanted)]
    assert bright[0] == bright[1]


def test_damage_does_not_stop_the_preview(
        cheap, noise, scene_file, tmp_path):
    path = scene_file(tmp_path / 'a.tif', noise(160, 128),
                      compress='deflate', interleave='pixel')
    with rasterio.open(path) as raster:
        at = int(raster.get_tag_item('BLOCK_OFFSET_1_2', 'TIFF', bidx=1))
    with path.open('r+b') as file:
        file.seek(at)
        file.write(b'lost' * 20)
    picture = tmp_path / 'a.png'
    report = predict_raster(cheap(), path, tmp_path / 'out.tif',
                            on_error='skip', preview=picture)
    assert report.damaged and picture.exists()
