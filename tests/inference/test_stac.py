"""Predictions as STAC items, as pystac reads them."""
import json

import pytest
import rasterio

from relay_seg.inference import predict_raster
from relay_seg.inference.stac import write_item
from relay_seg.rasters import is_prediction

pystac = pytest.importorskip('pystac')
pytest.importorskip('jsonschema')
from pystac.validation.stac_validator import (  # noqa: E402
    JsonSchemaSTACValidator,
)

META = dict(classes=['land & sea', 'b', 'c', 'd'],
            palette=[[255, 0, 16]] + 3 * [[1, 2, 3]])


@pytest.fixture
def item(cheap, scene_file, noise, tmp_path):
    """``item(**settings)``: the item of a prediction, as pystac reads it."""

    def make(crs='EPSG:32648', output_format='gtiff', **options):
        options['crs'] = crs
        if crs is None:
            options['transform'] = rasterio.Affine.identity()
        scene = scene_file(tmp_path / 'scene.tif', noise(48, 64), **options)
        model = cheap()
        model.dataset_meta = META
        predict_raster(model, scene, tmp_path / 'out.tif',
                       probabilities='uint8', output_format=output_format)
        write_item(tmp_path / 'out.json', tmp_path / 'out.tif',
                   [scene, 's3://bucket/dtm.tif?key=secret'], model)
        return pystac.Item.from_file(str(tmp_path / 'out.json'))

    return make


def test_what_an_item_says(item, tmp_path):
    found = item()
    # Schemas of the core come with pystac, those of extensions do not.
    JsonSchemaSTACValidator().validate_core(
        found.to_dict(), pystac.STACObjectType.ITEM, '1.1.0')
    west, south, east, north = found.bbox
    with rasterio.open(tmp_path / 'out.tif') as raster:
        assert found.properties['proj:code'] == 'EPSG:32648'
        assert found.properties['proj:shape'] == list(raster.shape)
        expected = rasterio.warp.transform_bounds(
            raster.crs, 'EPSG:4326', *raster.bounds)
    assert found.bbox == pytest.approx(list(expected), abs=1e-6)
    assert west < east and south < north
    assert [link.href for link in found.get_links('derived_from')] == [
        (tmp_path / 'scene.tif').as_uri(), '/vsis3/bucket/dtm.tif']
    assert set(found.assets) == {'classes', 'probabilities'}
    assert found.assets['classes'].get_absolute_href() == str(
        tmp_path / 'out.tif')


def test_classes_and_model(item):
    mlm = pytest.importorskip('pystac.extensions.mlm')
    found = item()
    model = mlm.MLMExtension.ext(found)
    assert model.architecture == 'CheapEncoderDecoder'
    assert model.tasks == [mlm.TaskType.SEMANTIC_SEGMENTATION]
    assert model.total_parameters > 0
    assert model.input[0].input.shape == [-1, 3, 16, 16]
    first, *_, last = model.output[0].classes
    assert first.value == 0 and first.title == 'land & sea'
    assert first.name == 'land_sea' and first.color_hint == 'FF0010'
    assert last.value == 255 and last.nodata
    assert model.hyperparameters.to_dict()['window'] == [16, 16]


def test_only_rasters_of_the_same_prediction(
        cheap, scene_file, noise, tmp_path):
    scene = scene_file(tmp_path / 'scene.tif', noise(48, 64))
    out = tmp_path / 'out.vrt'
    options = dict(output_format='vrt', stac=tmp_path / 'out.json')
    for settings, names in (
            (dict(probabilities='uint8'), {'classes', 'probabilities'}),
            (dict(confidence='entropy'), {'classes', 'confidence'})):
        predict_raster(cheap(), scene, out, **options, **settings)
        assets = json.loads((tmp_path / 'out.json').read_text())['assets']
        assert set(assets) == names
        assert {x['type'] for x in assets.values()} == {'application/xml'}


@pytest.mark.parametrize('crs', [None, '+proj=eqc +R=1737400'])
def test_without_a_place(item, crs):
    found = item(crs)
    assert found.geometry is None and found.bbox is None


@pytest.mark.parametrize('crs, place, box', [
    # A scene is 64 pixels wide and 48 high.
    ('EPSG:32760', (5, 0, 819000, 0, -5, 8100000), (179.998, -179.998)),
    ('EPSG:4326', (0.002, 0, 179.9, 0, -0.002, -17), (179.9, -179.972)),
    ('EPSG:4326', (0.002, 0, -180.1, 0, -0.002, -17), (179.9, -179.972)),
    ('EPSG:4326', (0.002, 0, 200, 0, -0.002, -17), (-160, -159.872)),
    ('EPSG:4326', (0.002, 0, 180, 0, -0.002, -17), (-180, -179.872)),
    ('EPSG:4326', (0.002, 0, 179.872, 0, -0.002, -17), (179.872, 180)),
    ('EPSG:4326', (5.625, 0, 0, 0, -3.75, 90), (-180, 180)),
    ('EPSG:4326', (5.625, 0, -180, 0, -3.75, 90), (-180, 180)),
    ('EPSG:3413', (500, 0, -16000, 0, -500, 12000), (-180, 180))])
def test_at_the_end_of_the_earth(item, crs, place, box):
    found = item(crs, transform=rasterio.Affine(*place))
    west, south, east, north = found.bbox
    assert (west, east) == pytest.approx(box, abs=1e-3)
    assert -90 <= south < north <= 90
    parts = found.geometry['coordinates']
    parts = [parts] if found.geometry['type'] == 'Polygon' else parts
    for ring, in parts:
        assert ring[0] == ring[-1]
        assert all(-180 <= x <= 180 and south <= y <= north for x, y in ring)
    if west > east:
        assert len(parts) == 2


def test_cloud_optimised(item):
    found = item(output_format='cog')
    assert 'cloud-optimized' in found.assets['classes'].media_type


def test_only_predictions(item, cheap, scene_file, noise, tmp_path):
    item()
    assert is_prediction(tmp_path / 'out.json')
    (tmp_path / 'other.json').write_text(json.dumps(dict(type='Feature')))
    assert not is_prediction(tmp_path / 'other.json')
    with pytest.raises(ValueError, match='scene.tif is no prediction'):
        write_item(tmp_path / 'x.json', tmp_path / 'scene.tif', [], cheap())
