"""The commands of the README, as a user runs them."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmseg
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
RELAY = 'configs/relay/rt_swin2_n_dubai.py'
PLAIN = 'configs/plain/swin2_n_dubai.py'


@pytest.fixture
def options(scenes):
    """A run of seconds: four iterations on generated scenes."""

    def build(iters=4, **extra):
        settings = {
            'train_dataloader.dataset.data_root': scenes,
            'val_dataloader.dataset.data_root': scenes,
            'test_dataloader.dataset.data_root': scenes,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'test_dataloader.num_workers': 0,
            'test_dataloader.persistent_workers': False,
            'model.decode_head.channels': 8,
            'train_cfg.max_iters': iters,
            'train_cfg.val_interval': iters,
            'param_scheduler.1.end': 8,
            'param_scheduler.0.end': 2,
            'param_scheduler.1.begin': 2,
            'default_hooks.logger.interval': 1,
            'default_hooks.checkpoint.interval': 2,
        } | extra
        return ['--cfg-options', *(f'{k}={v}' for k, v in settings.items())]

    return build


def environment():
    # Threads would make the order of sums, and so the last digits, vary.
    return os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


def run(*command, check=True):
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, text=True,
        capture_output=True, env=environment())
    if check and done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-4000:])
    return done


def log_lines(work_dir):
    """Iteration, learning rate and loss of each step, from the last log."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for file in files
             for line in file.read_text().splitlines()]
    return [(x['step'], x['lr'], x['loss']) for x in lines if 'loss' in x]


@pytest.mark.parametrize('config', [RELAY, PLAIN])
def test_train_then_test_writes_results_and_pictures(
        config, options, scenes, tmp_path):
    work = tmp_path / 'work'
    run('tools/train.py', config, '--work-dir', work, *options())
    run('tools/test.py', config, work / 'iter_4.pth', '--work-dir', work,
        '--out', tmp_path / 'ids', '--show-dir', tmp_path / 'pictures',
        *options())
    results = json.loads((work / 'results.json').read_text())
    assert set(results['metrics']) == {'mIoU', 'mF1', 'aAcc'}
    assert results['parameters'] > 0
    names = sorted(p.name for p in Path(scenes, 'img_dir/test').iterdir())
    assert sorted(p.name for p in (tmp_path / 'ids').iterdir()) == names
    for name in names:
        with rasterio.open(Path(scenes, 'img_dir/test', name)) as scene:
            shape = scene.shape
        with rasterio.open(tmp_path / 'ids' / name) as ids:
            assert ids.shape == shape
            assert ids.read(1).max() < 5
            assert ids.colormap(1)[1] == (132, 41, 246, 255)
    picture = next((tmp_path / 'pictures').iterdir())
    assert np.asarray(Image.open(picture)).std() > 0


def test_resume_continues_as_if_never_stopped(options, tmp_path):
    """Counter, learning rate and losses; the sampler goes on from its seed,
    so the losses after resuming are close, not equal."""
    whole, halves = tmp_path / 'whole', tmp_path / 'halves'
    run('tools/train.py', RELAY, '--work-dir', whole, *options(8))
    process = subprocess.Popen(
        [sys.executable, 'tools/train.py', RELAY, '--work-dir', str(halves),
         *options(8)], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment())
    wait_for(halves / 'iter_4.pth', process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run('tools/train.py', RELAY, '--work-dir', halves, '--resume',
        *options(8))
    expected = log_lines(whole)
    resumed = dict((step, (lr, loss)) for step, lr, loss in log_lines(halves))
    assert sorted(resumed) == [step for step, _, _ in expected]
    for step, lr, loss in expected:
        assert resumed[step][0] == pytest.approx(lr)
        assert resumed[step][1] == pytest.approx(loss, rel=0.5)
    last = torch.load(halves / 'iter_8.pth', weights_only=False)
    assert last['meta']['iter'] == 8


def wait_for(path, process, seconds=120):
    for _ in range(seconds * 20):
        if path.exists():
            return
        assert process.poll() is None, 'training ended too early'
        time.sleep(0.05)
    raise AssertionError(f'{path} was not written')


def test_two_processes_agree(options, tmp_path):
    """gloo, without a GPU: same weights and metric as each other."""
    # What each rank holds at the end, before anything is saved.
    hook = tmp_path / 'dump_weights.py'
    hook.write_text(
        'import torch\n'
        'from mmengine.dist import get_rank\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n\n\n'
        '@HOOKS.register_module()\n'
        'class DumpWeights(Hook):\n\n'
        '    def after_val_epoch(self, runner, metrics=None):\n'
        '        torch.save(dict(metrics=metrics,\n'
        '                        weights=runner.model.state_dict()),\n'
        f'                   f"{tmp_path}/rank{{get_rank()}}.pth")\n')
    env = environment() | dict(
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PYTHONPATH=str(tmp_path))
    done = subprocess.run(
        ['tools/dist_train.sh', RELAY, '2', '--work-dir', tmp_path / 'work',
         *options(2), 'custom_imports.imports=[relay_seg,dump_weights]',
         "custom_hooks=[dict(type='BroadcastBuffersHook'),"
         "dict(type='DumpWeights')]"],
        cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f'rank{i}.pth', weights_only=True)
                     for i in (0, 1))
    assert first['metrics'] == second['metrics']
    assert first['weights'].keys() == second['weights'].keys()
    for key, value in first['weights'].items():
        assert torch.equal(value, second['weights'][key]), key


def test_dist_test_equals_test(options, tmp_path):
    work = tmp_path / 'work'
    run('tools/train.py', RELAY, '--work-dir', work, *options(2))
    run('tools/test.py', RELAY, work / 'iter_2.pth', '--work-dir',
        tmp_path / 'one', *options())
    env = environment() | dict(
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    subprocess.run(
        ['tools/dist_test.sh', RELAY, work / 'iter_2.pth', '2', '--work-dir',
         tmp_path / 'two', *options()],
        cwd=ROOT, env=env, check=True, capture_output=True)
    one, two = (json.loads((tmp_path / n / 'results.json').read_text())
                for n in ('one', 'two'))
    assert one['metrics'] == two['metrics']


def test_browse_views_draws(options, tmp_path):
    out = tmp_path / 'samples.png'
    run('tools/browse_views.py', RELAY, '--out', out, '-n', 2, *options())
    picture = np.asarray(Image.open(out))
    red = (picture == (255, 0, 0)).all(-1)
    assert red.sum() > 100  # the window's outline in the global view


def test_missing_checkpoint_is_said():
    done = run('tools/test.py', RELAY, 'nowhere.pth', check=False)
    assert done.returncode == 2
    assert 'nowhere.pth is no file' in done.stderr


def test_window_that_is_no_multiple_of_the_patch_is_said(options, tmp_path):
    done = run('tools/train.py', RELAY, '--work-dir', tmp_path, *options(
        **{'train_dataloader.dataset.pipeline.0.size': '[126,126]'}),
        check=False)
    assert done.returncode
    assert 'not a multiple of patch_size=4' in done.stderr
    assert '124 x 124' in done.stderr


def test_host_tools_run_our_configs(options, tmp_path):
    """custom_imports is all the host needs to know of us."""
    tools = Path(mmseg.__file__).parent / '.mim/tools'
    run(tools / 'train.py', RELAY, '--work-dir', tmp_path / 'work',
        *options(2))
    done = run(tools / 'test.py', RELAY, tmp_path / 'work/iter_2.pth',
               '--work-dir', tmp_path / 'test', *options())
    assert 'mIoU' in done.stdout + done.stderr
