"""The server: what it serves, and what it does not."""
import http.client
import importlib
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import setuptools
from rasterio.transform import Affine
from shown_rasters import HALF_METRE, NAMES, save, serving

import relay_seg.viewing
from relay_seg.viewing import ViewerServer, open_layers
from relay_seg.viewing.server import FILES, PAGE

ROOT = Path(__file__).parents[2]


def request(server, path, method='GET', **headers):
    """Status, headers and body; the path is sent as it stands."""
    connection = http.client.HTTPConnection(*server.server_address[:2],
                                            timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def fetch_json(server, path):
    with urllib.request.urlopen(server.url + path, timeout=10) as response:
        return json.load(response)


def test_page_and_numbers(server, shown):
    status, headers, body = request(server, '/')
    assert status == 200 and b'leaflet.js' in body
    assert headers['Content-Type'].startswith('text/html')
    scene = fetch_json(server, 'scene.json')
    assert (scene['width'], scene['height']) == (1500, 1100)
    assert scene['layers'] == ['scene', 'prediction', 'truth', 'error']
    assert scene['names'][:4] == [*NAMES, 'class 3']
    assert scene['crs'] == 'EPSG:32633'
    assert scene['metres'] == pytest.approx(.5, rel=1e-3)
    server.areas.wait()
    areas = fetch_json(server, 'areas.json')
    assert areas['done'] == 1
    assert sum(areas['layers']['prediction']['counts']) == 1645000
    # Names of files, but not where they are.
    folder = str(shown[0][0].parent)
    assert folder not in json.dumps(scene) + json.dumps(areas)


def test_what_lies_under_the_cursor(server, shown):
    _, ids, truth = shown[1]
    for x, y in ((0, 0), (1499, 1099), (700, 400), (1200, 20)):
        found = fetch_json(server, f'at.json?x={x}&y={y}')
        expected = [None if layer[y, x] == 255 else layer[y, x]
                    for layer in (ids, truth)]
        assert list(found['ids'].values()) == expected
        assert found['place'] == [500000.25 + x / 2, 5999999.75 - y / 2]
    local, wide = (np.array(window['corners']) for window in
                   fetch_json(server, 'at.json?x=700&y=400')['windows'])
    assert local.min(0).tolist() == [652, 336]
    assert local.max(0).tolist() == [748, 464]
    assert wide.min(0).tolist() == [700 - 192, 400 - 256]
    assert wide.max(0).tolist() == [700 + 192, 400 + 256]


@pytest.mark.parametrize('path', [
    '/../setup.py', '/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd',
    '/page/index.html', '/index.html', '//etc/passwd', '/leaflet/LICENSE',
    'http://127.0.0.1/etc/passwd', '/tiles/../scene/0/0/0.png',
    '/tiles/scene/../../x', '/tiles/nothing/0/0/0.png',
    '/tiles/ids/0/0/0.png', '/tiles/scene/0/0/0.tif',
    '/tiles/scene/a/0/0.png', '/tiles/scene/0/0/1.5.png',
    '/tiles/scene/-1/0/0.png', '/tiles/scene/0/-1/0.png',
    '/tiles/scene/99/0/0.png', '/tiles/scene/0/1/0.png',
    '/tiles/scene/3/6/0.png', '/tiles/scene/3/0/5.png',
    '/tiles/scene/3/0/99999999999999999999.png', '/tiles/scene/3/%D9%A3/0.png',
    '/tiles/scene/0/0/0.png/', '/at.json', '/at.json?x=1', '/at.json?x=a&y=1',
    '/at.json?x=-1&y=1', '/at.json?x=1500&y=0', '/at.json?x=0&y=1100',
    '/at.json?x=0&y=0&file=/etc/passwd', '/scene.tif', '/scene.json/..',
])
def test_nothing_else_is_found(server, path):
    status, headers, body = request(server, path)
    assert status == 404
    assert headers['Content-Type'].startswith('text/plain')
    assert len(body) < 100 and b'root' not in body


@pytest.mark.parametrize('method', [
    'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS'])
def test_get_only(server, method):
    status, headers, _ = request(server, '/', method)
    assert status == 405 and headers['Allow'] == 'GET'


def test_all_answers_carry_the_policy(server):
    for path in ('/', '/viewer.js', '/scene.json', '/tiles/scene/0/0/0.png',
                 '/nowhere'):
        headers = request(server, path)[1]
        policy = headers['Content-Security-Policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy
        assert 'http' not in policy
        assert headers['X-Content-Type-Options'] == 'nosniff'


@pytest.mark.parametrize('host, status', [
    ('127.0.0.1', 200), ('localhost:8000', 200), ('[::1]:1', 200),
    ('LOCALHOST', 200), ('evil.example', 403), ('127.0.0.1.evil.example', 403),
    ('evil.example:80', 403), ('', 403)])
def test_other_names_of_this_machine_are_refused(server, host, status):
    assert request(server, '/scene.json', Host=host)[0] == status


def test_listens_to_this_machine_only(shown):
    with ViewerServer(open_layers(*shown[0])) as server:
        assert server.server_address[0] == '127.0.0.1'
        port = server.server_address[1]
        with pytest.raises(ValueError, match=str(port)):
            ViewerServer(open_layers(*shown[0]), port=port)
    with pytest.raises(ValueError, match='99999.*choose another --port'):
        ViewerServer(open_layers(*shown[0]), port=99999)


def test_many_threads_get_the_same_tiles(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (450, 500), np.uint8)
    paths = [
        save(tmp_path / 's.tif', rng.integers(
            0, 4000, (3, 900, 1000), np.uint16)),
        # Laid over by coordinates: its handles are warped ones.
        save(tmp_path / 'p.tif', coarse, HALF_METRE @ Affine.scale(2)),
        save(tmp_path / 't.tif', np.kron(coarse, np.ones((2, 2), np.uint8))),
    ]
    tiles = [f'tiles/{layer}/{level}/{x}/{y}.png'
             for layer in ('scene', 'prediction', 'truth', 'error')
             for level, side in ((0, 1), (1, 2), (2, 4))
             for x in range(side) for y in range(side)]

    def fetch(path):
        with urllib.request.urlopen(server.url + path, timeout=300) as answer:
            return answer.read()

    with serving(*paths) as server, ThreadPoolExecutor(8) as threads:
        together = list(threads.map(fetch, tiles * 2))
        alone = [server.tiles.draw(layer, *map(int, numbers))
                 for layer, *numbers in (
                     re.findall(r'[a-z]+(?=/)|[0-9]+', tile[6:])
                     for tile in tiles)]
    assert together == alone * 2
    assert len(set(alone)) > len(alone) / 2


def test_many_clients_at_once_are_all_answered(shown):
    with (ViewerServer(open_layers(*shown[0])) as server,
          ExitStack() as sockets):
        # All of them before the server takes the first.
        clients = [sockets.enter_context(socket.create_connection(
            server.server_address, timeout=10)) for _ in range(100)]
        for client in clients:
            client.sendall(b'GET /tiles/scene/3/0/0.png HTTP/1.1\r\n'
                           b'Host: 127.0.0.1\r\nConnection: close\r\n\r\n')
        thread = threading.Thread(target=server.serve_forever, args=(0.02, ))
        thread.start()
        answers = []
        for client in clients:
            with client.makefile('rb') as file:
                answers.append(file.read().partition(b'\r\n\r\n'))
        server.shutdown()
        thread.join()
    assert {head[:15] for head, _, _ in answers} == {b'HTTP/1.1 200 OK'}
    assert len({body for _, _, body in answers}) == 1


def test_a_damaged_block_is_an_error_that_names_the_file(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (600, 600), np.uint8)
    scene = save(tmp_path / 's.tif', ids)
    path = save(tmp_path / 'p.tif', ids)
    path.write_bytes(path.read_bytes()[:-4000])
    with serving(scene, path) as server:
        status, _, body = request(server, '/tiles/prediction/2/2/2.png')
        assert status == 500 and b'p.tif' in body
        assert str(tmp_path).encode() not in body
        assert request(server, '/tiles/prediction/2/0/0.png')[0] == 200
        scene.unlink()
        status, _, body = request(server, '/tiles/scene/2/0/0.png')
        assert status == 500 and b's.tif' in body
        assert str(tmp_path).encode() not in body


def test_a_picture_that_is_cut_off_is_not_shown(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    scene = save(tmp_path / 's.png', image, driver='PNG')
    path = save(tmp_path / 'p.tif', image)
    scene.write_bytes(scene.read_bytes()[:20000])
    with serving(scene, path) as server:
        for _ in range(2):
            status, _, body = request(server, '/tiles/scene/0/0/0.png')
            assert status == 500 and b's.png' in body


def test_the_page_refers_to_nothing_outside():
    own = [PAGE / name for name, _ in FILES.values()
           if not name.startswith('leaflet/')]
    assert len(own) == 4
    for path in own:
        assert not re.search(r'(https?:)?//[a-z]', path.read_text()), path
    style = (PAGE / 'leaflet' / 'leaflet.css').read_text()
    assert not re.search(r'url\(["\']?(https?:)?//|@import', style)
    assert 'BSD 2-Clause' in (PAGE / 'leaflet' / 'LICENSE').read_text()


def test_an_installed_package_has_the_page(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(setuptools, 'setup', asked.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    assert 'relay_seg.viewing' in asked['packages']
    patterns = asked['package_data']['relay_seg.viewing']
    packed = {path for pattern in patterns
              for path in PAGE.parent.glob(pattern)}
    assert packed >= {path for path in PAGE.rglob('*') if path.is_file()}


def call(*arguments):
    """Run tools/view.py in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['view.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/view.py'), run_name='__main__')


@pytest.mark.parametrize('arguments, message', [
    (['nowhere.tif', 'nowhere.tif'], 'nowhere.tif does not exist'),
    (['SCENE', 'SCENE'], '3 bands; class ids are one band'),
    (['SCENE', 'PREDICTION', '--window', '1', '2', '3'], 'one number, or two'),
    (['SCENE', 'PREDICTION', '--bands', '7'], 'bands 1 to 3'),
])
def test_tool_says_what_is_wrong(shown, capsys, arguments, message):
    files = dict(zip(('SCENE', 'PREDICTION'), shown[0]))
    with pytest.raises(SystemExit) as end:
        call(*(files.get(argument, argument) for argument in arguments))
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_tool_says_that_rio_tiler_is_missing(shown, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec',
        lambda name, *rest: None if name == 'rio_tiler' else find(name, *rest))
    monkeypatch.delitem(sys.modules, 'relay_seg.viewing')
    with pytest.raises(SystemExit) as end:
        call(*shown[0])
    assert end.value.code == 2
    assert "pip install -e '.[view]'" in capsys.readouterr().err


def test_tool_serves_until_interrupted(shown):
    environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools/view.py', *shown[0], '--no-browser'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment)
    try:
        url = re.match(r'http://127.0.0.1:\d+/', next(
            line for line in process.stdout if line.startswith('http')))[0]
        with urllib.request.urlopen(url, timeout=10) as page:
            assert b'<title>' in page.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert 'Traceback' not in errors
    finally:
        process.kill()


def test_tool_opens_the_browser(shown, monkeypatch):
    opened = []
    monkeypatch.setattr('webbrowser.open', opened.append)

    def interrupted(self):
        opened.append(self.url)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        relay_seg.viewing.ViewerServer, 'serve_forever', interrupted)
    call(*shown[0])
    assert opened[0] == opened[1]
