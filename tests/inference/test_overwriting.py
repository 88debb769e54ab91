"""What predictions may be written over, and what they may not."""
import os
import resource
import runpy
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image

from relay_seg.inference import (
    Settings,
    find_scenes,
    predict_raster,
    predict_scenes,
)
from relay_seg.inference.polygons import write_polygons

TOOL = str(Path(__file__).parents[2] / 'tools/predict.py')


@pytest.fixture
def scene(noise, scene_file, tmp_path):
    return scene_file(tmp_path / 'scene.tif', noise(48, 48))


@pytest.fixture
def aoi(scene, tmp_path):
    path = tmp_path / 'aoi.gpkg'
    with rasterio.open(scene) as raster:
        shape = shapely.box(*raster.bounds)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array([shape], object)), [], [],
        crs='EPSG:32648', geometry_type='Polygon', driver='GPKG')
    return path


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob('*')
            if path.is_file()}


@pytest.fixture
def refused(cheap, scene, tmp_path):
    """Says that a file is not written, and that nothing changed."""

    def check(path, match, out=tmp_path / 'out.tif', scene=scene,
              **settings):
        before, model = content(tmp_path), cheap()
        with pytest.raises(ValueError, match=f'{path.name}.*{match}'):
            predict_raster(model, scene, out, **settings)
        assert not model.calls
        assert content(tmp_path) == before

    return check


def test_inputs_are_never_written_over(
        refused, scene, aoi, tmp_path, scene_file, noise):
    beside = tmp_path / 'dtm.png'
    Image.new('L', (48, 48)).save(beside)
    for overwrite in (False, True):
        refused(scene, 'input', out=scene, overwrite=overwrite)
        refused(aoi, 'input', aoi=aoi, polygons=aoi, overwrite=overwrite)
        refused(beside, 'input', scene=(scene, beside), preview=beside,
                overwrite=overwrite)
        chances = scene_file(tmp_path / 'a_probabilities.tif', noise(48, 48))
        refused(chances, 'input', scene=chances, out=tmp_path / 'a.tif',
                probabilities='uint8', overwrite=overwrite)


@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_links_are_what_they_lead_to(refused, scene, tmp_path, link):
    path = tmp_path / 'link.tif'
    link(scene, path)
    refused(path, 'input', out=path, overwrite=True)


def test_a_file_behind_a_vrt_is_an_input(
        refused, scene, tmp_path, write_vrt):
    (tmp_path / 'in').mkdir()
    shutil.copy(scene, tmp_path / 'in/tile.tif')
    shutil.copy(scene, tmp_path / 'in/tile.tif.msk')
    write_vrt(tmp_path / 'in/inner.vrt', 'tile.tif')
    outer = write_vrt(tmp_path / 'outer.vrt', 'in/inner.vrt')
    tile = tmp_path / 'in/tile.tif'
    refused(tile, 'belongs to one.*outer.vrt', scene=outer, out=tile,
            overwrite=True)


@pytest.mark.parametrize('what, name', [
    ('preview', 'mine.png'), ('polygons', 'mine.gpkg'), ('out', 'mine.tif')])
def test_files_of_others_stay_unless_asked_for(
        cheap, refused, scene, aoi, tmp_path, what, name):
    mine = tmp_path / name
    if what == 'preview':
        Image.new('L', (48, 48)).save(mine)
    else:
        shutil.copy(aoi if what == 'polygons' else scene, mine)
    refused(mine, '--overwrite', **{what: mine})
    names = dict(out=tmp_path / 'out.tif') | {what: mine}
    foreign = mine.read_bytes()
    predict_raster(cheap(), scene, **names, overwrite=True)
    first = mine.read_bytes()
    assert first != foreign
    # It is a prediction now.
    predict_raster(cheap(blend='mean'), scene, **names)
    shutil.copy(mine, tmp_path / f'copy{mine.suffix}')
    if what == 'polygons':  # a layer of one's own in it
        pyogrio.raw.write(
            mine, shapely.to_wkb(np.array([shapely.Point(0, 0)], object)), [],
            [], crs='EPSG:32648', geometry_type='Point', driver='GPKG',
            layer='notes', append=True)
        refused(mine, '--overwrite', **names)


@pytest.mark.parametrize('what, name', [
    ('preview', 'a.PNG'), ('stac', 'a.JSON'), ('polygons', 'a.GPKG'),
    ('polygons', 'a.GeoJSON'), ('polygons', 'a.Parquet'), ('out', 'a.TIF')])
def test_endings_of_any_letters(cheap, scene, tmp_path, what, name):
    names = dict(out=tmp_path / 'out.tif') | {what: tmp_path / name}
    for blend in ('mean', 'center'):  # what was written is written over
        predict_raster(cheap(blend=blend), scene, **names)
    assert names[what].stat().st_size


def test_shapefiles_have_small_letters(refused, tmp_path):
    path = tmp_path / 'a.SHP'
    refused(path, 'name it .*a.shp', polygons=path)


