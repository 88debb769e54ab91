"""Reading a checkpoint runs nothing of it, whichever command reads it."""
import functools
import http.server
import pickle
import threading
from pathlib import Path

import lightning_files
import mmseg
import numpy as np
import pytest
import torch
from attacks import PLACES, WRITERS, checkpoint_with, payloads
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.apis import MMSegInferencer
from safetensors.torch import save_file
from test_tools import PLAIN, RELAY, call, options
from torch import nn

from relay_seg.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    load_weights,
    read_checkpoint,
    register_loaders,
)

HOST_TOOLS = Path(mmseg.__file__).parent / '.mim/tools'


@pytest.fixture(autouse=True)
def safe_loaders():
    """A test that trusts a file leaves no trust behind."""
    register_loaders()
    yield
    register_loaders()


@pytest.fixture
def marker(tmp_path):
    """Folder that exists once an attack has run."""
    return tmp_path / 'attacked'


@pytest.fixture
def attack(tmp_path, marker):
    """``attack(writer, place, payload)``: a file that is shown to work."""
    def write(writer='zip', place='message_hub.runtime_info.extra',
              payload='call'):
        path = tmp_path / 'attack.pth'
        thing = payloads(marker)[payload]
        WRITERS[writer](checkpoint_with(place, thing), path)
        return path
    return write


def run_unsafely(path, writer):
    if writer == 'pickle':
        return pickle.loads(path.read_bytes())
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize('payload', ['call', 'eval', 'getattr-call'])
@pytest.mark.parametrize('writer', WRITERS)
def test_attacks_are_real(attack, marker, writer, payload):
    """Without protection each makes its folder: the tests below can fail."""
    path = attack(writer, payload=payload)
    run_unsafely(path, writer)
    assert marker.is_dir()


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('writer', WRITERS)
def test_attack_is_refused(attack, marker, writer, place):
    with pytest.raises(UnsafeCheckpointError) as error:
        read_checkpoint(attack(writer, place))
    assert not marker.exists()
    message = str(error.value)
    assert 'attack.pth' in message and '--trust-checkpoint' in message
    if writer in ('zip', 'legacy'):
        assert 'asks for posix.mkdir' in message


@pytest.mark.parametrize('payload', ['eval', 'getattr', 'getattr-call'])
@pytest.mark.parametrize('writer', WRITERS)
def test_other_attacks_are_refused(attack, marker, writer, payload):
    path = attack(writer, payload=payload)
    with pytest.raises(UnsafeCheckpointError) as error:
        read_checkpoint(path)
    assert not marker.exists()
    name = 'eval' if payload == 'eval' else 'getattr'
    assert writer in ('tar', 'pickle') or name in str(error.value)


def test_allow_lists_of_others_do_not_count(attack, marker):
    """A library may have put the real getattr on torch's list."""
    allowed = [getattr, eval]
    with torch.serialization.safe_globals(allowed):
        for payload in ('getattr-call', 'eval'):
            with pytest.raises(UnsafeCheckpointError):
                read_checkpoint(attack(payload=payload))
        assert set(torch.serialization.get_safe_globals()) >= set(allowed)
    assert not marker.exists()


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / 'program.pth'
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UnsafeCheckpointError, match='TorchScript'):
        read_checkpoint(path)


# Files of PyTorch Lightning, which hold objects in any case.


def lightning_attack(path, marker, place, payload, **settings):
    found = checkpoint_with(place, payloads(marker)[payload])
    found[lightning_files.MARK] = '2.1.0'
    torch.save(found, path, **settings)
    return path


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('payload', ['call', 'eval', 'getattr',
                                     'getattr-call'])
def test_no_attack_in_a_lightning_file_runs(tmp_path, marker, payload, place):
    """What it asks for is left out, or the file is refused."""
    path = lightning_attack(tmp_path / 'a.ckpt', marker, place, payload)
    if payload == 'eval' and place != 'state_dict.extra':
        assert read_checkpoint(path)['state_dict'].keys() == {
            'line.weight', 'line.bias'}
    else:
        with pytest.raises(UnsafeCheckpointError) as error:
            read_checkpoint(path)
        assert 'a.ckpt' in str(error.value)
        assert "['state_dict']), 'weights.pth')" in str(error.value)
    assert not marker.exists()
    if payload != 'getattr':
        torch.load(path, weights_only=False)
        assert marker.is_dir()  # the attack is real


