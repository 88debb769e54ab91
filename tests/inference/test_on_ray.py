"""Blocks on a Ray cluster whose processes die and whose machines come."""
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import rasterio

from relay_seg.inference import Settings, find_scenes, predict_raster
from relay_seg.inference.on_ray import predict_on_ray

ray = pytest.importorskip('ray')
from ray.cluster_utils import Cluster  # noqa: E402

BLOCK = 30, 30


def nodes(facts):
    """Machines on which there was a process."""
    return {path.name.split()[1] for path in facts.iterdir()}


def build(facts):
    """The cheap model in a process that leaves its number.

    It is slow, until there are two machines.
    """
    from mmengine.registry import init_default_scope

    import relay_seg.registered  # noqa: F401
    init_default_scope('mmseg')
    from cheap_model import CheapEncoderDecoder
    model = CheapEncoderDecoder(test_cfg=dict(
        mode='slide', crop_size=(16, 16), stride=(8, 8), blend='gaussian',
        batch_size=3))
    if facts:
        import ray
        node = ray.get_runtime_context().get_node_id()
        (facts / f'{os.getpid()} {node}').touch()
        own = model.window_logits

        def slowly(views, size=None):
            time.sleep(0.05 if len(nodes(facts)) > 1 else 1)
            logits = own(views, size)
            model.calls = 0  # belongs to what the model is
            return logits

        model.window_logits = slowly
    return model


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """A machine with one CPU."""
    before = os.environ.copy()
    os.environ['PYTHONPATH'] = os.pathsep.join(
        [str(Path(__file__).parents[2]), *sys.path])
    os.environ['RAY_AUTH_MODE'] = 'disabled'
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args=dict(
        num_cpus=1, object_store_memory=80_000_000, include_dashboard=False))
    yield cluster
    cluster.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def scenes(noise, scene_file, tmp_path):
    """Two scenes of several blocks."""
    folder = tmp_path / 'in'
    folder.mkdir()
    for name, shape in (('a', (141, 93)), ('b', (40, 80))):
        scene_file(folder / f'{name}.tif', noise(*shape))
    return find_scenes([str(folder)], tmp_path / 'out')


@pytest.fixture
def whole(scenes, tmp_path):
    """What one process writes of them."""
    for scene in scenes:
        predict_raster(build(None), scene.paths,
                       tmp_path / 'one' / scene.out.name, block=BLOCK)
    return files(tmp_path / 'one')


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_processes_that_die_and_a_machine_that_comes_late(
        cluster, scenes, whole, tmp_path):
    facts = tmp_path / 'facts'
    facts.mkdir()
    done, rng = threading.Event(), random.Random(0)

    def disturb():
        late, killed = None, set()
        while not done.wait(0.3):
            here = {int(path.name.split()[0]) for path in facts.iterdir()}
            if here and late is None:
                late = subprocess.Popen(
                    [Path(sys.executable).with_name('ray'), 'start',
                     '--block', '--address', cluster.address, '--num-cpus=1',
                     '--object-store-memory=80000000'],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if here - killed and len(killed) < len(nodes(facts)):
                unlucky = rng.choice(sorted(here - killed))
                killed.add(unlucky)
                os.kill(unlucky, signal.SIGKILL)
        if late:
            late.terminate()
            late.wait()

    other = threading.Thread(target=disturb)
    other.start()
    try:
        code = predict_on_ray(
            partial(build, facts), build(None), scenes,
            Settings(block=BLOCK, threads=1), address=cluster.address)
    finally:
        done.set()
        other.join()
    assert code == 0
    assert files(scenes[0].out.parent) == whole
    assert len(list(facts.iterdir())) >= 3  # two of them died
    assert len(nodes(facts)) == 2
    # What is there is kept.
    assert predict_on_ray(
        partial(build, None), build(None), scenes, Settings(block=BLOCK),
        address=cluster.address) == 0


@pytest.mark.slow
def test_errors_name_scene_and_block(cluster, noise, scene_file, tmp_path,
                                     capsys):
    (tmp_path / 'in').mkdir()
    bad = scene_file(tmp_path / 'in/bad.tif', noise(160, 128),
                     compress='deflate', interleave='pixel')
    scene_file(tmp_path / 'in/good.tif', noise(40, 60))
    with rasterio.open(bad) as raster:
        at = int(raster.get_tag_item('BLOCK_OFFSET_1_2', 'TIFF', bidx=1))
    with bad.open('r+b') as file:
        file.seek(at)
        file.write(b'lost' * 20)
    scenes = find_scenes([str(tmp_path / 'in'), 'missing.tif'],
                         tmp_path / 'out')
    assert predict_on_ray(
        partial(build, None), build(None), scenes,
        Settings(block=(40, 40), threads=1), address=cluster.address) == 1
    told = capsys.readouterr().err
    assert 'bad.tif' in told and 'block at row' in told
    assert 'cannot be read' in told and 'missing.tif does not exist' in told
    assert not (tmp_path / 'out/bad.tif').exists()
    with rasterio.open(tmp_path / 'out/good.tif') as raster:
        assert raster.shape == (40, 60)


def test_without_ray(scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r'relay-seg\[ray\]'):
        predict_on_ray(partial(build, None), build(None), scenes, Settings())
