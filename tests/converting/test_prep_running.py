"""Killed, interrupted, resumed, checked, in parallel."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
import raw_folders
import urur
from raw_folders import noise, save

from relay_seg.converting import urur as scenes_of_urur
from relay_seg.converting.manifest import JOURNAL, read_manifest

KILLS = 20


@pytest.fixture
def small(places):
    raw, out = places
    return raw, out, raw_folders.make_urur(raw, (40, 40))


def convert(raw, out, *arguments):
    return urur.main([str(raw), str(out), '--jobs', '1', *arguments])


def whole_files(out):
    """Digest of each file under its final name, from the manifest."""
    manifest = json.loads((out / 'manifest.json').read_text())
    return {record[key]['path']: record[key]['sha256']
            for record in manifest['scenes'] for key in ('image', 'label')}


def test_killed_at_random_points_it_completes(small, tmp_path):
    raw, out, truth = small
    for seed in range(8):
        save(raw / f'train/image/more{seed}.png', noise(40, 40, seed))
        save(raw / f'train/label/more{seed}.png',
             np.zeros((40, 40, 3), np.uint8))
    undisturbed = tmp_path / 'undisturbed'
    start = time.monotonic()
    assert convert(raw, undisturbed) == 0
    lasts = time.monotonic() - start
    expected = whole_files(undisturbed)
    contents = {path: (undisturbed / path).read_bytes() for path in expected}

    rng = random.Random(0)
    killed = 0
    while killed < KILLS:
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(urur.main([str(raw), str(out), '--jobs',
                                str(1 + killed % 2)]))
        # Early in the whole conversion most often: what is done is kept.
        time.sleep(rng.uniform(0, lasts / 5))
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)  # its workers see for themselves
            os.waitpid(child, 0)
            killed += 1
        else:
            for path in list(expected)[::2]:
                (out / path).unlink(missing_ok=True)
        for path in out.glob('*_dir/*/*'):
            name = path.relative_to(out).as_posix()
            assert path.read_bytes() == contents[name], f'{name} is damaged'
    assert convert(raw, out) == 0
    assert whole_files(out) == expected
    assert convert(raw, out, '--check') == 0
    left = {path.name for path in out.iterdir()}
    assert left == {'img_dir', 'ann_dir', 'manifest.json', '.lock'}


def test_workers_end_with_their_parent(small):
    raw, out, _ = small
    for seed in range(40):
        save(raw / f'train/image/more{seed}.png', noise(40, 40, seed))
        save(raw / f'train/label/more{seed}.png',
             np.zeros((40, 40, 3), np.uint8))
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(urur.main([str(raw), str(out), '--jobs', '2']))
    journal = out / JOURNAL
    while not journal.exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for _ in range(100):
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail('workers go on after their parent was killed')


def test_finished_scenes_are_kept_after_a_failure(small):
    raw, out, truth = small
    content = (raw / 'train/image/b.tif').read_bytes()
    (raw / 'train/image/b.tif').write_bytes(content[:900])
    assert convert(raw, out) == 1
    before = {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}
    assert len(before) == 2 * (len(truth) - 1)
    (raw / 'train/image/b.tif').write_bytes(content)
    assert convert(raw, out) == 0
    after = {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}
    assert len(after) == 2 * len(truth)
    assert before.items() <= after.items()
    assert read_manifest(out).failures == {}


def test_a_changed_source_is_converted_anew(small):
    raw, out, _ = small
    assert convert(raw, out) == 0
    before = whole_files(out)
    save(raw / 'train/image/b.tif', noise(40, 40, 77))
    assert convert(raw, out) == 0
    after = whole_files(out)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {'img_dir/train/b.tif'}


def test_a_source_gone_bad_takes_its_result_along(small):
    raw, out, _ = small
    assert convert(raw, out) == 0
    (raw / 'train/image/b.tif').write_text('<html>')
    assert convert(raw, out) == 1
    assert not (out / 'img_dir/train/b.tif').exists()
    assert not (out / 'ann_dir/train/b.tif').exists()


@pytest.mark.parametrize('damage', ['bytes', 'missing', 'stranger', 'size'])
def test_check_finds_damage_and_a_rerun_mends_what_it_can(
        small, damage, capsys):
    raw, out, _ = small
    assert convert(raw, out) == 0
    path = out / 'img_dir/train/b.tif'
    if damage == 'bytes':
        content = bytearray(path.read_bytes())
        content[-100] ^= 255
        path.write_bytes(content)
    elif damage == 'missing':
        path.unlink()
    elif damage == 'size':
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path = path.with_name('stranger.tif')
        path.write_bytes(b'')
    capsys.readouterr()
    assert convert(raw, out, '--check') == 1
    text = capsys.readouterr().out
    assert f'train/{path.name}' in text and '1 problem(s)' in text
    if damage in ('missing', 'size'):
        assert convert(raw, out) == 0
        assert convert(raw, out, '--check') == 0
    if damage == 'stranger':
        assert convert(raw, out) == 2
        assert 'stranger.tif' in capsys.readouterr().out


def test_check_notices_what_is_not_converted(small, capsys):
    raw, out, _ = small
    assert convert(raw, out) == 0
    save(raw / 'val/image/new.png', noise(40, 40))
    save(raw / 'val/label/new.png', np.zeros((40, 40, 3), np.uint8))
    assert convert(raw, out, '--check') == 1
    assert 'new.png is not converted' in capsys.readouterr().out
    assert convert(raw / 'gone', out, '--check') == 0
    assert 'not checked that all' in capsys.readouterr().out
    assert convert(raw, out / 'gone', '--check') == 2


def test_the_last_line_of_a_journal_may_be_torn(small):
    raw, out, truth = small
    assert convert(raw, out) == 0
    manifest = json.loads((out / 'manifest.json').read_text())
    scenes, manifest['scenes'] = manifest['scenes'], []
    (out / 'manifest.json').write_text(json.dumps(manifest))
    lines = [json.dumps(scene) for scene in scenes]
    (out / JOURNAL).write_text('\n'.join(lines)[:-20])
    known = read_manifest(out)
    assert len(known.scenes) == len(truth) - 1
    assert convert(raw, out) == 0
    assert len(read_manifest(out).scenes) == len(truth)
    assert not (out / JOURNAL).exists()


def test_a_damaged_manifest_is_named(small, capsys):
    raw, out, _ = small
    out.mkdir()
    (out / 'manifest.json').write_text('{')
    assert convert(raw, out) == 2
    assert 'manifest.json cannot be read' in capsys.readouterr().out


def test_two_conversions_do_not_meet(small):
    raw, out, _ = small
    out.mkdir()
    child = os.fork()
    if child == 0:
        import fcntl
        with (out / '.lock').open('w') as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            (out / 'ready').touch()
            time.sleep(30)
        os._exit(0)
    while not (out / 'ready').exists():
        time.sleep(0.01)
    try:
        assert convert(raw, out) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert convert(raw, out) == 0


def test_a_process_that_dies_takes_only_its_scene(small, monkeypatch):
    raw, out, truth = small
    opening = scenes_of_urur.open_scene

    def open_scene(image, label, trim):
        if image.stem == 'b':
            os.kill(os.getpid(), signal.SIGKILL)
        return opening(image, label, trim)

    open_scene.__module__ = scenes_of_urur.__name__
    open_scene.__qualname__ = 'open_scene'
    monkeypatch.setattr(scenes_of_urur, 'open_scene', open_scene)
    assert urur.main([str(raw), str(out), '--jobs', '2']) == 1
    manifest = read_manifest(out)
    assert len(manifest.scenes) == len(truth) - 1
    (text, ) = manifest.failures.values()
    assert 'b.tif: its process was killed' in text


def test_ctrl_c_keeps_what_is_finished(small, monkeypatch):
    raw, out, truth = small
    opening = scenes_of_urur.open_scene

    def open_scene(image, label, trim):
        if image.stem == 'c':
            raise KeyboardInterrupt
        return opening(image, label, trim)

    monkeypatch.setattr(scenes_of_urur, 'open_scene', open_scene)
    assert convert(raw, out) == 130
    monkeypatch.undo()
    assert set(read_manifest(out).scenes) == {
        'img_dir/train/a.tif', 'img_dir/train/b.tif'}
    assert convert(raw, out) == 0


LARGE_SCENE = """
import re, resource, sys
from pathlib import Path
import numpy as np, rasterio
from relay_seg.converting.scenes import write_scene
from relay_seg.rasters import Grid

class Large:
    grid, count, dtype = Grid(3072, 4096), 4, 'float32'
    nodata, notes = float('nan'), []

    def rows(self, top, height):
        image = np.full((4, height, 4096), top, np.float32)
        image[:, :, ::7] = np.nan
        return image, np.full((height, 4096), top // 1024, np.uint8)

    def finish(self):
        pass

used = int(re.search(r'VmData:\\s+(\\d+)',
                     Path('/proc/self/status').read_text())[1]) * 2**10
limit = used + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
out = Path(sys.argv[1])
with rasterio.Env(GDAL_CACHEMAX=16 * 2**20):
    content = write_scene(Large(), out / 'i.tif', out / 'l.tif', out,
                          [[i, i, i] for i in range(3)])
assert content['class_pixels'] == [1024 * 4096] * 3
"""


def test_memory_does_not_depend_on_height(tmp_path):
    """201 MB of pixels, in 130 MB beyond those of the modules."""
    done = subprocess.run(
        [sys.executable, '-c', LARGE_SCENE, str(tmp_path), '130'],
        env=dict(os.environ, OPENBLAS_NUM_THREADS='1'),
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / 'i.tif') as raster:
        assert raster.shape == (3072, 4096)
