"""What other systems than Linux lack is not needed."""
import errno
import os
import subprocess
import sys
import textwrap

import pytest
from test_tools import RELAY, ROOT, environment

from relay_seg.checkpoints import write_checkpoint
from relay_seg.config import load_config
from relay_seg.evaluation.results import peak_memory
from relay_seg.inference import load_model
from relay_seg.inference import model as model_module
from relay_seg.rasters import files

#: A process that takes Windows for its system once the host is there.
WINDOWS = """
    import pkgutil, sys, types
    import mmpretrain.models, mmseg.datasets, mmseg.models, rasterio, rich
    import matplotlib.pyplot, pyogrio, scipy.ndimage, shapely, torch
    import concurrent.futures.process, mmengine.runner, subprocess
    import torch.utils.tensorboard, torch._dynamo
    sys.path.insert(0, {root!r})
    locks = []
    sys.modules.update(fcntl=None, resource=None, msvcrt=types.SimpleNamespace(
        LK_NBLCK=2, locking=lambda *args: locks.append(args)))
    sys.platform = 'win32'
    import relay_seg
    for module in pkgutil.walk_packages(relay_seg.__path__, 'relay_seg.'):
        if module.name.split('.')[1] not in ('export', 'viewing'):
            __import__(module.name)
    from relay_seg.rasters.files import locked, write_text
    from relay_seg.evaluation.results import peak_memory
    with locked({folder!r} + '/lock') as descriptor:
        assert locks == [(descriptor, 2, 1)]
    assert peak_memory()['process_bytes'] is None
    write_text({folder!r} + '/text', 'whole')
"""


def test_all_is_imported_where_there_is_no_fcntl(tmp_path):
    code = textwrap.dedent(WINDOWS).format(
        root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, '-c', code], text=True,
                          capture_output=True, env=environment())
    assert not done.returncode, done.stderr[-2000:]
    assert (tmp_path / 'text').read_text() == 'whole'


@pytest.mark.parametrize('inherited', [False, True])
def test_a_lock_is_held_by_one_process(tmp_path, inherited):
    # The module by itself: to import the package takes seconds.
    code = (f'import runpy; files = runpy.run_path({files.__file__!r})\n'
            f'with files["locked"]({str(tmp_path / "lock")!r}, {inherited}): '
            'pass')

    def other():
        return subprocess.run([sys.executable, '-c', code],
                              text=True, capture_output=True)

    with files.locked(tmp_path / 'lock', inherited):
        assert f'{tmp_path} is in use' in other().stderr
    assert not other().returncode


@pytest.mark.skipif(sys.platform == 'win32', reason='open files stay')
def test_a_lock_of_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """Who held it removed it between opening and locking."""
    lock, path = files.fcntl.lockf, tmp_path / 'gone/lock'

    def late(file, how):
        monkeypatch.undo()
        path.unlink()
        path.parent.rmdir()
        lock(file, how)

    monkeypatch.setattr(files.fcntl, 'lockf', late)
    with files.locked(path) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())


def test_a_disk_without_locks(tmp_path, monkeypatch):
    """Nobody else works there, but that cannot be known."""
    def none(*_):
        raise OSError(errno.ENOTSUP, 'not supported')

    monkeypatch.setattr(files.fcntl, 'lockf', none)
    with (pytest.raises(OSError, match='lock cannot be locked.*another disk'),
          files.locked(tmp_path / 'lock')):
        pass


def test_here_the_peak_is_known():
    assert peak_memory()['process_bytes'] > 2**20


def test_the_device_is_what_the_machine_has(tmp_path, monkeypatch):
    """Such as MPS of a Mac; a device without memory stands for it."""
    cfg = load_config(ROOT / RELAY, {'model.decode_head.channels': 8})
    monkeypatch.setattr(model_module, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(model_module, 'load_weights', lambda *a, **k: {})
    file = tmp_path / 'weights.pth'
    write_checkpoint({}, file)
    assert next(load_model(cfg, file).parameters()).device.type == 'cpu'
    monkeypatch.setattr(model_module, 'get_device', lambda: 'meta')
    assert next(load_model(cfg, file).parameters()).device.type == 'meta'
