"""Scenes behind an address are predicted as those on the disk are."""
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from relay_seg.inference import find_scenes, predict_raster
from relay_seg.inference.signature import Inputs
from relay_seg.rasters import open_raster
from relay_seg.rasters.remote import gdal_name, located

SERVER = Path(__file__).parents[1] / 'range_server.py'


class Server:
    """Serves ``folder``, or fails in one way or another."""

    def __init__(self, folder):
        self.folder, self.port = folder, 0
        folder.mkdir()
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), str(self.folder), str(self.port)],
            stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def die(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def url(self, name):
        return f'http://127.0.0.1:{self.port}/{name}'

    def fail_each(self, number):
        """3: every third request."""
        (self.folder / '.fail').write_text(str(number))

    def die_in(self, number, size):
        """After some bytes of the answer to a request, the first is 1."""
        (self.folder / '.die').write_text(f'{number} {size}')


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('GDAL_HTTP_RETRY_DELAY', '0.01')
    server = Server(tmp_path / 'served')
    yield server
    server.die()


@pytest.fixture
def scene(server, scene_file, noise):
    """A scene of 64 x 96 pixels that is served as scene.tif."""
    return scene_file(server.folder / 'scene.tif', noise(64, 96))


def classes(path):
    with rasterio.open(path) as raster:
        return raster.read(1)


def test_classes_are_those_of_the_file(server, scene, cheap, tmp_path):
    predict_raster(cheap(), scene, tmp_path / 'here.tif')
    (there, ) = find_scenes([server.url('scene.tif')], tmp_path / 'out')
    assert there.out == tmp_path / 'out/scene.tif'
    predict_raster(cheap(), there.paths, there.out)
    assert (classes(there.out) == classes(tmp_path / 'here.tif')).all()


def test_viewer(server, scene, cheap, tmp_path):
    from relay_seg.viewing import open_layers
    predict_raster(cheap(), scene, tmp_path / 'out.tif')
    layers = open_layers(server.url('scene.tif'), tmp_path / 'out.tif')
    with layers.scene.handles.lend() as there, rasterio.open(scene) as here:
        assert (there.read() == here.read()).all()
    assert layers.scene.name == 'scene.tif'
    layers.close()


def test_names_of_this_machine_stay(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'a\?b@c.tif'), \
            open_raster(tmp_path / 'a?b@c.tif'):
        pass


def test_mask_beside_a_remote_file_counts(server, scene, cheap, tmp_path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), \
            rasterio.open(scene, 'r+') as raster:
        mask = np.full(raster.shape, 255, np.uint8)
        mask[:32] = 0
        raster.write_mask(mask)
    assert Path(f'{scene}.msk').exists()
    predict_raster(cheap(), server.url('scene.tif'), tmp_path / 'out.tif')
    assert (classes(tmp_path / 'out.tif') == 255)[:32].all()


def test_one_failure_in_three_is_retried(server, scene, cheap, tmp_path):
    server.fail_each(3)
    predict_raster(cheap(), server.url('scene.tif'), tmp_path / 'out.tif')
    predict_raster(cheap(), scene, tmp_path / 'here.tif')
    assert (classes(tmp_path / 'out.tif')
            == classes(tmp_path / 'here.tif')).all()


@pytest.mark.parametrize('on_error', ['stop', 'skip'])
@pytest.mark.parametrize('by_vrt', [False, True])
def test_server_that_dies(server, scene_file, noise, cheap, tmp_path,
                          on_error, by_vrt):
    # Larger than what GDAL reads ahead, so that it asks again on the way.
    image = noise(1024, 1024)
    scene = scene_file(server.folder / 'scene.tif', image)
    out = tmp_path / 'out.tif'
    source = remote(server, tmp_path, by_vrt)

    def model():
        return cheap((64, 64), (64, 64))

    def kill(progress):
        if progress.done > progress.total / 4:
            server.die()

    with pytest.raises(OSError, match=r'(?s)127.0.0.1.*same command'):
        predict_raster(model(), source, out, progress=kill, threads=1,
                       on_error=on_error, block=(256, 256))
    assert not out.exists()
    server.start()
    predicted = predict_raster(model(), source, out, on_error=on_error,
                               block=(256, 256))
    assert 0 < predicted.resumed
    predict_raster(model(), scene, tmp_path / 'here.tif')
    np.testing.assert_array_equal(
        classes(out), classes(tmp_path / 'here.tif'))


@pytest.mark.parametrize('size', [0, 5000])
@pytest.mark.parametrize('number', [
    2, *(pytest.param(i, marks=pytest.mark.slow) for i in range(3, 20))])
@pytest.mark.parametrize('by_vrt', [False, True])
def test_server_that_dies_in_the_middle_of_an_answer(
        server, scene_file, noise, cheap, tmp_path, number, size, by_vrt):
    scene = scene_file(server.folder / 'scene.tif', noise(1024, 1024))
    out = tmp_path / 'out.tif'
    source = remote(server, tmp_path, by_vrt)

    def run():
        return predict_raster(cheap((64, 64), (64, 64)), source, out,
                              on_error='skip', block=(256, 256))

    server.die_in(number, size)
    with pytest.raises(OSError, match=r'(?s)127.0.0.1.*same command'):
        run()
    server.die_in(0, 0)
    server.start()
    run()
    predict_raster(cheap((64, 64), (64, 64)), scene, tmp_path / 'here.tif')
    np.testing.assert_array_equal(
        classes(out), classes(tmp_path / 'here.tif'))


def remote(server, folder, by_vrt):
    """The scene, or a virtual raster here of it."""
    source = server.url('scene.tif')
    if not by_vrt:
        return source
    path = folder / 'scene.vrt'
    path.write_text(VRT.format(''.join(
        BAND.format(i, f'/vsicurl/{source}') for i in (1, 2, 3))))
    return path


VRT = '<VRTDataset rasterXSize="1024" rasterYSize="1024">{}</VRTDataset>'
BAND = ('<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource>'
        '<SourceFilename relativeToVRT="0">{1}</SourceFilename>'
        '<SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>')


def test_not_found_is_said_before_any_work(server, cheap, tmp_path):
    url = server.url('none.tif')
    with pytest.raises(FileNotFoundError, match='none.tif.*404.*address'):
        predict_raster(cheap(), url, tmp_path / 'out.tif')
    with pytest.raises(FileNotFoundError, match='none.tif.*404'), \
            open_raster(url):
        pass


def test_nobody_listens(server, tmp_path):
    server.die()
    with pytest.raises(OSError, match=f'127.0.0.1:{server.port}.*network'), \
            open_raster(server.url('scene.tif')):
        pass
    server.start()


def test_a_page_is_no_raster(server):
    (server.folder / 'login.tif').write_text('<html>Who are you?</html>')
    with pytest.raises(ValueError, match='login.tif.*no image'), \
            open_raster(server.url('login.tif')):
        pass


@pytest.mark.parametrize('form', [
    'zip+{url}!in/scene.tif', '/vsizip//vsicurl/{url}/in/scene.tif',
    '/vsizip/{{/vsicurl/{url}}}/in/scene.tif', 'zip://{path}!in/scene.tif',
    '/vsizip/{path}/in/scene.tif'])
def test_archives(server, scene, cheap, tmp_path, form):
    archive = server.folder / 'a.zip'
    with zipfile.ZipFile(archive, 'w') as file:
        file.write(scene, 'in/scene.tif')
    name = form.format(url=server.url('a.zip'), path=archive)
    (there, ) = find_scenes([name], tmp_path / 'out')
    assert there.out.name == 'scene.tif'
    predict_raster(cheap(), there.paths, there.out)
    predict_raster(cheap(), scene, tmp_path / 'here.tif')
    assert (classes(there.out) == classes(tmp_path / 'here.tif')).all()


def test_changed_remote_files_are_seen(server, scene):
    url = server.url('scene.tif')
    inputs = Inputs([located(url)])
    inputs.check()
    os.utime(scene, ns=(1, 1))
    with pytest.raises(ValueError, match='changed while'):
        inputs.check()


def test_another_signature_is_no_other_file(server, scene):
    first, second = (list(Inputs([located(
        server.url('scene.tif?key=') + key)]).identities.values())
        for key in ('secret1', 'secret2'))
    assert first == second
    assert 'secret' not in str(first)


def test_secrets_are_not_told(server, tmp_path):
    url = server.url('none.tif?key=secret')
    (scene, ) = find_scenes([url], tmp_path)
    assert scene.out.name == 'none.tif' and 'secret' not in str(scene)
    with pytest.raises(FileNotFoundError) as error, \
            open_raster(scene.paths[0]):
        pass
    assert 'secret' not in str(error.value)
    (server.folder / 'login.tif').write_text('<html>Who are you?</html>')
    with pytest.raises(ValueError, match='no image') as refused, \
            open_raster(server.url('login.tif?key=secret')):
        pass
    assert 'secret' not in str(refused.value)


def test_a_path_keeps_what_an_address_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address, name in {
            's3://b/k.tif': '/vsis3/b/k.tif', 'gs://b/k.tif': '/vsigs/b/k.tif',
            'az://b/k.tif': '/vsiaz/b/k.tif',
            '/vsis3/b/k.tif': '/vsis3/b/k.tif',
            'https://h/k.tif?a=b': '/vsicurl/https://h/k.tif?a=b',
            'https://h/a//k.tif':
            '/vsicurl?url=https%3A%2F%2Fh%2Fa%2F%2Fk.tif',
            'zip+s3://b/k.zip!a.tif': '/vsizip/{/vsis3/b/k.zip}/a.tif',
    }.items():
        assert gdal_name(Path(str(located(address)))) == name
    with pytest.raises(ValueError, match='two slashes.*copy'):
        located('s3://b//k.tif')


def test_lists_and_aligned_files(tmp_path):
    (tmp_path / 'list.txt').write_text(
        'https://h/a.tif\nhttps://h/b+c.tif+https://h/d.tif\n'
        'here.tif+s3://b/e.tif\n')
    found = [scene.paths for scene in find_scenes(
        [str(tmp_path / 'list.txt')], tmp_path / 'out')]
    assert [[gdal_name(path) for path in paths] for paths in found] == [
        ['/vsicurl/https://h/a.tif'],
        ['/vsicurl/https://h/b+c.tif', '/vsicurl/https://h/d.tif'],
        [str(tmp_path / 'here.tif'), '/vsis3/b/e.tif']]


def item(folder, **assets):
    path = folder / 'item.json'
    path.write_text(json.dumps(dict(type='Feature', assets={
        name: dict(href=href, roles=['data'], type='image/tiff')
        for name, href in assets.items()})))
    return path


@pytest.mark.parametrize('there', [False, True])
def test_asset_of_a_stac_item(server, scene, tmp_path, there):
    path = item(server.folder, visual='scene.tif')
    (found, ) = find_scenes(
        [server.url('item.json') if there else str(path)], tmp_path)
    assert found.out.name == 'scene.tif'
    with open_raster(found.paths[0]) as raster:
        assert raster.shape == (64, 96)


def test_assets_are_not_guessed(server, scene, tmp_path):
    path = item(server.folder, red='x.tif', visual='./scene.tif')
    with pytest.raises(ValueError, match='red, visual.*item.json#NAME'):
        find_scenes([str(path)], tmp_path)
    with pytest.raises(ValueError, match='red, visual'):
        find_scenes([f'{path}#none'], tmp_path)
    for name in (f'{path}#visual', server.url('item.json#visual')):
        (found, ) = find_scenes([name], tmp_path)
        with open_raster(found.paths[0]) as raster:
            assert raster.shape == (64, 96)
    path.write_text('{"type": "Feature"}')
    with pytest.raises(ValueError, match=r'item\.json is no STAC item'):
        find_scenes([str(path)], tmp_path)


def test_the_network_cannot_name_files_of_this_machine(
        server, scene, tmp_path, write_vrt, scene_file, noise):
    local = scene_file(tmp_path / 'private.tif', noise(48, 48))
    write_vrt(server.folder / 'bad.tif', local)
    with pytest.raises(ValueError, match='private.tif.*not read'), \
            open_raster(server.url('bad.tif')):
        pass
    item(server.folder, visual=f'file://{local}')
    with pytest.raises(ValueError, match='private.tif.*not read'):
        find_scenes([server.url('item.json')], tmp_path)


def test_orientation_of_remote_files_is_looked_at(server):
    from PIL import Image
    Image.new('RGB', (8, 8)).save(server.folder / 'a.tif', tiffinfo={274: 6})
    with pytest.raises(ValueError, match='orientation 6'), \
            open_raster(server.url('a.tif')):
        pass


def test_settings_of_users_stay(monkeypatch):
    from relay_seg.rasters.remote import patience
    assert patience('https://h/a.tif')['GDAL_HTTP_MAX_RETRY'] == '5'
    monkeypatch.setenv('GDAL_HTTP_MAX_RETRY', '0')
    assert 'GDAL_HTTP_MAX_RETRY' not in patience('https://h/a.tif')
    with rasterio.Env(GDAL_HTTP_CONNECTTIMEOUT=1):
        assert 'GDAL_HTTP_CONNECTTIMEOUT' not in patience('https://h/a.tif')
    assert not patience('a.tif')
