"""Rasters and polygons of Archaeoscape, generated and real."""
import json
from pathlib import Path

import archaeoscape
import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import rasterio
import raw_folders
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_geom
from raw_folders import UTM, box_at, noise, place_of, save_raster, save_vectors

from relay_seg.datasets import ArchaeoscapeDataset
from relay_seg.rasters.vectors import (
    bounds_of,
    draw,
    read_vectors,
    repaired,
    to_plane,
)
from relay_seg.rasters.writing import strips

NAME = '01_olinda'
RMNP = Path(__file__).parents[1] / 'data' / 'rmnp'
WGS84 = CRS.from_epsg(4326)


def convert(raw, out, *arguments):
    return archaeoscape.main([str(raw), str(out), '--jobs', '1', *arguments])


def read(out, folder, name=NAME, split='train'):
    with rasterio.open(out / folder / split / f'{name}.tif') as raster:
        return raster.read()


def record(out):
    (scene, ) = json.loads((out / 'manifest.json').read_text())['scenes']
    return scene


def make(raw, size=(60, 80), **rasters):
    """One parcel; ``rgb`` and ``dtm`` replace its rasters."""
    truth = raw_folders.make_archaeoscape(raw, [NAME], size)
    for kind, (pixels, place, crs, options) in rasters.items():
        save_raster(raw / f'rasters/{kind}/{NAME}.tif', pixels, place, crs,
                    **options)
    return truth['train', NAME]


def test_priority_of_overlapping_kinds(places):
    raw, out = places
    make(raw)
    assert convert(raw, out) == 0
    row = read(out, 'ann_dir')[0, 20]
    assert row[4:10].tolist() == [0] * 6  # background
    assert row[10:30].tolist() == [2] * 20  # water
    assert row[30:35].tolist() == [1] * 5  # mound over water
    assert row[35:42].tolist() == [3] * 7  # temple over mound and water
    assert row[42:50].tolist() == [255] * 8  # void over all
    assert row[50:60].tolist() == [1] * 10
    assert row[:4].tolist() == row[-4:].tolist() == [255] * 4  # outside


def test_bands_are_rgb_and_elevation(places):
    raw, out = places
    make(raw)
    assert convert(raw, out) == 0
    image = read(out, 'img_dir')
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[:3], noise(60, 80).transpose(2, 0, 1))
    with rasterio.open(raw / f'rasters/dtm/{NAME}.tif') as raster:
        dtm = raster.read(1)
    empty = np.isnan(image[3])
    np.testing.assert_array_equal(empty, dtm == -9999)
    np.testing.assert_array_equal(image[3][~empty], dtm[~empty])
    with rasterio.open(out / f'img_dir/train/{NAME}.tif') as raster:
        assert np.isnan(raster.nodata)
        assert raster.crs == UTM
        np.testing.assert_allclose(
            raster.transform, place_of(0), rtol=0, atol=1e-9)
    with rasterio.open(out / f'ann_dir/train/{NAME}.tif') as raster:
        assert raster.crs == UTM
        np.testing.assert_allclose(
            raster.transform, place_of(0), rtol=0, atol=1e-9)


def test_nodata_is_never_counted(places):
    raw, out = places
    rgb = noise(60, 80).transpose(2, 0, 1).clip(1, 255)
    rgb[:, 30:50, 30:70] = 0
    rgb[0, 0, 0] = 0  # one band alone is a colour, not a hole
    dtm = np.full((1, 60, 80), 7, np.float32)
    dtm[:, 40:50, 30:70] = np.nan
    dtm[:, 45:50, 30:70] = -3.4e38
    truth = make(raw, rgb=(rgb, place_of(0), UTM, dict(nodata=0)),
                 dtm=(dtm, place_of(0), UTM, {}))
    assert convert(raw, out) == 0
    image, label = read(out, 'img_dir'), read(out, 'ann_dir')[0]
    assert np.isnan(image[:3, 30:50, 30:70]).all()
    assert image[0, 0, 0] == 0
    # A pixel without any band is ignored, one with elevation is not.
    expected = truth.copy()
    expected[40:50, 30:70] = 255
    np.testing.assert_array_equal(label, expected)
    bands = record(out)['bands']
    assert [band['valid'] for band in bands] == [4000, 4000, 4000, 4400]
    assert bands[3]['mean'] == 7
    with rasterio.open(out / f'img_dir/train/{NAME}.tif',
                       overview_level=1) as raster:
        coarse = raster.read(4)
    assert set(coarse[~np.isnan(coarse)]) == {7}


