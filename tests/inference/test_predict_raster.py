"""Outputs, resuming, several processes, errors."""
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.features import shapes

from relay_seg.inference import (
    Settings,
    find_scenes,
    predict_raster,
    predict_scenes,
    writing,
)
from relay_seg.inference.blocks import root_of
from relay_seg.inference.model import classes_of
from relay_seg.inference.polygons import write_polygons
from relay_seg.rasters.writing import RowWriter

ROOT = Path(__file__).parents[2]


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def files(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def scene(noise, scene_file, tmp_path):
    """A scene with a hole, which does not begin or end with a window."""
    image = noise(141, 93)
    image[:, 50:70, 30:80] = 0
    (tmp_path / 'in').mkdir()
    return scene_file(tmp_path / 'in/scene.tif', image, 0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out/classes.tif'


# Output ---------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['gtiff', 'cog'])
def test_what_a_prediction_says_of_itself(cheap, scene_file, noise, tmp_path,
                                          out, place, kind):
    model = cheap()
    model.dataset_meta = dict(
        classes=('land & sea', 'b', 'c', 'd', 'unused'),
        palette=[[i, 2 * i, 3 * i] for i in range(10, 60, 10)])
    model.checkpoint_sha256 = 'ab12'
    image = noise(300, 700)
    image[:, :40, :50] = 0
    path = scene_file(tmp_path / 'scene.tif', image, 0)
    predict_raster(model, path, out, output_format=kind,
                   probabilities='uint8')
    with rasterio.open(out) as raster:
        assert raster.crs.to_epsg() == 32648
        assert raster.transform == place
        assert raster.nodata == 255 and raster.dtypes == ('uint8', )
        assert raster.is_tiled and raster.compression.name == 'deflate'
        assert raster.overviews(1)[:2] == [2, 4]
        assert raster.colorinterp == (ColorInterp.palette, )
        assert raster.colormap(1)[1] == (20, 40, 60, 255)
        assert raster.colormap(1)[255][3] == 0
        tags = raster.tags(ns='RELAY_SEG')
        classes = raster.read(1)
        layout = raster.tags(ns='IMAGE_STRUCTURE').get('LAYOUT')
    assert (layout == 'COG') == (kind == 'cog')
    assert json.loads(tags['CLASS_NAMES']) == ['land & sea', 'b', 'c', 'd']
    assert json.loads(tags['PALETTE'])[0] == [10, 20, 30]
    assert json.loads(tags['WINDOW']) == [16, 16]
    assert json.loads(tags['CONTEXT_FACTORS']) == [4]
    assert json.loads(tags['CONTEXT_REDUCTIONS']) == [4]
    assert tags['CHECKPOINT'] == 'ab12'
    sidecar = out.with_name('classes.tif.aux.xml').read_text()
    assert '<Category>land &amp; sea</Category>' in sidecar
    assert (classes[:40, :50] == 255).all() and (classes < 4).any()
    with rasterio.open(out, overview_level=0) as raster:  # by mode
        coarse = raster.read(1)
    assert set(np.unique(coarse)) <= set(np.unique(classes))
    blocks = classes.reshape(150, 2, 350, 2).swapaxes(1, 2).reshape(
        150, 350, 4)
    alike = (blocks == blocks[..., :1]).all(-1)
    assert (coarse == blocks[..., 0])[alike].all()

    with rasterio.open(out.with_name('classes_probabilities.tif')) as raster:
        assert raster.descriptions == ('land & sea', 'b', 'c', 'd')
        assert raster.nodata == 255
        assert raster.scales == pytest.approx((1 / 254, ) * 4)
        chances = raster.read()
    there = classes != 255
    assert ((chances == 255).all(0) == ~there).all()
    highest = np.take_along_axis(
        chances, np.where(there, classes, 0)[None].astype(int), 0)[0]
    assert (highest == chances.max(0))[there].all()
    assert abs(chances.sum(0, dtype=int)[there] - 254).max() <= 2
    assert files(out.parent) == [
        'classes.tif', 'classes.tif.aux.xml', 'classes_probabilities.tif']


def test_polygons_are_the_regions(cheap, scene, out, monkeypatch):
    """Strips do not cut them, and areas add up."""
    monkeypatch.setattr('relay_seg.inference.polygons.SIDE', 7)
    monkeypatch.setattr('relay_seg.inference.polygons.FEATURES', 150)
    gpkg = out.with_name('classes.gpkg')
    predict_raster(cheap(), scene, out, polygons=gpkg)
    meta, _, wkb, (ids, names, areas) = pyogrio.raw.read(gpkg)
    found = shapely.from_wkb(wkb)
    with rasterio.open(out) as raster:
        classes = raster.read(1)
        expected = [
            (int(value), shapely.geometry.shape(shape))
            for shape, value in shapes(
                classes, classes != 255, transform=raster.transform)]
    assert len(found) == len(expected) > 30
    assert 'EPSG:32648' in meta['crs']
    assert list(meta['fields']) == ['class_id', 'class', 'area_m2']
    by_place = {shapely.normalize(s).wkb: v for v, s in expected}
    for shape, i, name, area in zip(found, ids, names, areas):
        assert by_place[shapely.normalize(shape).wkb] == i
        # On the ground: UTM is a thousandth smaller in its middle.
        assert name == f'class {i}'
        assert area == pytest.approx(shape.area, rel=1e-3)
    for i in range(4):
        assert areas[ids == i].sum() == pytest.approx(
            (classes == i).sum() / 4, rel=1e-3)

    predict_raster(cheap(), scene, out, polygons=gpkg, min_area=5)
    _, _, _, (_, _, large) = pyogrio.raw.read(gpkg)
    # Those with small holes are larger now.
    assert min(large) >= 5 and len(areas) > len(large) >= sum(areas >= 5)


def test_shapefiles_and_confidence_beside_the_classes(
        cheap, scene, out, monkeypatch):
    """All in one run; over what another run wrote, and nothing else."""
    shapefile = out.with_name('a.shp')
    settings = dict(polygons=shapefile, confidence='maximum', simplify=0.6,
                    probabilities='uint8', block=(48, 40))
    predict_raster(cheap(), scene, out, **settings)
    predict_raster(cheap(), scene, out, **settings | dict(min_area=2))
    assert files(out.parent) == [
        'a.cpg', 'a.dbf', 'a.prj', 'a.shp', 'a.shp.xml', 'a.shx',
        'classes.tif', 'classes.tif.aux.xml', 'classes_confidence.tif',
        'classes_probabilities.tif']
    with rasterio.open(out.with_name('classes_confidence.tif')) as raster:
        assert raster.units == ('%', )
        sure = raster.read(1)
    chances = read(out.with_name('classes_probabilities.tif'))
    np.testing.assert_array_equal(sure, chances.max(0))
    assert (sure == 255).any()
    count = len(pyogrio.raw.read(shapefile)[2])
    assert 0 < count == pyogrio.read_info(shapefile)['features']
    out.with_name('a.shp.xml').unlink()
    with pytest.raises(ValueError, match='a.shp exists and is no predict'):
        predict_raster(cheap(), scene, out, **settings)


def test_missing_polygon_packages_are_told_first(
        cheap, scene, out, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyogrio', None)
    with pytest.raises(ImportError, match='pyogrio'):
        predict_raster(cheap(), scene, out,
                       polygons=out.with_name('classes.gpkg'))
    assert not out.parent.exists()


def test_polygons_of_degrees_have_square_metres(tmp_path):
    path = tmp_path / 'a.tif'
    with rasterio.open(
            path, 'w', driver='GTiff', count=1, height=10, width=10,
            dtype='uint8', crs='EPSG:4326',
            transform=rasterio.Affine(0.001, 0, 5, 0, -0.001, 60)) as raster:
        raster.write(np.zeros((1, 10, 10), np.uint8))
    assert write_polygons(path, tmp_path / 'a.gpkg', ['a']) == 1
    *_, areas = pyogrio.raw.read(tmp_path / 'a.gpkg')[3]
    # 0.01 degrees of the parallel of 60 degrees, and of a meridian there
    assert areas[0] == pytest.approx(557.9 * 1114.1, rel=3e-3)


def test_preview(cheap, scene, out):
    picture = out.with_name('a.png')
    predict_raster(cheap(), scene, out, preview=picture)
    image = np.asarray(Image.open(picture)).astype(int)
    assert image.shape == (141, 93, 3)
    palette = np.array(classes_of(cheap()).palette)
    classes, pixels = read(out)[0], read(scene).transpose(1, 2, 0)
    there = classes != 255
    mixed = (palette[np.where(there, classes, 0)] + pixels) / 2
    assert abs(image - mixed)[there].max() <= 1
    assert (image[~there] == pixels[~there]).all()


def test_pixel_size_resamples_on_the_fly(cheap, noise, scene_file, tmp_path,
                                         out, in_memory, place):
    image = np.repeat(np.repeat(noise(60, 52), 2, 1), 2, 2)
    path = scene_file(tmp_path / 'scene.tif', image)
    predict_raster(cheap(), path, out, pixel_size=1.)
    with rasterio.open(out) as raster:
        assert raster.shape == (60, 52)
        assert raster.transform == place @ rasterio.Affine.scale(2)
    np.testing.assert_array_equal(
        read(out)[0], in_memory(cheap(), image[:, ::2, ::2])[0])
    predict_raster(cheap(), path, out, pixel_size=0.25)
    with rasterio.open(out) as raster:
        assert raster.shape == (240, 208)


# Area of interest -----------------------------------------------------------


def write_polygon(path, shape, crs):
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array([shape], object)), [], [], crs=crs,
        geometry_type='Polygon', driver='GPKG')
    return path


@pytest.mark.parametrize('crs', ['EPSG:32648', 'EPSG:4326'])
def test_aoi(cheap, noise, scene_file, tmp_path, out, in_memory, place, crs):
    image = noise(160, 192)
    path = scene_file(tmp_path / 'scene.tif', image)
    columns, rows = np.array([20.2, 50.3, 48.1]), np.array([60.4, 70.2, 95.3])
    x, y = place @ (columns, rows)
    if crs != 'EPSG:32648':
        x, y = rasterio.warp.transform('EPSG:32648', crs, x, y)
    aoi = write_polygon(
        tmp_path / 'aoi.gpkg', shapely.Polygon(zip(x, y)), crs)
    model = cheap(batch_size=1)
    predict_raster(model, path, out, aoi=aoi)
    found = read(out)[0]
    grid = np.mgrid[:160, :192] + 0.5
    inside = shapely.contains_xy(
        shapely.Polygon(zip(columns, rows)), grid[1], grid[0])
    expected = np.where(inside, in_memory(model, image)[0], 255)
    np.testing.assert_array_equal(found, expected)
    boxes = [shapely.box(a, b, a + 16, b + 16)
             for b in range(0, 145, 8) for a in range(0, 177, 8)]
    model.calls = 0
    predict_raster(model, path, out.with_name('b.tif'), aoi=aoi)
    assert model.calls == sum(
        box.intersects(shapely.Polygon(zip(columns, rows))) for box in boxes)


def test_aoi_reads_only_what_windows_look_at(
        cheap, noise, scene_file, tmp_path, out, place, monkeypatch):
    from relay_seg import rasters
    path = scene_file(tmp_path / 'scene.tif', noise(3000, 64))
    x, y = place @ (np.array([5, 20, 9]), np.array([2000, 2005, 2030]))
    aoi = write_polygon(
        tmp_path / 'aoi.gpkg', shapely.Polygon(zip(x, y)), 'EPSG:32648')
    rows, whole = [], rasters.read_region
    monkeypatch.setattr(
        'relay_seg.inference.raster_source.read_region',
        lambda raster, window, **kw: rows.append(window) or whole(
            raster, window, **kw))
    monkeypatch.setattr(
        'relay_seg.inference.job.check_scene', lambda *_: None)
    predict_raster(cheap(), path, out, aoi=aoi)
    assert rows
    assert all(w.top > 1000 and w.top + w.height < 3000 for w in rows)


# Interrupt and resume -------------------------------------------------------


def in_child(work):
    """Run in a forked process, for which no import is needed.

    The work must use ``threads=1``: those of GDAL do not come along.
    """
    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def counting(work, kill_at=None):
    """Calls of functions, Python's and C's, during some work in this thread.

    At the given one, the process is killed.
    """
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_killed_at_any_moment(cheap, scene, tmp_path):
    """Resumed, the files are the same, byte for byte."""

    def predict(folder):
        return predict_raster(
            cheap(batch_size=4), scene, folder / 'a.tif',
            probabilities='uint8', threads=1, block=(40, 40))

    whole = tmp_path / 'whole'
    predict(tmp_path / 'first')  # makes what the others find
    calls = counting(lambda: predict(whole))
    rng = random.Random(0)
    resumed = 0
    for i in range(20):
        folder, moment = tmp_path / f'killed{i}', rng.randrange(calls - 200)
        killed = in_child(
            lambda: counting(lambda: predict(folder), moment))  # noqa: B023
        assert killed == -signal.SIGKILL
        if (folder / 'a.tif').exists():
            assert (folder / 'a.tif').read_bytes() == (
                whole / 'a.tif').read_bytes()
        resumed += predict(folder).resumed > 0
        assert files(folder) == files(whole)
        for name in files(folder):
            assert (folder / name).read_bytes() == (
                whole / name).read_bytes(), (i, name)
    assert resumed >= 10


def test_any_number_of_threads_writes_the_same(cheap, scene, tmp_path):
    for threads in (1, 2, 5):
        predict_raster(
            cheap(), scene, tmp_path / f'{threads}/a.tif', threads=threads,
            probabilities='float16')
    for name in files(tmp_path / '1'):
        for other in '25':
            assert (tmp_path / '1' / name).read_bytes() == (
                tmp_path / other / name).read_bytes()


@pytest.mark.parametrize('form', ('gtiff', 'cog'))
def test_the_output_grows_while_blocks_are_predicted(
        cheap, noise, scene_file, tmp_path, out, monkeypatch, form):
    scene = scene_file(tmp_path / 'a.tif', noise(5 * writing.TILE, 300))
    left = []
    finish = writing.Growing.finish

    def look(output):
        left.append(len(output._left))
        finish(output)

    monkeypatch.setattr(writing.Growing, 'finish', look)
    model = cheap(size=(64, 64), stride=(64, 64))
    predict_raster(model, scene, out, probabilities='uint8',
                   output_format=form, block=(256, 200))
    assert left == [0, 0]


def test_only_what_is_missing_is_computed(cheap, scene, tmp_path, out):
    model = cheap(batch_size=1)
    predict_raster(model, scene, out, block=(30, 50))
    whole, calls = out.read_bytes(), model.calls

    def stop(progress):
        if progress.done > 0.6 * progress.total:
            raise KeyboardInterrupt

    other = tmp_path / 'other/classes.tif'
    with pytest.raises(KeyboardInterrupt):
        predict_raster(cheap(batch_size=1), scene, other, progress=stop,
                       block=(30, 50))
    assert files(other.parent) == ['classes.tif.blocks']
    model.calls = 0
    report = predict_raster(model, scene, other, block=(30, 50))
    assert 0 < model.calls < 0.6 * calls
    assert report.resumed > 4
    assert other.read_bytes() == whole
    model.calls = 0
    assert predict_raster(model, scene, other, block=(30, 50)).kept
    assert model.calls == 0


def test_another_model_or_input_starts_anew(cheap, scene, out):
    def stop(progress):
        raise KeyboardInterrupt

    for model in (cheap(), cheap(blend='mean'), cheap(context_factors=(2, ))):
        with pytest.raises(KeyboardInterrupt):
            predict_raster(model, scene, out, block=(40, 40), progress=(
                lambda p: stop(p) if p.done == p.total else None))
    assert len({path.parent for path in root_of(out).glob(
        '*/classes*.tif')}) == 3
    changed = cheap()
    changed.mix.data += 1
    assert not predict_raster(changed, scene, out).resumed
    assert not root_of(out).exists()
    os.utime(scene, (1, 1))
    report = predict_raster(changed, scene, out)
    assert not report.kept and not report.resumed


def test_a_damaged_block_is_made_anew(cheap, scene, out, tmp_path):
    predict_raster(cheap(), scene, tmp_path / 'whole.tif', block=(40, 40))

    def stop(progress):
        if progress.done == progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_raster(cheap(), scene, out, progress=stop, block=(40, 40))
    block = sorted(root_of(out).glob('*/classes*.tif'))[2]
    content = block.read_bytes()
    block.write_bytes(content[:-400])
    with pytest.raises(OSError, match=f'{block.name}'):
        predict_raster(cheap(), scene, out, block=(40, 40))
    assert not out.exists() and not block.exists()
    assert predict_raster(cheap(), scene, out, block=(40, 40)).resumed
    assert (read(out) == read(tmp_path / 'whole.tif')).all()


# Errors ---------------------------------------------------------------------


@pytest.fixture
def damaged(noise, tmp_path, scene_file):
    """A file of which one tile, rows 64 to 95, columns 32 to 63, is lost."""
    image = noise(160, 128)
    path = scene_file(tmp_path / 'damaged.tif', image, compress='deflate',
                      interleave='pixel')
    with rasterio.open(path) as raster:
        at = int(raster.get_tag_item('BLOCK_OFFSET_1_2', 'TIFF', bidx=1))
    with path.open('r+b') as file:
        file.seek(at)
        file.write(b'lost' * 20)
    with rasterio.open(path) as raster, pytest.raises(
            rasterio.errors.RasterioError):
        raster.read()
    return path, image


def test_pixels_that_cannot_be_read_stop_or_are_no_data(
        cheap, damaged, out, in_memory):
    path, image = damaged
    with pytest.raises(ValueError, match='damaged.tif cannot be read at row.*'
                                         '--on-error skip'):
        predict_raster(cheap(), path, out)
    assert not out.exists()
    report = predict_raster(cheap(), path, out, on_error='skip')
    assert [tuple(w[:4]) for w in report.damaged] == [(64, 32, 32, 32)]
    hole = image.astype(np.float32)
    hole[:, 64:96, 32:64] = np.nan
    np.testing.assert_array_equal(read(out)[0], in_memory(cheap(), hole)[0])


def test_damage_is_reported_after_a_resumption(cheap, damaged, out):
    def stop(progress):
        if progress.done == progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_raster(cheap(), damaged[0], out, on_error='skip',
                       progress=stop, block=(40, 40))
    report = predict_raster(cheap(), damaged[0], out, on_error='skip',
                            block=(40, 40))
    assert report.resumed and report.damaged


def test_one_bad_scene_stops_no_other(cheap, scene, tmp_path, capsys):
    good, bad = scene, tmp_path / 'in/bad.tif'
    bad.write_bytes(b'no image')
    missing = tmp_path / 'in/missing.tif'
    scenes = find_scenes([str(bad), str(missing), str(good)],
                         tmp_path / 'out')
    assert predict_scenes(cheap(), scenes, Settings()) == 1
    assert files(tmp_path / 'out') == ['scene.tif', 'scene.tif.aux.xml']
    told = capsys.readouterr().err
    assert 'bad.tif cannot be read' in told
    assert 'missing.tif does not exist' in told
    assert '1 of 3 scenes predicted' in told and '2 failure(s)' in told
    assert predict_scenes(cheap(), scenes[2:], Settings()) == 0


@pytest.mark.parametrize('bands, match', [
    (2, 'has 2 bands.*the model takes 3'), (5, 'has 5 bands')])
def test_bands_that_do_not_fit(cheap, noise, scene_file, tmp_path, out, bands,
                               match):
    path = scene_file(tmp_path / 'scene.tif', noise(40, 40, bands))
    with pytest.raises(ValueError, match=match):
        predict_raster(cheap(), path, out)
    assert not list(tmp_path.glob('out/*'))
    if bands == 5:
        predict_raster(cheap(), path, out, bands=(1, 2, 5))


def test_the_output_says_which_bands_were_read(cheap, noise, scene_file,
                                               tmp_path, out):
    paths = [scene_file(tmp_path / f'{name}.tif', noise(40, 40, count))
             for name, count in (('rgb', 3), ('heights', 2))]
    predict_raster(cheap(), paths, out, bands=(5, 3, 4))
    with rasterio.open(out) as raster:
        tags = raster.tags(ns='RELAY_SEG')
    assert json.loads(tags['BANDS']) == {'heights.tif': [2, 1],
                                         'rgb.tif': [3]}


def test_a_batch_of_no_windows_is_refused(cheap, scene, out):
    model = cheap()
    model.test_cfg.batch_size = 0
    for call in (lambda: predict_raster(model, scene, out), model.slide):
        with pytest.raises(ValueError, match='batch_size=0; use 1 or more'):
            call()
    assert not out.exists()


def test_numbers_that_do_not_fit(cheap, noise, scene_file, tmp_path, out,
                                 caplog):
    from mmengine.logging import MMLogger
    MMLogger.get_current_instance().addHandler(caplog.handler)
    far = noise(40, 40).astype(np.uint16) * 100
    predict_raster(cheap(), scene_file(tmp_path / 'a.tif', far), out)
    assert 'band 1 (uint16) are far from what the model' in caplog.text
    caplog.clear()
    model = cheap()
    model.dataset_meta = dict(pixel_size=2.)
    predict_raster(model, scene_file(tmp_path / 'b.tif', noise(40, 40)),
                   out.with_name('b.tif'))
    assert '0.5 m, the model was trained on 2 m' in caplog.text
    assert '--pixel-size 2' in caplog.text
    assert 'far from' not in caplog.text
    MMLogger.get_current_instance().removeHandler(caplog.handler)
    waves = scene_file(tmp_path / 'c.tif', noise(40, 40, 3, np.complex64))
    with pytest.raises(ValueError, match='complex'):
        predict_raster(cheap(), waves, out)


def test_a_window_in_metres_needs_pixels_of_the_data(
        cheap, noise, scene_file, tmp_path):
    """Pixels of the scene are half a metre."""
    path = scene_file(tmp_path / 'scene.tif', noise(40, 40))
    model = cheap()
    model.cfg = dict(window_metres=(16., 16.))
    for pixel, message in ((0.5, None), (0.6, 'pixel-size 0.6.*in pixels')):
        model.dataset_meta = dict(pixel_size=pixel)
        if message is None:
            predict_raster(model, path, tmp_path / 'out.tif')
            continue
        with pytest.raises(ValueError, match=message):
            predict_raster(model, path, tmp_path / 'other.tif')
    predict_raster(model, path, tmp_path / 'other.tif', pixel_size=0.6)


def test_rasters_that_do_not_lie_on_each_other(
        cheap, noise, scene_file, tmp_path, out, place):
    rgb = scene_file(tmp_path / 'rgb.tif', noise(40, 40))
    for settings, shape, match in (
            ({}, (40, 41), '40 x 41 pixels.*40 x 40'),
            (dict(crs='EPSG:32647'), (40, 40), 'EPSG:32647.*EPSG:32648'),
            (dict(transform=place @ rasterio.Affine.translation(3, 0)),
             (40, 40), 'does not lie on')):
        other = scene_file(tmp_path / 'dtm.tif', noise(*shape, 1), **settings)
        with pytest.raises(ValueError, match=match):
            predict_raster(cheap(bands=4), (rgb, other), out)


def test_aoi_needs_places(cheap, noise, scene_file, tmp_path, out):
    nowhere = scene_file(tmp_path / 'a.tif', noise(40, 40), crs=None)
    aoi = write_polygon(tmp_path / 'aoi.gpkg', shapely.box(0, 0, 1, 1),
                        'EPSG:4326')
    with pytest.raises(ValueError, match='a.tif has no CRS.*--aoi'):
        predict_raster(cheap(), nowhere, out, aoi=aoi)
    with pytest.raises(ValueError, match='--pixel-size has no meaning'):
        predict_raster(cheap(), nowhere, out, pixel_size=1.)
    with pytest.raises(FileNotFoundError, match='b.gpkg'):
        predict_raster(cheap(), scene_file(tmp_path / 'b.tif', noise(40, 40)),
                       out, aoi=tmp_path / 'b.gpkg')


def test_full_disk_is_said_before_and_survived(
        cheap, scene, out, tmp_path, monkeypatch):
    predict_raster(cheap(), scene, tmp_path / 'whole.tif')
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage',
                        lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match='needs about .* make room'):
        predict_raster(cheap(), scene, out)
    monkeypatch.undo()
    written, put = [], RowWriter.put

    def failing(writer, pixels, part):
        written.append(part)
        if len(written) == 5:
            raise OSError(28, 'No space left on device')
        put(writer, pixels, part)

    monkeypatch.setattr(RowWriter, 'put', failing)
    with pytest.raises(OSError, match='disk full.*same command again'):
        predict_raster(cheap(), scene, out, block=(40, 40))
    monkeypatch.undo()
    assert not list(root_of(out).glob('*/.*'))  # nothing half done
    assert predict_raster(cheap(), scene, out, block=(40, 40)).resumed >= 2
    assert (read(out) == read(tmp_path / 'whole.tif')).all()


