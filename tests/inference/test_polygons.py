"""Polygons of class ids: merged, simplified, filled, in files of each kind."""
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from scipy.ndimage import gaussian_filter

from relay_seg.inference import polygons
from relay_seg.inference.polygons import (
    check_polygons,
    regions,
    write_polygons,
)
from relay_seg.rasters import Grid, refuse_overwriting
from relay_seg.rasters.vector_files import files_of_vectors, move_vectors

NAMES = 'water', 'wood', 'fields & so', 'Gebäude'


@pytest.fixture
def patches():
    """``patches(height, width)``: class ids in ragged regions, with holes
    of no data."""

    def draw(height, width, width_of=1.5):
        rng = np.random.default_rng(height)
        ids = np.stack([gaussian_filter(
            rng.normal(size=(height, width)), width_of)
            for _ in range(5)]).argmax(0).astype(np.uint8)
        ids[ids == 4] = 255
        return ids

    return draw


@pytest.fixture
def class_file(scene_file, tmp_path):
    """``class_file(ids)``: a raster of class ids."""

    def write(ids, **options):
        return scene_file(tmp_path / 'ids.tif', ids[None], 255, **options)

    return write


def found_in(path, tolerance=0.):
    with rasterio.open(path) as raster:
        found = [*regions(raster, tolerance)]
    return (np.array([value for value, _ in found]),
            np.array([shape for _, shape in found], object))


@pytest.mark.parametrize('side', [1, 7, 32, 200])
def test_blocks_do_not_cut_regions(patches, class_file, monkeypatch, side):
    ids = patches(75, 117)
    if side == 1:
        ids = ids[:20, :30]
    monkeypatch.setattr(polygons, 'SIDE', side)
    values, found = found_in(class_file(ids))
    expected = {(shapely.normalize(shapely.geometry.shape(shape)).wkb,
                 int(value)) for shape, value in shapes(ids, ids != 255)}
    assert {(shapely.normalize(shape).wkb, value)
            for shape, value in zip(found, values)} == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize('side', [16, 50, 200])
@pytest.mark.parametrize('tolerance', [1., 4.])
def test_simplified_borders_stay_shared(
        patches, class_file, monkeypatch, side, tolerance):
    """Corner by corner, across blocks, and along no data, too."""
    ids = patches(75, 117)
    ids[20:40, 60:90] = 255
    monkeypatch.setattr(polygons, 'SIDE', side)
    path = class_file(ids)
    plain_values, plain = found_in(path)
    values, found = found_in(path, tolerance)
    assert shapely.is_valid(found).all()
    assert shapely.coverage_is_valid(found)
    assert sorted(values) == sorted(plain_values)
    corners = shapely.get_num_coordinates(found).sum()
    assert corners < 0.75 * shapely.get_num_coordinates(plain).sum()
    # The border with no data is simplified, too: not only the rest.
    lost = shapely.union_all(plain).symmetric_difference(
        shapely.union_all(found))
    assert 0 < lost.area < 0.1 * ids.size * tolerance


def test_small_holes_go_to_what_surrounds_them(class_file, tmp_path,
                                               monkeypatch):
    """In one block or several, of other classes or of no data."""
    monkeypatch.setattr(polygons, 'SIDE', 16)
    ids = np.zeros((50, 50), np.uint8)
    ids[3:6, 3:6] = 1  # in one block: 2.25 square metres
    ids[4, 4] = 2
    ids[14:18, 14:18] = 255  # in four: 4
    ids[30:40, 30:40] = 1  # too large: 25
    ids[34, 34] = 0
    ids[:4, 46:] = 3  # at the border: left out
    out = tmp_path / 'a.gpkg'
    assert write_polygons(class_file(ids), out, NAMES, 5) == 2
    _, _, wkb, (values, _, areas) = pyogrio.raw.read(out)
    found = dict(zip(values, shapely.from_wkb(wkb)))
    assert [len(found[i].interiors) for i in (0, 1)] == [1, 0]
    assert areas == pytest.approx(shapely.area([
        found[i] for i in values]), rel=1e-3)
    assert sorted(areas) == pytest.approx([25, 625 - 25 - 4], rel=1e-3)