@pytest.mark.parametrize('pixel, method', [
    (1.5, 'bilinear'), (0.2, 'average')])
def test_elevation_on_another_grid_is_aligned(places, pixel, method):
    """A plane stays a plane, whatever the grid it was sampled on."""
    raw, out = places
    x0, y0 = place_of(0) @ (0, 0)
    place = Affine(pixel, 0, x0 - 7.3, 0, -pixel, y0 + 9.1)
    height, width = int(60 / pixel), int(70 / pixel)
    x, y = place @ np.meshgrid(np.arange(width) + .5, np.arange(height) + .5)
    plane = (0.25 * (x - x0) - 0.5 * (y - y0) + 30).astype(np.float32)
    make(raw, dtm=(plane[None], place, UTM, {}))
    assert convert(raw, out) == 0
    x, y = place_of(0) @ np.meshgrid(np.arange(80) + .5, np.arange(60) + .5)
    expected = 0.25 * (x - x0) - 0.5 * (y - y0) + 30
    np.testing.assert_allclose(read(out, 'img_dir')[3], expected, atol=0.11)
    assert f'dtm/{NAME}.tif resampled ({method})' in record(out)['notes'][0]


@pytest.mark.parametrize('options', [{}, dict(nodata=np.nan)])
def test_elevation_without_data_does_not_spread(places, options):
    raw, out = places
    ground = np.full((1, 300, 400), 7, np.float32)
    ground[:, :50] = np.nan
    make(raw, dtm=(ground, place_of(0) @ Affine.scale(0.2), UTM, options))
    assert convert(raw, out) == 0
    found = read(out, 'img_dir')[3]
    assert np.isnan(found[:10]).all() and (found[10:] == 7).all()


def test_mask_of_elevation_is_not_lost(places, capsys):
    raw, out = places
    ground = np.full((1, 300, 400), 7, np.float32)
    make(raw, dtm=(ground, place_of(0) @ Affine.scale(0.2), UTM, {}))
    with rasterio.open(raw / f'rasters/dtm/{NAME}.tif', 'r+') as raster:
        raster.write_mask(ground[0] == 8)
    assert convert(raw, out) == 1
    told = ' '.join(capsys.readouterr().out.split())
    assert f'dtm/{NAME}.tif lies on another grid' in told
    assert '-dstnodata' in told


def test_elevation_in_another_crs_is_aligned(places):
    raw, out = places
    corners = place_of(0) @ (-20, 80), place_of(0) @ (100, -20)
    (west, east), (south, north) = rasterio.warp.transform(
        UTM, WGS84, *zip(*corners))
    place = rasterio.transform.from_bounds(west, south, east, north, 150, 120)
    make(raw, dtm=(np.full((1, 120, 150), 42, np.int16), place, WGS84, {}))
    assert convert(raw, out) == 0
    np.testing.assert_allclose(read(out, 'img_dir')[3], 42)


def test_vectors_in_another_crs_are_reprojected(places):
    raw, out = places
    truth = make(raw)
    for name, column in (('parcels', 'index'), ('features', 'type')):
        vectors = read_vectors(raw / f'{name}.gpkg')
        save_vectors(
            raw / f'{name}.gpkg', to_plane(vectors.shapes, UTM, WGS84),
            column, vectors.columns[column], WGS84)
    assert convert(raw, out) == 0
    label = read(out, 'ann_dir')[0]
    assert (label != truth).mean() < 1e-3  # centres on an edge to 1e-9 m
    counts = np.bincount(label.ravel(), minlength=256)
    assert (counts[:4] > 0).all()