def test_allow_lists_of_others_do_not_count_for_lightning(tmp_path, marker):
    path = lightning_attack(tmp_path / 'a.ckpt', marker, 'extra', 'eval')
    with torch.serialization.safe_globals([eval]):
        assert 'extra' not in read_checkpoint(path)
        assert eval in torch.serialization.get_safe_globals()
    assert not marker.exists()


@pytest.mark.parametrize('weights', [{}, dict(a=Path('a')), [1]])
def test_lightning_file_without_weights_is_refused(tmp_path, weights):
    found = lightning_files.content({}) | dict(state_dict=weights)
    path = lightning_files.write(found, tmp_path / 'a.ckpt')
    with pytest.raises(UnsafeCheckpointError, match='not hold tensors alone'):
        read_checkpoint(path)


def test_objects_as_keys_and_types_are_left_out(tmp_path, log):
    found = lightning_files.content(dict(a=torch.ones(2))) | dict(
        keys={Path('a'): 1}, kinds=[lightning_files.Settings],
        step=functools.partial(getattr, 'a'), plain=dict(b=1))
    path = lightning_files.write(found, tmp_path / 'a.ckpt')
    assert read_checkpoint(path)['state_dict']['a'].tolist() == [1, 1]
    assert log[0].endswith(', datamodule_hparams, keys, kinds, step.')


