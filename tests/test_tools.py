"""The commands of the README, as a user runs them."""
import json
import os
import runpy
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
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from relay_seg.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[1]
RELAY = 'configs/relay/rt_swin2_n_dubai.py'
PLAIN = 'configs/plain/swin2_n_dubai.py'


def options(scenes, iters=4, **extra):
    """A run of seconds: few iterations on generated scenes."""
    settings = {
        'train_dataloader.batch_size': 2,
        'model.decode_head.channels': 8,
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.begin': 2,
        'param_scheduler.1.end': 8,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 2,
    }
    for split in ('train', 'val', 'test'):
        settings[f'{split}_dataloader.dataset.data_root'] = scenes
        settings[f'{split}_dataloader.num_workers'] = 0
        settings[f'{split}_dataloader.persistent_workers'] = False
    settings |= extra
    return ['--cfg-options', *(f'{k}={v}' for k, v in settings.items())]


def call(tool, *arguments):
    """Run a tool in this process: starting one takes seconds."""
    SegLocalVisualizer._instance_dict.clear()  # it logs to its first folder
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, 'argv', [str(tool), *map(str, arguments)])
        runpy.run_path(str(tool), run_name='__main__')


def environment():
    """Of a process of its own; one thread, so that sums have one order."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    return os.environ | dict(
        OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PATH=path)


def launch(*command, **env):
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, text=True, capture_output=True,
        env=environment() | env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, module_scenes):
    """Work dir of the relay model after eight iterations in one go."""
    work = tmp_path_factory.mktemp('trained')
    call('tools/train.py', RELAY, '--work-dir', work,
         *options(module_scenes, 8))
    return work


def log_lines(work_dir):
    """Iteration, learning rate and loss of each step, from all logs."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for file in files
             for line in file.read_text().splitlines()]
    return [(x['step'], x['lr'], x['loss']) for x in lines if 'loss' in x]


def check_test_output(work, ids, pictures, scenes):
    results = json.loads((work / 'results.json').read_text())
    assert {'mIoU', 'mF1', 'aAcc'} <= set(results['metrics'])
    assert results['parameters'] > 0
    names = sorted(p.name for p in Path(scenes, 'img_dir/test').iterdir())
    assert sorted(p.name for p in ids.iterdir()) == names
    for name in names:
        with rasterio.open(Path(scenes, 'img_dir/test', name)) as scene:
            shape = scene.shape
        with rasterio.open(ids / name) as raster:
            assert raster.shape == shape
            assert raster.read(1).max() < 5
            assert raster.colormap(1)[1] == (132, 41, 246, 255)
    picture = next(pictures.iterdir())
    assert np.asarray(Image.open(picture)).std() > 0


def test_relay_model_is_tested_and_drawn(trained, module_scenes, tmp_path):
    call('tools/test.py', RELAY, trained / 'iter_8.pth', '--work-dir',
         tmp_path, '--out', tmp_path / 'ids', '--show-dir',
         tmp_path / 'pictures', *options(module_scenes))
    check_test_output(tmp_path, tmp_path / 'ids', tmp_path / 'pictures',
                      module_scenes)


def test_a_config_that_resumes_and_joins_is_tested(trained, module_scenes,
                                                  tmp_path):
    """Scenes of two data sets, of the named file and no other one."""
    config = tmp_path / 'joined.py'
    config.write_text(f"""
_base_ = '{ROOT / RELAY}'
resume = True
load_from = 'another.pth'
part = _base_.test_dataloader.dataset
two = [dict(part, data_root='{module_scenes}', data_prefix=dict(
    img_path=f'img_dir/{{split}}', seg_map_path=f'ann_dir/{{split}}'))
    for split in ('test', 'val')]
for split, bands in zip(two, ([1, 2, 3], [3, 2, 1])):
    split['pipeline'] = [
        dict(type='ReadScene', num_bands=3, bands=bands), dict(
            type='PackViews')]
test_dataloader = dict(dataset=dict(
    _delete_=True, type='ConcatDataset', datasets=two))
""")
    key, *given = options(module_scenes)
    given = [x for x in given if not x.startswith('test_dataloader.dataset')]
    call('tools/test.py', config, trained / 'iter_8.pth', '--work-dir',
         tmp_path, '--out', tmp_path / 'ids', '--show-dir',
         tmp_path / 'pictures', key, *given)
    assert len([*(tmp_path / 'ids').rglob('*.tif')]) == 4
    assert len([*(tmp_path / 'pictures').rglob('*.png')]) == 4