def test_data_without_a_place_on_earth(places):
    """The data set was moved to hide where it is: no CRS anywhere."""
    raw, out = places
    rgb = noise(60, 80).transpose(2, 0, 1)
    truth = make(raw, rgb=(rgb, place_of(0), None, {}))
    for name, column in (('parcels', 'index'), ('features', 'type')):
        vectors = read_vectors(raw / f'{name}.gpkg')
        save_vectors(raw / f'{name}.gpkg', vectors.shapes, column,
                     vectors.columns[column], None)
    assert convert(raw, out) == 0
    np.testing.assert_array_equal(read(out, 'ann_dir')[0], truth)
    coarse = np.ones((1, 30, 40), np.float32)
    place = place_of(0) @ Affine.scale(2)
    save_raster(raw / f'rasters/dtm/{NAME}.tif', coarse, place, None)
    assert convert(raw, out) == 0
    assert (read(out, 'img_dir')[3] == 1).all()


def test_folder_with_data_inside(places):
    raw, out = places
    truth = make(raw / 'data')
    assert convert(raw, out) == 0
    np.testing.assert_array_equal(read(out, 'ann_dir')[0], truth)


def test_layer_styles_of_qgis_are_no_layer(places):
    raw, out = places
    make(raw)
    pyogrio.raw.write(
        raw / 'features.gpkg', None, [np.array(['x'], dtype=object)],
        ['styleQML'], geometry_type=None, layer='layer_styles',
        driver='GPKG', append=True, crs=None)
    assert len(pyogrio.list_layers(raw / 'features.gpkg')) == 2
    assert convert(raw, out) == 0


@pytest.mark.parametrize('shape', [
    shapely.Point(50.3, 41.7).buffer(33.3, 64),
    shapely.Polygon([(3, 4), (90, 11), (71, 77), (20, 80)],
                    [[(30, 30), (30, 50), (60, 55), (58, 31)]]),
    shapely.box(10.5, 10.5, 70.5, 33.5)])
def test_a_polygon_covers_its_area(shape):
    place = Affine.identity()
    drawn = draw(np.array([shape]), [1], 100, 100, place, 0)
    # Within a pixel along the border, and far less on the whole.
    assert abs(drawn.sum() - shape.area) < 0.3 * shape.length
    assert abs(drawn.sum() - shape.area) / shape.area < 0.02
    for row, column in np.argwhere(drawn)[::37]:
        assert shape.covers(shapely.Point(column + .5, row + .5))


