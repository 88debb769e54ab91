"""A file has its name only when it is whole, and a kill costs no other."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from tiny_runs import StopAfter, Stopped, tiny_runner

from relay_seg.checkpoints import (
    hook,
    read_checkpoint,
    register_loaders,
    write_checkpoint,
)
from relay_seg.rasters.files import replacing

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def safe_loaders():
    register_loaders()


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.is_dir()
                  and p.suffix != '.py')


def test_content_comes_back_plain(tmp_path):
    path = tmp_path / 'deep/er/model.pth'
    content = dict(state_dict=dict(w=torch.arange(3.)), meta=dict(
        mean=np.float32(0.5), palette=np.eye(2), path=Path('a/b')))
    write_checkpoint(content, path)
    for found in (read_checkpoint(path), torch.load(path, weights_only=True)):
        assert found['state_dict']['w'].tolist() == [0, 1, 2]
        assert found['meta'] == dict(
            mean=0.5, palette=[[1, 0], [0, 1]], path='a/b')
    assert names(path.parent) == ['model.pth']


def test_what_no_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r'meta.loss: CrossEntropyLoss'):
        write_checkpoint(
            dict(meta=dict(loss=torch.nn.CrossEntropyLoss())),
            tmp_path / 'model.pth')
    assert not names(tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'model.pth'
    path.write_text('old')
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text('ne')
        raise RuntimeError
    assert path.read_text() == 'old' and names(tmp_path) == ['model.pth']


#: Writes a small and then a larger checkpoint under one name, in a process
#: that the system kills when half of the second is written.
KILLED = """
import resource, signal, sys, torch
import relay_seg.registered
from mmengine.runner import save_checkpoint
path = sys.argv[1]
save_checkpoint(dict(a=torch.ones(10)), path)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
save_checkpoint(dict(a=torch.zeros(1_000_000)), path)
"""


def test_kill_in_the_middle_of_writing(tmp_path):
    path = tmp_path / 'iter_4.pth'
    done = subprocess.run(
        [sys.executable, '-c', KILLED, str(path)], text=True,
        capture_output=True, cwd=HERE.parents[1])
    assert done.returncode == -signal.SIGXFSZ, done.stderr[-2000:]
    assert read_checkpoint(path)['a'].tolist() == [1] * 10
    left, = [p for p in tmp_path.iterdir() if p != path]
    assert 0 < left.stat().st_size <= 2_000_000  # half a file, hidden
    tiny_runner(tmp_path, epochs=1).train()
    assert not left.exists()


class Killed(Exception):
    pass


def die_at_save(monkeypatch, number):
    """The runner's ``number``-th write of a checkpoint never ends."""
    saves = []
    backend = type(get_file_backend('.'))

    def put(self, obj, filepath):
        if str(filepath).endswith('.unfinished'):
            saves.append(filepath)
        if len(saves) == number:
            raise Killed
        Path(filepath).write_bytes(obj)

    monkeypatch.setattr(backend.__mro__[1], 'put', put)
    return saves


@pytest.mark.parametrize('number', range(1, 7))
def test_a_whole_checkpoint_at_any_time(tmp_path, monkeypatch, number):
    """One file kept, a new best each time: die at each write in turn."""
    saves = die_at_save(monkeypatch, number)
    with pytest.raises(Killed):
        tiny_runner(tmp_path, epochs=3, scores=[1., 2., 3.], max_keep_ckpts=1,
                    save_best='mIoU', rule='greater').train()
    assert len(saves) == number
    whole = [p for p in tmp_path.glob('*.pth')]
    for path in whole:
        read_checkpoint(path)
    if number > 1:
        pointer = (tmp_path / 'last_checkpoint').read_text()
        assert 'optimizer' in read_checkpoint(pointer)
    if number > 2:
        assert any(p.name.startswith('best') for p in whole)


def test_outdated_files_are_removed(tmp_path):
    tiny_runner(tmp_path, scores=[1., 2., 3., 0.], max_keep_ckpts=2,
                save_best='mIoU', rule='greater').train()
    assert names(tmp_path) == [
        'best_mIoU_epoch_3.pth', 'epoch_3.pth', 'epoch_4.pth',
        'last_checkpoint']


def test_best_model_of_a_stopped_run_is_replaced(tmp_path):
    settings = dict(save_best='mIoU', rule='greater')
    with pytest.raises(Stopped):
        tiny_runner(tmp_path, hooks=[StopAfter(2)], scores=[1., 2.],
                    **settings).train()
    assert 'best_mIoU_epoch_1.pth' in names(tmp_path)
    tiny_runner(tmp_path, scores=[3., 4.], resume=True, **settings).train()
    assert [n for n in names(tmp_path) if 'best' in n] == [
        'best_mIoU_epoch_4.pth']


@pytest.mark.parametrize('thing', ['file', 'folder'])
def test_a_checkpoint_cannot_have_files_deleted(tmp_path, thing):
    """The host removes the 'previous best' that a resumed file names."""
    precious = tmp_path / 'precious'
    precious.mkdir() if thing == 'folder' else precious.touch()
    work = tmp_path / 'work'
    settings = dict(save_best='mIoU', rule='greater', max_keep_ckpts=1)
    tiny_runner(work, epochs=1, scores=[1.], **settings).train()
    content = read_checkpoint(work / 'epoch_1.pth')
    content['message_hub']['runtime_info'].update(
        best_ckpt=str(precious), keep_ckpt_ids=['x/../../../precious', 1])
    write_checkpoint(content, work / 'epoch_1.pth')
    tiny_runner(work, epochs=2, scores=[2.], resume=True, **settings).train()
    assert (work / 'best_mIoU_epoch_2.pth').exists()
    assert precious.exists()


def test_warns_of_what_resume_would_refuse(tmp_path, monkeypatch):
    runner = tiny_runner(tmp_path, epochs=2)
    said = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    runner.message_hub.update_info('mine', os.getcwd)
    runner.train()
    said = [x for x in said if '--trust-checkpoint' in x]
    assert len(said) == 1  # once, not with each checkpoint
    assert 'message_hub.runtime_info.mine: builtin_function' in said[0]


def test_configs_get_our_hook_by_the_name_of_the_host(tmp_path):
    runner = tiny_runner(tmp_path)
    assert any(type(x) is hook.WholeCheckpointHook for x in runner.hooks)