def test_a_hole_of_the_least_area_is_kept_with_what_is_in_it(
        class_file, tmp_path):
    ids = np.zeros((20, 20), np.uint8)
    ids[5:9, 5:9] = 1
    path, out = class_file(ids), tmp_path / 'a.gpkg'
    write_polygons(path, out, NAMES)
    area = pyogrio.raw.read(out)[3][2].min()
    for least, count in ((area, 2), (np.nextafter(area, 9), 1)):
        assert write_polygons(path, out, NAMES, least) == count
        found = shapely.from_wkb(pyogrio.raw.read(out)[2])
        assert sum(len(x.interiors) for x in found) == count - 1


def test_simplify_is_in_metres(class_file, tmp_path):
    """Pixels of half a metre: steps of a pixel go from 0.36 m."""
    ids = np.tri(40, dtype=np.uint8)
    out = tmp_path / 'a.gpkg'
    corners = []
    for metres in (0, 0.3, 0.4):
        write_polygons(class_file(ids), out, NAMES, simplify=metres)
        corners.append(shapely.get_num_coordinates(
            shapely.from_wkb(pyogrio.raw.read(out)[2])).max())
    assert corners[0] == corners[1] > 75 and corners[2] < 10


KINDS = '.gpkg', '.shp', '.geojson', '.parquet'


def written(path):
    """Values by attribute, polygons, and the CRS."""
    if path.suffix != '.parquet':
        meta, _, wkb, values = pyogrio.raw.read(path)
        return (dict(zip(meta['fields'], values)), shapely.from_wkb(wkb),
                meta['crs'])
    from pyarrow.parquet import read_table
    table = read_table(path)
    geo = json.loads(table.schema.metadata[b'geo'])
    columns = table.to_pydict()
    shapes = shapely.from_wkb(columns.pop('geometry'))
    code = geo['columns']['geometry']['crs']['id']
    return columns, shapes, f"{code['authority']}:{code['code']}"


@pytest.mark.parametrize('kind', KINDS)
def test_kinds_of_files(patches, class_file, tmp_path, monkeypatch, kind):
    """All features, in several parts, where they belong; the same bytes."""
    if kind == '.parquet':
        pytest.importorskip('pyarrow')
    monkeypatch.setattr(polygons, 'FEATURES', 50)
    path, out = class_file(patches(60, 80)), tmp_path / f'a{kind}'
    count = write_polygons(path, out, NAMES, simplify=0.6)
    write_polygons(path, tmp_path / 'b.gpkg', NAMES, simplify=0.6)
    values, found, crs = written(out)
    expected, right, _ = written(tmp_path / 'b.gpkg')
    assert len(found) == len(right) == count > 150
    for name, column in expected.items():
        assert list(values[name]) == list(column) if name != 'area_m2' else (
            values[name] == pytest.approx(column, rel=1e-12))
    assert crs == ('EPSG:4326' if kind == '.geojson' else 'EPSG:32648')
    if kind == '.geojson':
        assert shapely.is_ccw(shapely.get_exterior_ring(found)).all()
        found = shapely.transform(found, lambda xy: np.column_stack(
            rasterio.warp.transform('EPSG:4326', 'EPSG:32648', *xy.T)))
    assert (shapely.hausdorff_distance(found, right) < 1e-3).all()

    before = [file.read_bytes() for file in files_of_vectors(out)]
    write_polygons(path, out, NAMES, simplify=0.6)
    assert before == [file.read_bytes() for file in files_of_vectors(out)]


@pytest.mark.parametrize('kind', KINDS)
def test_no_polygon_is_a_file_too(class_file, tmp_path, kind):
    if kind == '.parquet':
        pytest.importorskip('pyarrow')
    out = tmp_path / f'a{kind}'
    assert write_polygons(class_file(np.full((9, 9), 255, np.uint8)), out,
                          NAMES) == 0
    assert not len(written(out)[1])