def test_folders_and_files_that_are_not_ours(cheap, scene, tmp_path, out):
    with pytest.raises(ValueError, match='scene.tif is an input'):
        predict_raster(cheap(), scene, scene)
    before = scene.read_bytes()
    shutil.copy(scene, tmp_path / 'foreign.tif')
    with pytest.raises(ValueError, match='is no prediction'):
        predict_raster(cheap(), scene, tmp_path / 'foreign.tif')
    assert scene.read_bytes() == before
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot be written to'):
        predict_raster(cheap(), scene, tmp_path / 'file/out.tif')


# Command line ---------------------------------------------------------------


def test_inputs(tmp_path, monkeypatch):
    for name in ('a.tif', 'b.png', 'c.TIF', 'notes.md', 'x+y.tif'):
        (tmp_path / name).write_bytes(b'')
    monkeypatch.chdir(tmp_path.parent)

    def names(*inputs):
        return ['+'.join(p.name for p in s.paths) for s in find_scenes(
            [str(i) for i in inputs], 'out')]

    assert names(tmp_path) == ['a.tif', 'b.png', 'c.TIF', 'x+y.tif']
    assert names(tmp_path / '[ab].*') == ['a.tif', 'b.png']
    assert names(tmp_path / 'x+y.tif') == ['x+y.tif']
    assert names(f'{tmp_path}/a.tif+{tmp_path}/b.png') == ['a.tif+b.png']
    listed = tmp_path / 'list.txt'
    listed.write_text('# two\n a.tif\n\nb.png+c.TIF\n')
    assert names(listed) == ['a.tif', 'b.png+c.TIF']
    listed.write_text('a.tif\n', encoding='utf-8-sig')  # as of Windows
    assert names(listed) == ['a.tif']
    with pytest.raises(FileNotFoundError, match='fits no file'):
        names(tmp_path / '*.jp2')
    (tmp_path / 'sub').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no raster'):
        names(tmp_path / 'sub')
    (tmp_path / 'sub/a.tif').write_bytes(b'')
    with pytest.raises(ValueError, match='would both be written'):
        names(tmp_path / 'a.tif', tmp_path / 'sub/a.tif')
    with pytest.raises(ValueError, match='one file but 4'):
        find_scenes([str(tmp_path)], 'out.tif')
    with pytest.raises(ValueError, match='is an input'):
        find_scenes([str(tmp_path / 'a.tif')], tmp_path)


