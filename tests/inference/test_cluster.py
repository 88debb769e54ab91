"""What tools/cluster says to schedulers is what tools/predict.py does."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / 'tools/cluster'
CONFIG = 'configs/relay/rt_swin2_n_dubai.py'
SMALL = ['--cfg-options', 'model.decode_head.channels=8']
PREDICT = 'a.py', 'b.pth', 'scene.tif', '-o', 'out.tif'


def run(command, folder=None, **env):
    """Standard output of a command; ``python`` is a stub in a folder."""
    path = [str(folder)] if folder else []
    path += [str(Path(sys.executable).parent), os.environ['PATH']]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, text=True, capture_output=True,
        env=os.environ | dict(
            PATH=os.pathsep.join(path), OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='', PYTHONPATH=str(ROOT)) | env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def stub(tmp_path):
    """A folder with a ``python`` that says what it is asked."""
    path = tmp_path / 'bin/python'
    path.parent.mkdir()
    path.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path.parent


def array(number, count, first=1):
    return dict(SLURM_ARRAY_TASK_ID=str(first + number - 1),
                SLURM_ARRAY_TASK_MIN=str(first),
                SLURM_ARRAY_TASK_COUNT=str(count))


@pytest.mark.parametrize('first', [0, 1])
def test_tasks_of_an_array_are_parts(stub, first):
    for number in (1, 3):
        said = run([CLUSTER / 'slurm_array.sh', *PREDICT], stub,
                   **array(number, 3, first)).splitlines()
        assert said == ['tools/predict.py', *PREDICT, '--part',
                        f'{number}/3']


def container(name):
    document = yaml.safe_load((CLUSTER / name).read_text())
    return document, document['spec']


def test_pods_of_an_indexed_job_are_parts(stub):
    _, spec = container('kubernetes_job.yaml')
    pod = spec['template']['spec']
    assert pod['securityContext']['runAsNonRoot']
    worker, = pod['containers']
    env = {item['name']: item['value'] for item in worker['env']}
    assert int(env['PARTS']) == spec['completions']
    said = run([*worker['command'], *worker['args']], stub, **env,
               JOB_COMPLETION_INDEX='4').splitlines()
    assert said[:3] == ['-m', 'relay_seg', 'predict']
    assert said[-2:] == ['--part', '5/64']
    assert (ROOT / said[3]).is_file()


def test_the_entry_point_of_a_ray_job_is_a_command(stub):
    _, spec = container('ray_job.yaml')
    said = run(['bash', '-c', spec['entrypoint']], stub).splitlines()
    assert said[:3] == ['-m', 'relay_seg', 'predict']
    assert said[-2:] == ['--ray', 'auto']
    assert (ROOT / said[3]).is_file()
    workers, = spec['rayClusterSpec']['workerGroupSpecs']
    limits = workers['template']['spec']['containers'][0]['resources']
    assert limits['limits']['nvidia.com/gpu'] == 1


@pytest.mark.slow
def test_an_array_of_which_one_is_killed(noise, scene_file, tmp_path):
    """The commands themselves: the same bytes as those of one process."""
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.model.decode_head.channels = 8
    init_default_scope('mmseg')
    torch.manual_seed(0)
    weights = tmp_path / 'model.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}),
               weights)
    scene = scene_file(tmp_path / 'scene.tif', noise(500, 400))

    def command(name):
        return [CONFIG, weights, scene, '-o', tmp_path / name, '--block',
                '256', '256', *SMALL]

    def task(number):
        return run([CLUSTER / 'slurm_array.sh', *command('b.tif')],
                   **array(number, 2))

    run(['python', 'tools/predict.py', *command('a.tif')])
    task(2)
    assert not (tmp_path / 'b.tif').exists()
    with pytest.raises(AssertionError):
        run(['timeout', '-s', 'KILL', '2', CLUSTER / 'slurm_array.sh',
             *command('b.tif')], **array(1, 2))
    task(1)
    assert (tmp_path / 'a.tif').read_bytes() == (
        tmp_path / 'b.tif').read_bytes()
    with rasterio.open(tmp_path / 'b.tif') as raster:
        assert raster.shape == (500, 400)
