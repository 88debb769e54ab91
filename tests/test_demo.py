"""The demonstration: how it ends, and what it says on the way."""
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A training with a worker, which both go on for long.
TRAINING = """
import pathlib, subprocess, time
worker = subprocess.Popen(['sleep', '99'])
pathlib.Path('pid').write_text(str(worker.pid))
print('Iter(train) [ 10/300]  eta: 0:01:00  loss: 0.5', flush=True)
time.sleep(99)
"""


def runs(pid):
    """Whether a process runs; one that nobody waited for does not."""
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text().rsplit(')', 1)[1].split()[
        0] not in 'ZX'


@pytest.mark.skipif(not Path('/proc').exists(), reason='looks into /proc')
def test_a_signal_ends_what_it_started(tmp_path):
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools/demo.py', tmp_path / 'tools')
    (tmp_path / 'tools/train.py').write_text(TRAINING)
    process = subprocess.Popen(
        [sys.executable, 'tools/demo.py', '--out', 'out'], cwd=tmp_path,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert process.stdout
    said = next(line for line in process.stdout if 'train 10/300' in line)
    assert 'eta 0:01:00' in said
    worker = int((tmp_path / 'pid').read_text())
    assert runs(worker)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert 'the same command goes on' in said and 'Traceback' not in said
    end = time.monotonic() + 5
    while runs(worker):
        assert time.monotonic() < end, 'the worker goes on'
        time.sleep(0.05)


def test_fresh_removes_its_own_folders_only(tmp_path, monkeypatch):
    for name in ('mine', 'rt_segformer_b0_dubai'):
        (tmp_path / name).mkdir()
    demo = runpy.run_path(str(ROOT / 'tools/demo.py'))
    monkeypatch.setattr(sys, 'argv', [
        'demo.py', '--fresh', '--out', str(tmp_path)])
    monkeypatch.setitem(demo['main'].__globals__, 'ending_children', sys.exit)
    with pytest.raises(SystemExit):
        demo['main']()
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_after_a_minute_it_says_what_is_to_come(
        tmp_path, monkeypatch, capsys):
    class Children:

        def run(self, command, log, show):
            for clock[0] in 30, 61, 90:
                show(f'Iter(train) [{clock[0]}/300]')
            return 0

    clock = [0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    steps = runpy.run_path(str(ROOT / 'tools/demo.py'))['Steps'](
        Children(), ['first', 'second', 'last'])
    steps.run('first', [], tmp_path / 'log')
    lines = capsys.readouterr().out.splitlines()
    told = [i for i, line in enumerate(lines) if 'second, last' in line]
    assert len(told) == 1
    assert '61/300' in lines[told[0] - 1]
