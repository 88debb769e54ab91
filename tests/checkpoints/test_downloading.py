"""Files behind URLs: where they are taken from, and what a cut leaves."""
import http.server
import threading

import golden_values
import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS

from relay_seg.checkpoints import (
    CheckpointError,
    downloading,
    local_file,
    read_checkpoint,
)
from relay_seg.checkpoints.downloading import fetch

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Where torch keeps downloads; nothing there, and no other folder."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    monkeypatch.delenv('RELAY_SEG_WEIGHTS', raising=False)
    return tmp_path / 'torch/hub'


def downloads(hub):
    return [p for p in hub.rglob('*') if p.is_file()]


@pytest.fixture
def server():
    """Gives whole.pth, and half of /cut.pth; of /b/ the other way round.

    Its ``asked`` are paths.
    """

    class Server(http.server.BaseHTTPRequestHandler):

        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header('Content-Length', str(len(CONTENT)))
            self.end_headers()
            end = len(CONTENT) // (2 if 'cut' in self.path else 1)
            self.wfile.write(
                CONTENT[::-1] if '/b/' in self.path else CONTENT[:end])

        def log_message(self, *args):
            pass

    asked = []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server) as it:
        threading.Thread(target=it.serve_forever, daemon=True).start()
        it.asked, it.url = asked, f'http://127.0.0.1:{it.server_port}'
        yield it
        it.shutdown()


def test_one_download(hub, server):
    for _ in range(2):
        path = local_file(f'{server.url}/some/whole.pth')
        assert path.name == 'whole.pth' and path.read_bytes() == CONTENT
    assert server.asked == ['/some/whole.pth']
    assert downloads(hub) == [path]


def test_urls_of_one_name_are_two_files(hub, server):
    one, two, three = f'{server.url}/a/whole.pth', (
        f'{server.url}/b/whole.pth'), f'{server.url}/a/whole.pth?version=2'
    for _ in range(2):
        assert fetch(one).read_bytes() == CONTENT
        assert fetch(two).read_bytes() == CONTENT[::-1]
        fetch(three)
    assert server.asked == [
        '/a/whole.pth', '/b/whole.pth', '/a/whole.pth?version=2']


def test_file_url_of_a_path_with_spaces(tmp_path):
    path = tmp_path / 'my weights.pth'
    torch.save(dict(a=torch.ones(2)), path)
    assert read_checkpoint(path.as_uri())['a'].tolist() == [1, 1]


def test_file_of_unknown_origin_is_not_taken(hub, server):
    """torch keeps downloads by name, whatever their address."""
    (hub / 'checkpoints').mkdir(parents=True)
    (hub / 'checkpoints/whole.pth').write_bytes(b'of another address')
    assert local_file(f'{server.url}/whole.pth').read_bytes() == CONTENT


def test_cut_download_leaves_nothing(hub, server):
    with pytest.raises(CheckpointError, match='only 5,120 of its 10,240'):
        local_file(f'{server.url}/cut.pth')
    assert downloads(hub) == []


def test_own_folder_comes_first(hub, server, tmp_path, monkeypatch, log):
    own = tmp_path / 'own'
    own.mkdir()
    monkeypatch.setenv('RELAY_SEG_WEIGHTS', str(own))
    torch.save(dict(a=torch.ones(2)), own / 'a.pth')
    assert local_file(f'{server.url}/a.pth') == own / 'a.pth'
    assert read_checkpoint(f'{server.url}/a.pth')['a'].tolist() == [1, 1]
    assert log == [f'{own}/a.pth is taken for {server.url}/a.pth, by its '
                   'name.']
    (own / 'a.pth').unlink()
    path = local_file(f'{server.url}/a.pth')
    assert path in downloads(hub) and path.read_bytes() == CONTENT
    monkeypatch.setenv('RELAY_SEG_WEIGHTS', str(own / 'none'))
    with pytest.raises(CheckpointError, match='own/none is no folder'):
        local_file(f'{server.url}/a.pth')


@pytest.mark.parametrize('own', [False, True])
def test_without_network_the_places_are_named(own, hub, tmp_path,
                                              monkeypatch):
    if own:
        monkeypatch.setenv('RELAY_SEG_WEIGHTS', str(tmp_path))
    url = 'http://127.0.0.1:9/deep/a.pth'  # where nobody answers
    with pytest.raises(CheckpointError) as error:
        local_file(url)
    message = str(error.value)
    assert message.startswith(f'a.pth is not on this machine, and {url} was')
    assert 'RELAY_SEG_WEIGHTS' in message
    assert not own or f'{tmp_path} (RELAY_SEG_WEIGHTS)' in message
    assert '--pretrained' not in message
    assert error.value.__suppress_context__ and not error.value.__cause__


@pytest.mark.parametrize('file', ['vit_rt', 'vit_single_reg0'])
def test_init_cfg_without_network_names_the_other_way(file, hub,
                                                      monkeypatch):
    reached = []
    monkeypatch.setattr(downloading, 'barrier', lambda: reached.append(1))
    url = 'http://127.0.0.1:9/a.pth'
    model = MODELS.build(golden_values.segmentor(
        file, init_cfg=dict(type='Pretrained', checkpoint=url)))
    with pytest.raises(CheckpointError) as error:
        model.init_weights()
    assert '--pretrained none' in str(error.value)
    assert error.value.__suppress_context__
    assert len(reached) == 1
    with pytest.raises(CheckpointError, match='was not downloaded'):
        CheckpointLoader.load_checkpoint(url)
    assert len(reached) == 2  # the host's loaders do as much


def test_other_processes_wait_for_the_first(hub, server, monkeypatch):
    """They reach the barrier without a download, and find the file."""
    url = f'{server.url}/whole.pth'

    def barrier():
        assert not server.asked
        local_file(url)  # by the first

    monkeypatch.setattr(downloading, 'is_main_process', lambda: False)
    monkeypatch.setattr(downloading, 'barrier', barrier)
    assert fetch(url).read_bytes() == CONTENT
    assert server.asked == ['/whole.pth']


def test_others_are_let_go_if_the_first_fails(hub, monkeypatch):
    reached = []
    monkeypatch.setattr(downloading, 'barrier', lambda: reached.append(1))
    with pytest.raises(CheckpointError):
        fetch('http://127.0.0.1:9/a.pth')
    assert reached
    fetch('model.pth')
    assert len(reached) == 1  # of local files nobody waits