@pytest.mark.parametrize('letter', '!;')
def test_names_that_would_be_archives(refused, cheap, scene, tmp_path, aoi,
                                      letter):
    """pyogrio would write b.gpkg in the place of a!b.gpkg."""
    path = tmp_path / f'a{letter}b.gpkg'
    refused(path, 'archive', polygons=path)
    out = tmp_path / f'a{letter}b.tif'
    refused(out, 'archive', out=out, polygons=tmp_path / 'b.gpkg')
    aoi.rename(path)
    refused(path, 'archive', aoi=path)
    predict_raster(cheap(), scene, out, polygons=tmp_path / 'b.geojson')


def test_a_file_that_appears_meanwhile_stays(cheap, scene, tmp_path):
    picture = tmp_path / 'picture.png'

    def draw(progress):
        Image.new('L', (48, 48), 7).save(picture)

    with pytest.raises(ValueError, match='picture.png exists'):
        predict_raster(cheap(), scene, tmp_path / 'out.tif', preview=picture,
                       progress=draw)
    assert np.asarray(Image.open(picture)).max() == 7
    assert not (tmp_path / 'out.tif').exists()
    picture.unlink()
    report = predict_raster(cheap(), scene, tmp_path / 'out.tif',
                            preview=picture)
    assert report.resumed and picture.exists()


def test_one_file_is_one_output(refused, tmp_path, scene, cheap, noise,
                                scene_file):
    (tmp_path / 'sub').mkdir()
    refused(tmp_path / 'a.tif', 'a.png', out=tmp_path / 'out.tif',
            preview=tmp_path / 'a.tif')
    os.symlink(tmp_path / 'sub', tmp_path / 'link')
    out = tmp_path / 'sub/a_probabilities.tif'
    other = scene_file(tmp_path / 'a.tif', noise(48, 48))
    third = scene_file(tmp_path / 'a_probabilities.tif', noise(48, 48))
    scenes = find_scenes([str(other), str(third)], tmp_path / 'sub')
    model = cheap()
    with pytest.raises(ValueError, match=f'{out.name}.*twice'):
        predict_scenes(model, scenes, Settings(probabilities='uint8'))
    assert not model.calls and not list((tmp_path / 'sub').iterdir())


def test_a_scene_is_not_written_over_by_another(
        cheap, scene, scene_file, noise, tmp_path):
    """The output of the first is the second."""
    (tmp_path / 'sub').mkdir()
    second = tmp_path / 'sub/scene.tif'
    predict_raster(cheap(), scene, second)  # a prediction, even
    before = content(tmp_path)
    scenes = find_scenes([str(scene)], second)
    scenes += find_scenes([str(second)], tmp_path / 'other.tif')
    with pytest.raises(ValueError, match='sub/scene.tif is an input'):
        predict_scenes(cheap(bands=3), scenes, Settings(overwrite=True))
    assert content(tmp_path) == before


def test_the_command_refuses_before_it_looks_for_a_model(
        scene, tmp_path, monkeypatch, capsys):
    Image.new('L', (48, 48)).save(tmp_path / 'mine.png')
    monkeypatch.setattr(sys, 'argv', list(map(str, (
        'predict.py', 'no_config.py', 'no_weights.pth', scene, '-o',
        tmp_path / 'out.tif', '--preview', tmp_path / 'mine.png'))))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL, run_name='__main__')
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert 'mine.png exists' in said and '--overwrite' in said


def test_a_folder_of_blocks_that_is_anothers(refused, tmp_path):
    (tmp_path / 'out.tif.blocks').mkdir()
    (tmp_path / 'out.tif.blocks/thesis.doc').write_text('all of it')
    refused(tmp_path / 'out.tif.blocks', 'thesis.doc')


# What lies beside -----------------------------------------------------------


def test_what_gis_kept_beside_goes_with_the_raster(cheap, scene, tmp_path):
    """Overviews and statistics of before would be shown with a new map."""
    out, options = tmp_path / 'out.tif', dict(probabilities='uint8')
    predict_raster(cheap(), scene, out, **options)
    chances = tmp_path / 'out_probabilities.tif'
    beside = [path.with_name(path.name + '.ovr') for path in (out, chances)]
    beside.append(chances.with_name(f'{chances.name}.aux.xml'))
    for path in beside:
        path.write_text('of before')
    assert predict_raster(cheap(), scene, out, **options).kept
    assert all(path.exists() for path in beside)
    predict_raster(cheap(blend='mean'), scene, out, **options)
    assert not any(path.exists() for path in beside)
    assert out.with_name('out.tif.aux.xml').exists()


@pytest.mark.filterwarnings('ignore:statistics')
def test_statistics_of_gdal_change_nothing(cheap, scene, tmp_path):
    """It writes class names anew with them, and drops comments."""
    out = tmp_path / 'out.tif'
    predict_raster(cheap(), scene, out)
    names = out.with_name('out.tif.aux.xml')
    with rasterio.open(out) as raster:
        raster.statistics(1, clear_cache=True)
    assert 'RELAY_SEG' not in names.read_text()
    model = cheap()
    assert predict_raster(model, scene, out).kept and not model.calls
    predict_raster(cheap(blend='mean'), scene, out)
    assert 'STATISTICS' not in names.read_text()


