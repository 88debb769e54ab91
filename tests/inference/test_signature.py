"""What is kept is of the same model, settings and files."""
import os
import shutil

import numpy as np
import pytest
import rasterio
from mmengine.config import Config

from relay_seg.inference import predict_raster
from relay_seg.inference.blocks import root_of
from relay_seg.inference.signature import model_digest
from relay_seg.rasters import changed, files_of, identity


@pytest.fixture
def scene(noise, scene_file, tmp_path):
    return scene_file(tmp_path / 'scene.tif', noise(64, 48))


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out.tif'


# Model ----------------------------------------------------------------------


def attribute(name, value):
    def change(model):
        setattr(model, name, value)
    return change


def config(**settings):
    def change(model):
        model.cfg = Config(dict(model=dict(
            type='A', backbone=dict(fusion='sequential')) | settings))
    return change


@pytest.mark.parametrize('before, after', [
    (config(), config(backbone=dict(fusion='mean'))),
    (config(), config(decode_head=dict(threshold=0.4))),
    (attribute('align_corners', False), attribute('align_corners', True)),
    (attribute('threshold', 0.5), attribute('threshold', 0.4)),
    (attribute('relative_bands', ()), attribute('relative_bands', (2, )))])
def test_another_model_starts_anew(cheap, scene, out, before, after):
    for change, kept in ((before, False), (before, True), (after, False)):
        model = cheap()
        change(model)
        assert predict_raster(model, scene, out).kept == kept


def test_other_bands_of_the_config_start_anew(
        cheap, noise, scene_file, tmp_path, out):
    scene = scene_file(tmp_path / 'five.tif', noise(40, 40, 5))
    for bands, kept in (((1, 2, 3), False), ((1, 2, 3), True),
                        ((3, 4, 5), False)):
        model = cheap()
        step = dict(type='ReadScene', bands=bands)
        model.cfg = Config(dict(test_dataloader=dict(
            dataset=dict(pipeline=[step]))))
        assert predict_raster(model, scene, out).kept == kept


@pytest.mark.parametrize('name', [
    'rt_swin2_n_dubai', 'segformer_b0_dubai'])
def test_models_are_the_same_before_and_after(name):
    """And in each run: nothing in a description is of this process."""
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    folder = 'relay' if name.startswith('rt') else 'plain'
    cfg = Config.fromfile(f'configs/{folder}/{name}.py')
    init_default_scope('mmseg')
    models = [MODELS.build(cfg.model).eval() for _ in range(2)]
    for model in models:
        model.cfg = cfg
    model, digest = models[0], model_digest(models[0])
    assert digest == model_digest(models[1])
    side = cfg.model.test_cfg.crop_size
    with torch.no_grad():
        model.slide_inference(torch.zeros(1, 3, *side), [{}])
    assert model_digest(model) == digest
    model.decode_head.align_corners = not model.decode_head.align_corners
    assert model_digest(model) != digest


# Files ----------------------------------------------------------------------


def mask(path):
    with rasterio.open(
            f'{path}.msk', 'w', driver='GTiff', count=1, dtype='uint8',
            height=64, width=48) as raster:
        ids = np.full((1, 64, 48), 255, np.uint8)
        ids[:, :20] = 0
        raster.write(ids)
        raster.update_tags(INTERNAL_MASK_FLAGS_1='2')


def overviews(path):
    shutil.copy(path, f'{path}.ovr')


def statistics(path):
    path.with_name(f'{path.name}.aux.xml').write_text('<PAMDataset/>')


def world(path):
    path.with_suffix('.wld').write_text('2\n0\n0\n-2\n0\n0\n')


def rewrite(path):
    os.utime(path, (1, 1))


@pytest.mark.parametrize('change', [mask, overviews, statistics, rewrite])
@pytest.mark.parametrize('deep', [0, 1, 2])
def test_all_that_a_scene_is_read_from(
        cheap, scene, tmp_path, write_vrt, change, deep):
    """Also through a VRT, and a VRT of a VRT, in other folders."""
    (tmp_path / 'a/b').mkdir(parents=True)
    path = scene
    if deep:
        path = write_vrt(tmp_path / 'a/inner.vrt', '../scene.tif')
    if deep > 1:
        path = write_vrt(tmp_path / 'a/b/outer.vrt', '../inner.vrt')
    before = identity(path)
    assert not changed(before, path)
    out = tmp_path / 'out.tif'
    predict_raster(cheap(), path, out)
    assert predict_raster(cheap(), path, out).kept
    change(scene)
    names = changed(before, path)
    assert len(names) == 1 and names[0].startswith(str(scene))
    assert not predict_raster(cheap(), path, out).kept


def test_a_world_file(tmp_path, noise, scene_file):
    png = tmp_path / 'scene.png'
    with rasterio.open(png, 'w', driver='PNG', count=3, dtype='uint8',
                       height=64, width=48) as raster:
        raster.write(noise(64, 48))
    before = identity(png)
    world(png)
    assert changed(before, png) == [str(tmp_path / 'scene.wld')]


def test_files_that_are_no_raster(tmp_path):
    for name in ('a.shp', 'a.dbf', 'a.prj', 'b.dbf', 'c.gpkg'):
        (tmp_path / name).write_text('')
    assert {p.name for p in files_of(tmp_path / 'a.shp')} == {
        'a.shp', 'a.dbf', 'a.prj'}
    assert files_of(tmp_path / 'c.gpkg') == (tmp_path / 'c.gpkg', )
    before = identity(tmp_path / 'missing.tif')
    assert before[0][1:] == [-1, -1]


def test_a_missing_source_and_an_archive(tmp_path, scene, write_vrt):
    shutil.make_archive(tmp_path / 'pixels', 'zip', tmp_path, 'scene.tif')
    vrt = write_vrt(tmp_path / 'a.vrt', 'gone.tif')
    text = vrt.read_text()
    assert [str(tmp_path / 'gone.tif'), -1, -1] in identity(vrt)
    archive = tmp_path / 'pixels.zip'
    vrt.write_text(text.replace('relativeToVRT="1">gone.tif',
                                f'>/vsizip/{archive}/scene.tif'))
    before = identity(vrt)
    os.utime(archive, (1, 1))
    assert changed(before, vrt) == [str(archive)]


def test_an_input_that_changes_while_it_is_read(cheap, scene, out, noise,
                                                scene_file, tmp_path):
    def rewritten(progress):
        if progress.done > progress.total // 2:
            scene_file(scene, noise(64, 48)[::-1])

    picture = tmp_path / 'a.png'
    with pytest.raises(ValueError, match='scene.tif changed while it was'):
        predict_raster(cheap(), scene, out, progress=rewritten,
                       preview=picture)
    assert [path.name for path in tmp_path.iterdir()] == ['scene.tif']
    assert not predict_raster(cheap(), scene, out).resumed


def test_blocks_of_a_changing_input_are_thrown_away(cheap, scene, out):
    """Not only the output: the file may get its old time again."""
    status = scene.stat()

    def touched(progress):
        os.utime(scene, (1, 1))

    with pytest.raises(ValueError, match='changed'):
        predict_raster(cheap(), scene, out, progress=touched)
    os.utime(scene, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not root_of(out).exists()
    assert not predict_raster(cheap(), scene, out).resumed