def test_strips_draw_what_the_whole_would():
    rng = np.random.default_rng(0)
    shapes = np.array([shapely.Point(*xy).buffer(r, 5) for *xy, r in
                       rng.uniform([0, 0, 5], [300, 700, 60], (40, 3))])
    values = rng.integers(1, 5, 40)
    place = Affine(0.5, 0.1, 3, 0.1, -0.5, 300)
    shapes = shapely.transform(
        shapes, lambda xy: np.column_stack(place @ tuple(xy.T)))
    whole = draw(shapes, values, 700, 300, place, 0)
    pieces = [
        draw(shapes, values, rows, 300, place @ Affine.translation(0, top), 0)
        for top, rows in strips(700)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert len(np.unique(whole)) == 5


def test_long_edges_bend_when_reprojected():
    """A degree of parallel is no straight line in UTM."""
    shape = shapely.box(103, 13, 105, 14)
    (found, ) = to_plane(np.array([shape]), WGS84, UTM)
    exact = shapely.geometry.shape(transform_geom(
        WGS84, UTM, shapely.segmentize(shape, 1e-4).__geo_interface__))
    assert found.symmetric_difference(exact).area / exact.area < 1e-6
    corners = shapely.geometry.shape(transform_geom(
        WGS84, UTM, shape.__geo_interface__))
    assert corners.symmetric_difference(exact).area / exact.area > 1e-4


def test_repair_keeps_the_area_of_a_bow_tie():
    shape = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    assert repaired(shape).area == pytest.approx(2)
    assert repaired(shapely.Polygon()).is_empty


def rmnp_folder(raw):
    """The real triple, with made-up features, as a parcel."""
    for kind, file in (('rgb', 'rmnp-rgb.tif'), ('dtm', 'rmnp-dem.tif')):
        target = raw / f'rasters/{kind}/{NAME}.tif'
        target.parent.mkdir(parents=True)
        target.write_bytes((RMNP / file).read_bytes())
    park = read_vectors(RMNP / 'rmnp.shp')
    assert park.crs is not None
    save_vectors(raw / 'parcels.gpkg', park.shapes, 'index', [NAME], park.crs)
    # In metres, while rasters and outline are in degrees.
    utm = CRS.from_epsg(32613)
    x, y = rasterio.warp.transform(WGS84, utm, [-105.7], [40.35])
    shapes = [shapely.Point(x[0], y[0]).buffer(5000),
              shapely.Point(x[0] + 3000, y[0]).buffer(2000)]
    save_vectors(raw / 'features.gpkg', shapes, 'type',
                 ['hydrology', 'temple'], utm)
    return park, shapes, utm


def test_real_rgb_elevation_and_outline(places):
    raw, out = places
    park, shapes, utm = rmnp_folder(raw)
    assert convert(raw, out) == 0
    image, label = read(out, 'img_dir'), read(out, 'ann_dir')[0]
    with rasterio.open(RMNP / 'rmnp-rgb.tif') as raster:
        rgb, place, crs = raster.read(), raster.transform, raster.crs
        bounds = bounds_of(*raster.shape, place)
    with rasterio.open(out / f'img_dir/train/{NAME}.tif') as raster:
        assert (raster.width, raster.height) == (485, 373)
        assert raster.crs == crs
        np.testing.assert_allclose(raster.transform, place, rtol=0, atol=1e-9)
        assert raster.bounds == pytest.approx(bounds, abs=1e-9)
    hole = (rgb == 255).all(0)
    np.testing.assert_array_equal(np.isnan(image[:3]).all(0), hole)
    np.testing.assert_array_equal(image[:3][:, ~hole], rgb[:, ~hole])

    # Elevation: where it is known, it is that of the pixel below.
    with rasterio.open(RMNP / 'rmnp-dem.tif') as raster:
        dem, coarse = raster.read(1), raster.transform
    known = np.argwhere(~np.isnan(image[3]))[::97]
    for row, column in known:
        x, y = ~coarse @ (place @ (column + .5, row + .5))
        near = dem[max(int(y) - 1, 0):int(y) + 2,
                   max(int(x) - 1, 0):int(x) + 2].astype(float)
        near = near[near != 65535]
        assert near.min() - 1 <= image[3, row, column] <= near.max() + 1
    assert len(known) > 100
    assert 2000 < np.nanmin(image[3]) < np.nanmax(image[3]) < 4400  # metres

    # Labels: area of the outline, and of the features in it.
    pixel = abs(place.determinant)
    outline = shapely.union_all(to_plane(park.shapes, park.crs, crs))
    inside = label != 255
    assert inside[~hole].sum() * pixel == pytest.approx(
        outline.area, rel=0.02)
    water, temple = to_plane(np.array(shapes), utm, crs)
    drawn = np.bincount(label.ravel(), minlength=256)
    assert drawn[3] * pixel == pytest.approx(
        temple.intersection(outline).area, rel=0.02)
    assert drawn[2] * pixel == pytest.approx(
        (water - temple).intersection(outline).area, rel=0.02)

    (scene, ) = ArchaeoscapeDataset(
        data_root=str(out), lazy_init=False, data_prefix=dict(
            img_path='img_dir/train', seg_map_path='ann_dir/train'))
    assert scene['scene_shape'] == (373, 485)
    assert any('.tif resampled' in note for note in record(out)['notes'])


def test_an_outline_off_its_raster_is_refused(places):
    raw, out = places
    make(raw)
    save_vectors(raw / 'parcels.gpkg', [box_at(place_of(5), 0, 0, 9, 9)],
                 'index', [NAME])
    assert convert(raw, out) == 1
    (text, ) = json.loads(
        (out / 'manifest.json').read_text())['failures'].values()
    assert f'rgb/{NAME}.tif covers' in text and 'parcels.gpkg places' in text