def test_names_of_a_raster_that_is_not_there(refused, tmp_path):
    names = tmp_path / 'out.tif.aux.xml'
    names.write_text('<PAMDataset/>')
    refused(names, '--overwrite')


def test_all_rasters_are_of_one_prediction(cheap, scene, tmp_path):
    """Those of another are no reason to compute nothing."""
    out, options = tmp_path / 'out.tif', dict(probabilities='uint8')
    chances = tmp_path / 'out_probabilities.tif'
    for blend in ('mean', 'gaussian'):
        predict_raster(cheap(blend=blend), scene, out, **options)
        chances.rename(tmp_path / f'{blend}.tif')
    shutil.copy(tmp_path / 'mean.tif', chances)
    assert not predict_raster(
        cheap(blend='gaussian'), scene, out, **options).kept
    assert chances.read_bytes() == (tmp_path / 'gaussian.tif').read_bytes()
    predict_raster(cheap(), scene, tmp_path / 'out.tiff', **options)
    assert (tmp_path / 'out_probabilities.tiff').exists()
    assert predict_raster(cheap(), scene, out, **options).kept


# Names ----------------------------------------------------------------------


def test_a_loop_of_links(refused, scene, tmp_path, cheap):
    loop = tmp_path / 'loop.tif'
    loop.symlink_to(tmp_path / 'loop.tif')
    find_scenes([str(scene)], loop)
    before = os.readlink(loop)
    with pytest.raises(ValueError, match='loop.tif exists'):
        predict_raster(cheap(), scene, loop)
    assert os.readlink(loop) == before
    folder = tmp_path / 'ring'
    folder.symlink_to(tmp_path / 'ring')
    with pytest.raises(OSError, match='ring cannot be written to'):
        predict_raster(cheap(), scene, folder / 'out.tif')


@pytest.mark.parametrize('what, name, right', [
    ('out', 'map.jp2', 'map.tif'), ('polygons', 'map.kml', 'map.gpkg'),
    ('preview', 'map.jpg', 'map.png')])
def test_endings_say_what_is_written(refused, tmp_path, what, name, right):
    refused(tmp_path / name, right, **{what: tmp_path / name})


def test_a_folder_is_not_named_like_a_file(scene, tmp_path, noise, cheap,
                                           scene_file):
    with pytest.raises(ValueError, match='map.jp2.*map.tif'):
        find_scenes([str(scene)], tmp_path / 'map.jp2')
    assert not (tmp_path / 'map.jp2').exists()
    other = scene_file(tmp_path / 'other.tif', noise(48, 48))
    scenes = find_scenes([str(scene), str(other)], tmp_path / 'maps')
    with pytest.raises(ValueError, match='a.png.*folder'):
        predict_scenes(cheap(), scenes, Settings(preview=tmp_path / 'a.png'))


@pytest.mark.parametrize('setting', [
    dict(batch_size=0), dict(pixel_size=0), dict(pixel_size=-1.),
    dict(pixel_size=float('inf')), dict(min_area=float('inf')),
    dict(pixel_size=float('nan')), dict(stride=(8, 0)), dict(window=(0, 8)),
    dict(bands=(0, 1, 2)), dict(threads=0), dict(min_area=-1.),
    dict(min_area=float('nan'))])
def test_numbers_that_mean_nothing(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Settings(**setting)


# Full disks -----------------------------------------------------------------


@contextmanager
def small_disk(size):
    """No file grows beyond some bytes; that of the test's report may."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def chessboard(scene_file, tmp_path):
    """A class map with a region for each pixel."""
    ids = (np.indices((100, 100)).sum(0) % 2).astype(np.uint8)
    return scene_file(tmp_path / 'ids.tif', ids[None])


@pytest.mark.parametrize('kilobytes', [1, 60, 110, 600])
def test_a_full_disk_names_the_polygons(chessboard, tmp_path, kilobytes):
    with (pytest.raises(OSError, match='a.gpkg cannot be written.*Make room'),
          small_disk(1024 * kilobytes)):
        write_polygons(chessboard, tmp_path / 'a.gpkg', 'ab')


def test_polygons_are_the_same_in_each_run(chessboard, tmp_path, monkeypatch):
    for name, day in (('a', '2001-02-03'), ('b', '2024-05-06')):
        pyogrio.set_gdal_config_options(
            {'OGR_CURRENT_DATE': f'{day}T00:00:00.000Z'})
        write_polygons(chessboard, tmp_path / f'{name}.gpkg', 'ab')
    assert pyogrio.get_gdal_config_option(
        'OGR_CURRENT_DATE').startswith('2024')
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': None})
    assert (tmp_path / 'a.gpkg').read_bytes() == (
        tmp_path / 'b.gpkg').read_bytes()