@pytest.mark.parametrize('kind', KINDS)
def test_files_are_written_over_their_like_only(
        patches, class_file, tmp_path, kind):
    """All that a name stands for moves, and none of another's is lost."""
    if kind == '.parquet':
        pytest.importorskip('pyarrow')
    (tmp_path / 'x').mkdir()
    out, target = tmp_path / f'x/a{kind}', tmp_path / f'b{kind}'
    index = target.with_suffix('.qix')
    index.touch()
    write_polygons(class_file(patches(30, 30)), out, NAMES)
    count = len(written(out)[1])
    move_vectors(out, target)
    assert not any(file.exists() for file in files_of_vectors(out))
    assert len(written(target)[1]) == count
    assert index.exists() == (kind != '.shp')  # of another shapefile
    refuse_overwriting({str(x): x for x in files_of_vectors(target)}, ())
    target.with_suffix('.shp.xml').unlink(missing_ok=True)
    if kind != '.shp':
        target.write_text('{"type": "FeatureCollection"}')
    for file in filter(Path.exists, files_of_vectors(target)):
        with pytest.raises(ValueError, match=f'{file.name}.*no predict'):
            refuse_overwriting({'--polygons': file}, ())


def test_what_cannot_be_written_is_said_before(tmp_path, place, monkeypatch):
    grid = Grid(9, 9, None, place)
    with pytest.raises(ValueError, match='a.kml.*.parquet; name it .*.gpkg'):
        check_polygons(tmp_path / 'a.kml', grid, 'scene.tif')
    with pytest.raises(ValueError, match='scene.tif has no CRS.*a.gpkg'):
        check_polygons(tmp_path / 'a.geojson', grid, 'scene.tif')
    moon = Grid(9, 9, rasterio.CRS.from_user_input('IAU_2015:30110'), place)
    with pytest.raises(ValueError, match='scene.tif.*leave out --simplify'):
        check_polygons(tmp_path / 'a.gpkg', moon, 'scene.tif', simplify=1)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match='a.parquet.*pyarrow.*a.gpkg'):
        check_polygons(tmp_path / 'a.parquet', grid, 'scene.tif')


def test_geojson_does_not_span_the_earth(class_file, tmp_path):
    path = class_file(np.zeros((9, 9), np.uint8), crs='EPSG:3832',
                      transform=rasterio.Affine(9e4, 0, 3.1e6, 0, -9e4, 0))
    with pytest.raises(ValueError, match='180 degrees.*gpkg'):
        write_polygons(path, tmp_path / 'a.geojson', NAMES)


def test_geojson_of_longitudes_over_180(class_file, tmp_path):
    """EPSG:4326 may go on to 360; GeoJSON ends where the earth does."""
    place = rasterio.Affine(0.01, 0, 200, 0, -0.01, -17)
    ids = np.zeros((9, 9), np.uint8)
    path = class_file(ids, crs='EPSG:4326', transform=place)
    write_polygons(path, tmp_path / 'a.geojson', NAMES)
    found = json.loads((tmp_path / 'a.geojson').read_text())
    corners = np.array(found['features'][0]['geometry']['coordinates'][0])
    assert corners[:, 0].min() == -160 and corners[:, 0].max() == -159.91
    path = class_file(ids, crs='EPSG:4326', transform=place @
                      rasterio.Affine.translation(-2005, 0))
    with pytest.raises(ValueError, match='180 degrees.*gpkg'):
        write_polygons(path, tmp_path / 'a.geojson', NAMES)


def peaks(paths, out):
    """Most memory in kB up to then, after each file."""
    import resource
    found = []
    for path in paths:
        write_polygons(path, out, NAMES)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return found


@pytest.mark.skipif(sys.platform != 'linux', reason='memory as in Linux')
def test_memory_does_not_grow_with_the_raster(
        class_file, tmp_path, patches, monkeypatch):
    """Eight times the pixels, in a row of blocks or in a column."""
    tile = patches(256, 256, 2)
    tile[-1] = tile[:, -1] = 255  # regions end
    paths = []
    for down, right in ((1, 1), (1, 8), (8, 1)):
        paths.append(tmp_path / f'{down}x{right}.tif')
        class_file(np.tile(tile, (down, right)), blockxsize=256,
                   blockysize=256).rename(paths[-1])
    monkeypatch.setattr(polygons, 'SIDE', 256)
    monkeypatch.setattr(polygons, 'FEATURES', 500)
    with ProcessPoolExecutor(1, get_context('fork')) as own:
        small, *large = own.submit(
            peaks, paths, tmp_path / 'a.gpkg').result()
    assert max(large) < small + 8_000  # kB