def test_lightning_file_of_the_old_format_says_how_to_strip_it(tmp_path):
    """The recipe is run as it stands in the message."""
    path = lightning_files.write(
        lightning_files.content(dict(a=torch.ones(2))), tmp_path / 'a.ckpt',
        _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeCheckpointError, match='torch before 1.6') as e:
        read_checkpoint(path)
    recipe = str(e.value).split(':\n')[1]
    assert len(recipe.splitlines()) == 2 and "torch.load('a.ckpt'" in recipe
    found = lightning_files.content(dict(a=torch.ones(2)), objects=False)
    torch.save(found, path, _use_new_zipfile_serialization=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec('\n'.join(line.strip() for line in recipe.splitlines()), {})
    weights = read_checkpoint(tmp_path / 'weights.pth')['state_dict']
    assert weights['a'].tolist() == [1, 1]


def test_objects_without_the_mark_of_lightning_are_refused(tmp_path):
    found = lightning_files.content(dict(a=torch.ones(2)))
    del found[lightning_files.MARK]
    path = lightning_files.write(found, tmp_path / 'a.ckpt')
    with pytest.raises(UnsafeCheckpointError, match='functools.partial') as e:
        read_checkpoint(path)
    assert 'Lightning' not in str(e.value)


class Crafted:
    """Pickled as NumPy or the host would, with a state of our choice."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize('thing', [
    np.array([object()]), np.dtype([('a', 'O')]), np.dtype('V8'),
    np.array(['text']), HistoryBuffer.update,
    Crafted(getattr, (HistoryBuffer, '__init__')),
    Crafted(getattr, (dict, 'mean')),
    Crafted(np.array([1.]).__reduce__()[0], (dict, (0, ), b'b')),
    Crafted(bytes, (100, )),
], ids=['objects', 'fields', 'void', 'text', 'method', 'init', 'owner',
        'class', 'bytes'])
def test_stand_ins_do_nothing_else(tmp_path, thing):
    path = tmp_path / 'crafted.pth'
    torch.save(checkpoint_with('meta.extra', thing), path)
    with pytest.raises(CheckpointError, match='crafted.pth'):
        read_checkpoint(path)


def test_numbers_of_numpy_become_plain(tmp_path):
    history = HistoryBuffer([1., 2.5], [1, 2])
    content = dict(
        array=np.arange(6.).reshape(2, 3), turned=np.arange(6).reshape(2, 3).T,
        big=np.array([1, 258], '>i4'), empty=np.zeros(0), history=history,
        score=np.float64(0.7), count=np.int64(3), yes=np.bool_(True))
    torch.save(content, tmp_path / 'numbers.pth')
    found = read_checkpoint(tmp_path / 'numbers.pth')
    assert found.pop('history')['log_history'].tolist() == [1., 2.5]
    assert found == dict(
        array=[[0., 1, 2], [3, 4, 5]], turned=[[0, 3], [1, 4], [2, 5]],
        big=[1, 258], empty=[], score=0.7, count=3, yes=True)
    assert type(found['score']) is float and type(found['count']) is int


# Each command, with an attack as its checkpoint. To add one: a function of
# the file, a folder for its output and the scenes, in COMMANDS.

def _train(*settings, tool='tools/train.py', config=RELAY):
    def command(path, folder, scenes):
        extra = dict(x.format(path=path).split('=') for x in settings)
        call(tool, config, '--work-dir', folder,
             *options(scenes, 2, **extra))
    return command


def _resume(path, folder, scenes):
    folder.mkdir()
    (folder / 'iter_2.pth').write_bytes(path.read_bytes())
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_2.pth'))
    call('tools/train.py', RELAY, '--work-dir', folder, '--resume',
         *options(scenes))


def _test(tool, *arguments):
    def command(path, folder, scenes):
        call(tool, RELAY, path, '--work-dir', folder, *arguments,
             *options(scenes))
    return command


INIT = ('model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint={path}')
COMMANDS = {
    'train load_from': _train('load_from={path}'),
    'train init_cfg': _train(*INIT),
    'train resume': _resume,
    'train resume load_from': _train('load_from={path}', 'resume=True'),
    'test': _test('tools/test.py'),
    "host's train load_from": _train(
        'load_from={path}', tool=HOST_TOOLS / 'train.py'),
    "host's train init_cfg": _train(*INIT, tool=HOST_TOOLS / 'train.py'),
    "host's test": _test(HOST_TOOLS / 'test.py'),
    'train plain init_cfg': _train(*INIT, config=PLAIN),
}
FUNCTIONS = {
    'read_checkpoint': read_checkpoint,
    'load_weights': lambda path: load_weights(nn.Linear(2, 1), path),
    "host's load_checkpoint": lambda path: load_checkpoint(
        nn.Linear(2, 1), str(path)),
    "host's PretrainedInit": lambda path: PretrainedInit(
        str(path))(nn.Linear(2, 1)),
    "host's loader, file URL": lambda path: (
        CheckpointLoader.load_checkpoint(path.as_uri())),
}


@pytest.mark.parametrize('command', COMMANDS)
def test_no_command_runs_an_attack(command, attack, marker, tmp_path,
                                   module_scenes):
    with pytest.raises(UnsafeCheckpointError, match='posix.mkdir'):
        COMMANDS[command](attack(), tmp_path / 'out', module_scenes)
    assert not marker.exists()


#: Commands that end with the message: arguments after the checkpoint.
OTHERS = {
    'tools/predict.py': lambda folder, scenes: [
        scenes / 'img_dir/test/a.tif', '-o', folder / 'classes.tif'],
    'tools/convert_checkpoint.py': lambda folder, scenes: [
        folder / 'out.pth', '--to', 'plain'],
    'tools/publish_checkpoint.py': lambda folder, scenes: [
        folder / 'out.pth'],
}


@pytest.mark.parametrize('tool', OTHERS)
def test_no_other_command_runs_an_attack(tool, attack, marker, tmp_path,
                                         module_scenes, capsys):
    config = [RELAY] if tool == 'tools/predict.py' else []
    with pytest.raises(SystemExit) as stopped:
        call(tool, *config, attack(), *OTHERS[tool](tmp_path, module_scenes))
    assert stopped.value.code == 2
    assert 'posix.mkdir' in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize('writer', ['zip', 'legacy'])
@pytest.mark.parametrize('function', FUNCTIONS)
def test_no_function_runs_an_attack(function, writer, attack, marker):
    with pytest.raises(UnsafeCheckpointError, match='posix.mkdir'):
        FUNCTIONS[function](attack(writer))
    assert not marker.exists()


@pytest.mark.parametrize('command', ['train load_from', 'test'])
def test_trust_is_a_choice(command, attack, marker, tmp_path,
                           module_scenes):
    """With the argument the file is unpickled, and its code has run."""
    tool = 'tools/test.py' if command == 'test' else 'tools/train.py'
    path = attack()
    more = {} if command == 'test' else dict(load_from=path)
    arguments = [path] if command == 'test' else []
    with pytest.raises(CheckpointError, match='does not fit'):
        call(tool, RELAY, *arguments, '--trust-checkpoint', '--work-dir',
             tmp_path / 'out', *options(module_scenes, 2, **more))
    assert marker.is_dir()


def test_config_of_a_checkpoint_is_not_run(tmp_path, marker):
    """The host's resume runs ``meta['config']`` as a Python file."""
    code = f'import os\nos.mkdir({str(marker)!r})\ngpu_ids = [0]\n'
    path = tmp_path / 'config.pth'
    torch.save(checkpoint_with('meta.config', code), path)
    loaded = CheckpointLoader.load_checkpoint(str(path))
    assert 'config' not in loaded['meta'] and loaded['meta']['iter'] == 4


@pytest.mark.parametrize('place', [
    'meta.cfg', 'message_hub.runtime_info.cfg'])
def test_the_host_runs_the_config_of_weights_it_is_given_alone(
        tmp_path, marker, place):
    """So docs/security.md says: give it the config too."""
    path = tmp_path / 'alone.pth'
    code = f'import os\nos.mkdir({str(marker)!r})\nmodel = dict(type="No")\n'
    torch.save(checkpoint_with(place, code), path)
    read_checkpoint(path)
    assert not marker.exists()
    with pytest.raises(KeyError, match='No'):
        MMSegInferencer(None, weights=str(path), device='cpu')
    assert marker.is_dir()


# What is wrong with a file, said so that it can be put right.

def _truncated(path):
    torch.save(dict(a=torch.zeros(1000)), path)
    path.write_bytes(path.read_bytes()[:2500])


def _truncated_legacy(path):
    WRITERS['legacy'](dict(a=torch.zeros(1000)), path)
    path.write_bytes(path.read_bytes()[:2500])


def _folder(path):
    path.mkdir()
    (path / 'iter_4.pth').touch()


BROKEN = {
    'truncated': (_truncated, 'is damaged: reading its 2,500 bytes'),
    'truncated legacy': (_truncated_legacy, 'is damaged'),
    'empty': (Path.touch, 'is empty'),
    'folder': (_folder, 'is a folder.*such as iter_4.pth'),
    'text': (lambda p: p.write_text('version https://git-lfs.github.com'),
             'is no checkpoint: it starts with'),
    'list': (lambda p: torch.save([1], p), 'holds a list'),
    'whole model': (lambda p: torch.save(nn.Linear(1, 1), p),
                    'asks for torch.nn.modules.linear.Linear'),
    'bits': (lambda p: p.write_bytes(b'\x80\x02garbage'), 'bits'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_file_is_explained(tmp_path, kind):
    make, message = BROKEN[kind]
    path = tmp_path / f'{kind}.pth'
    make(path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.pth is no file'):
        read_checkpoint(tmp_path / 'nowhere.pth')


def test_safetensors(tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file(dict(a=torch.arange(4.)), path)
    assert read_checkpoint(path)['a'].tolist() == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match='damaged'):
        read_checkpoint(path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a server of ``tmp_path``; downloads go to tmp_path/hub."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Quiet(http.server.SimpleHTTPRequestHandler):

        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as it:
        threading.Thread(target=it.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{it.server_port}'
        it.shutdown()


def test_url(server, tmp_path, attack, marker):
    torch.save(dict(a=torch.ones(2)), tmp_path / 'fine.pth')
    attack()
    for load in (read_checkpoint, CheckpointLoader.load_checkpoint):
        assert load(f'{server}/fine.pth')['a'].tolist() == [1, 1]
        with pytest.raises(UnsafeCheckpointError, match='posix.mkdir'):
            load(f'{server}/attack.pth')
        with pytest.raises(CheckpointError, match='was not downloaded'):
            load(f'{server}/nowhere.pth')
    assert not marker.exists()


def test_every_prefix_of_the_host_is_ours():
    """A prefix that a new host adds would load with the host's pickle."""
    loaders = {f.__module__ for f in CheckpointLoader._schemes.values()}
    assert loaders == {'relay_seg.checkpoints.host_loaders'}