SETTINGS = ['--cfg-options', 'model.decode_head.channels=8']
CONFIG = 'configs/relay/rt_swin2_n_dubai.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Random weights of the sample's model, small."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.model.decode_head.channels = 8
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp('weights') / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def call(*arguments):
    """Run the command in this process: starting one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, 'argv', ['predict.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path('tools/predict.py', run_name='__main__')
    return end.value.code


def launch(*command):
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, text=True, capture_output=True,
        env=os.environ | dict(
            OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PATH=path,
            PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_one_and_two_processes(noise, scene_file, tmp_path, checkpoint):
    """The commands of the README; two write what one writes."""
    scene = scene_file(tmp_path / 'scene.tif', noise(400, 200))
    common = (CONFIG, checkpoint, scene)
    assert call(*common, '-o', tmp_path / 'one.tif', '--device', 'cpu',
                *SETTINGS) == 0
    launch('tools/dist_predict.sh', *common, tmp_path / 'two.tif', 2,
           *SETTINGS)
    first, second = (tmp_path / f'{name}.tif' for name in ('one', 'two'))
    assert first.read_bytes() == second.read_bytes()
    with rasterio.open(first) as raster:
        tags = raster.tags(ns='RELAY_SEG')
        assert raster.colormap(1)[1] == (132, 41, 246, 255)
    assert json.loads(tags['CLASS_NAMES'])[0] == 'building'
    assert len(tags['CHECKPOINT']) == 64
    assert tags['CONFIG'].endswith(CONFIG)


def test_scores_and_an_item_beside_the_output(
        noise, scene_file, tmp_path, checkpoint, capsys):
    scene = scene_file(tmp_path / 'scene.tif', noise(100, 120))
    out = tmp_path / 'a.tif'
    command = (CONFIG, checkpoint, scene, '-o', out, '--device', 'cpu',
               '--stac', tmp_path / 'a.json', *SETTINGS)
    assert call(*command) == 0
    item = json.loads((tmp_path / 'a.json').read_text())
    assert item['type'] == 'Feature' and item['id'] == 'a'
    truth = scene_file(tmp_path / 'truth.tif', read(out))
    assert call(*command, '--truth', truth) == 0
    found = json.loads((tmp_path / 'a_scores.json').read_text())
    assert found['metrics']['aAcc'] == 100
    assert 'aAcc 100.00' in capsys.readouterr().err
    assert call(*command, '--truth', tmp_path / 'no.tif') == 1
    assert 'no.tif' in capsys.readouterr().err
    assert call(*command, '--truth', out, '--overwrite') == 2
    assert 'a.tif is an input' in capsys.readouterr().err
    before = (tmp_path / 'a_scores.json').read_bytes()
    assert call(*command, '--truth', truth, '--blend', 'center',
                '--part', '2/2') == 0
    said = capsys.readouterr().err
    assert 'not whole yet' in said and 'aAcc' not in said
    assert (tmp_path / 'a_scores.json').read_bytes() == before
    scene_file(tmp_path / 'two.tif', noise(100, 120))
    assert call(CONFIG, checkpoint, scene, tmp_path / 'two.tif', '-o',
                tmp_path / 'out', '--truth', truth) == 2
    assert 'tools/score.py' in capsys.readouterr().err


@pytest.mark.parametrize('part', ['0/3', '4/3', 'a', '1/2/3', '-1/2'])
def test_what_is_no_part(capsys, part):
    assert call('a.py', 'b.pth', 'c.tif', '-o', 'd.tif', f'--part={part}') == 2
    assert '1/8' in capsys.readouterr().err


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_is_not_there(
        noise, scene_file, tmp_path, checkpoint, capsys, device):
    scene = scene_file(tmp_path / 'scene.tif', noise(40, 40))
    assert call(CONFIG, checkpoint, scene, '-o', tmp_path / 'a.tif',
                '--device', device) == 2
    assert f'device {device} is not there' in capsys.readouterr().err


def test_bad_command_lines_exit_with_2(tmp_path, checkpoint, capsys):
    assert call(CONFIG, checkpoint, tmp_path / '*.tif', '-o', tmp_path) == 2
    assert 'fits no file' in capsys.readouterr().err
    (tmp_path / 'a.tif').write_bytes(b'')
    assert call(CONFIG, tmp_path / 'no.pth', tmp_path / 'a.tif', '-o',
                tmp_path / 'out') == 2
    assert 'no.pth' in capsys.readouterr().err