def test_plain_twin_runs_through_the_same_tools(module_scenes, tmp_path):
    call('tools/train.py', PLAIN, '--work-dir', tmp_path,
         *options(module_scenes, 2))
    call('tools/test.py', PLAIN, tmp_path / 'iter_2.pth', '--work-dir',
         tmp_path, '--out', tmp_path / 'ids', '--show-dir',
         tmp_path / 'pictures', *options(module_scenes))
    check_test_output(tmp_path, tmp_path / 'ids', tmp_path / 'pictures',
                      module_scenes)


def test_resume_continues_as_if_never_stopped(trained, module_scenes,
                                              tmp_path):
    """Kill a run after its checkpoint at 4, go on: counter, learning rate
    and a loss that continues. (The sampler starts anew from its seed, so the
    samples, and with them the losses, are not the same.)"""
    process = subprocess.Popen(
        [sys.executable, 'tools/train.py', RELAY, '--work-dir', str(tmp_path),
         *options(module_scenes, 8)], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment())
    wait_for(tmp_path / 'iter_4.pth', process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    call('tools/train.py', RELAY, '--work-dir', tmp_path, '--resume',
         *options(module_scenes, 8))
    expected = log_lines(trained)
    assert [step for step, _, _ in expected] == list(range(1, 9))
    resumed = {step: (lr, loss) for step, lr, loss in log_lines(tmp_path)}
    assert sorted(resumed) == list(range(1, 9))
    for step, lr, loss in expected:
        assert resumed[step][0] == pytest.approx(lr)
        assert resumed[step][1] == pytest.approx(loss, rel=0.5)
    whole, last = (
        read_checkpoint(folder / 'iter_8.pth')
        for folder in (trained, tmp_path))
    assert last['meta']['iter'] == whole['meta']['iter'] == 8
    steps = [{int(s['step']) for s in x['optimizer']['state'].values()}
             for x in (whole, last)]
    assert steps == [{8}, {8}]  # the optimiser's state went on, too


def wait_for(path, process, seconds=120):
    for _ in range(seconds * 20):
        # last_checkpoint is written after the checkpoint is whole
        pointer = path.parent / 'last_checkpoint'
        if pointer.exists() and path.name in pointer.read_text():
            return
        assert process.poll() is None, 'training ended too early'
        time.sleep(0.05)
    raise AssertionError(f'{path} was not written')


DUMP = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DumpWeights(Hook):

    def __init__(self, folder):
        self.folder = folder

    def after_val_epoch(self, runner, metrics=None):
        torch.save(
            dict(metrics=metrics, weights=runner.model.state_dict()),
            f'{self.folder}/rank{get_rank()}.pth')
"""


def test_two_processes_agree(module_scenes, tmp_path):
    """gloo, without a GPU: same weights and metric as each other."""
    (tmp_path / 'dump_weights.py').write_text(DUMP)
    work = tmp_path / 'work'
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{ROOT / RELAY}'\n"
        "custom_imports = dict(imports=['relay_seg.registered', "
        "'dump_weights'])\n"
        "custom_hooks = [dict(type='BroadcastBuffersHook'),\n"
        f"    dict(type='DumpWeights', folder='{tmp_path}')]\n")
    launch('tools/dist_train.sh', config, 2, '--work-dir', work,
           *options(module_scenes, 2), PYTHONPATH=f'{tmp_path}:{ROOT}')
    first, second = (torch.load(tmp_path / f'rank{i}.pth', weights_only=True)
                     for i in (0, 1))
    assert first['metrics'] == second['metrics']
    assert first['weights'].keys() == second['weights'].keys()
    for key, value in first['weights'].items():
        assert torch.equal(value, second['weights'][key]), key


@pytest.mark.slow
def test_two_processes_test_as_one(trained, module_scenes, tmp_path):
    for name in ('one', 'two'):
        arguments = (trained / 'iter_8.pth', '--work-dir', tmp_path / name)
        if name == 'one':
            call('tools/test.py', RELAY, *arguments, *options(module_scenes))
        else:
            launch('tools/dist_test.sh', RELAY, arguments[0], 2,
                   *arguments[1:], *options(module_scenes))
    one, two = (json.loads((tmp_path / name / 'results.json').read_text())
                for name in ('one', 'two'))
    assert one['metrics'] == pytest.approx(two['metrics'], abs=1e-3)


def test_browse_views_draws(module_scenes, tmp_path):
    out = tmp_path / 'samples.png'
    call('tools/browse_views.py', RELAY, '--out', out, '-n', 2,
         *options(module_scenes))
    picture = np.asarray(Image.open(out))
    red = (picture == (255, 0, 0)).all(-1)
    assert red.sum() > 100  # the window's outline in the global view


def test_browse_views_does_not_write_over_scenes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call('tools/browse_views.py', RELAY, '--out', tmp_path / 'scene.tif')
    assert 'does not end in .png' in capsys.readouterr().err


def test_browse_views_draws_what_training_draws(
        make_scene, tmp_path, monkeypatch):
    label = np.zeros((1024, 1024), np.uint8)
    label[500:516, 700:716] = 4
    make_scene(tmp_path, 'train', 'a', np.stack([label] * 3), label)
    (tmp_path / 'manifest.json').write_text(json.dumps(dict(scenes=[dict(
        image=dict(path='img_dir/train/a.tif'),
        class_pixels=np.bincount(label.ravel()).tolist())])))
    seen = []

    def draw(views, labels, factors, palette):
        seen.append(bool((labels[0] == 4).any()))
        return Image.new('RGB', (8, 8))

    monkeypatch.setattr('relay_seg.drawing.draw_sample', draw)
    shares = []
    for balanced in (False, True):
        seen.clear()
        call('tools/browse_views.py', RELAY, '--out', tmp_path / 'a.png',
             '-n', 16, *options(tmp_path, **{
                 'train_dataloader.dataset.class_balanced': balanced,
                 'train_dataloader.sampler.samples_per_epoch': 5}))
        shares.append(np.mean(seen))
    assert len(seen) == 16
    assert shares[0] < 0.3 and 0.35 < shares[1] < 0.9


def test_missing_checkpoint_is_said(capsys):
    with pytest.raises(SystemExit):
        call('tools/test.py', RELAY, 'nowhere.pth')
    assert 'nowhere.pth is no file' in capsys.readouterr().err


def test_window_that_is_no_multiple_of_the_patch_is_said(
        module_scenes, tmp_path):
    size = {'train_dataloader.dataset.pipeline.0.window': '[126,126]'}
    with pytest.raises(ValueError, match='patch_size=4.*124 x 124'):
        call('tools/train.py', RELAY, '--work-dir', tmp_path,
             *options(module_scenes, **size))


def test_host_tools_run_our_configs(module_scenes, tmp_path):
    """custom_imports is all the host needs to know of us."""
    tools = Path(mmseg.__file__).parent / '.mim/tools'
    launch(sys.executable, tools / 'train.py', RELAY, '--work-dir',
           tmp_path, *options(module_scenes, 2))
    call(tools / 'test.py', RELAY, tmp_path / 'iter_2.pth', '--work-dir',
         tmp_path / 'test', *options(module_scenes))
    metrics = next((tmp_path / 'test').glob('*/*.json')).read_text()
    assert 'mIoU' in metrics
