"""The command that fills the table: its plan, how it goes on, how it ends.

Trainings and tests are stand-ins that write what the real ones do; one real
run of generated scenes is behind the marker ``slow``.
"""
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from relay_seg.checkpoints import write_checkpoint
from relay_seg.evaluation import children as children_module
from relay_seg.evaluation import planning
from relay_seg.evaluation.children import Interrupted, ending_children
from relay_seg.evaluation.planning import (
    BY_NAME,
    RunSettings,
    as_text,
    config_of,
    data_problem,
    environment,
    plan,
    training_command,
)
from relay_seg.evaluation.published import MODELS
from relay_seg.evaluation.reproducing import (
    Failed,
    best_checkpoint,
    reproduce,
    short,
)
from relay_seg.rasters.files import locked

ROOT = Path(__file__).parents[2]

TRAIN = """
import argparse, os, pathlib, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--work-dir', type=pathlib.Path)
parser.add_argument('--seed')
parser.add_argument('--resume', action='store_true')
parser.add_argument('--cfg-options', nargs='+')
args = parser.parse_args()
here = pathlib.Path(__file__).parent
with (here / 'calls.txt').open('a') as file:
    file.write(f'train {args.config.split("/")[-1]} {args.seed} '
               f'{args.resume}\\n')
print('x - INFO - Epoch(train)  [1][ 50/100]  lr: 1e-3  eta: 1 day, 2:00:00  '
      'loss: 0.5', flush=True)
(args.work_dir / 'epoch_1.pth').touch()
if (here / 'hang').exists():
    child = subprocess.Popen([sys.executable, '-c',
                              'import time; time.sleep(600)'])
    (here / 'pids.txt').write_text(f'{os.getpid()} {child.pid}')
    time.sleep(600)
if (here / 'fail').exists() and (here / 'fail').read_text() in args.config:
    sys.exit('no memory left')
(args.work_dir / 'best_aAcc_epoch_1.pth').write_text(
    f'{args.config} {args.seed}')
"""
TEST = """
import argparse, hashlib, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('checkpoint', type=pathlib.Path)
parser.add_argument('--work-dir', type=pathlib.Path)
parser.add_argument('--cfg-options', nargs='+')
args = parser.parse_args()
here = pathlib.Path(__file__).parent
with (here / 'calls.txt').open('a') as file:
    file.write(f'test {args.checkpoint}\\n')
relay = 'rt_' in args.config
size = [256, 256]
seed = int(args.work_dir.name[4:])
(args.work_dir / 'results.json').write_text(json.dumps(dict(
    schema='relay_seg/results', schema_version=1,
    metrics=dict(mIoU_all=10. + seed, mIoU=70., mF1=80., aAcc=90.),
    model=dict(name='SwinV2-S' if 'swin2' in args.config else 'ViT-S',
               relay=relay),
    config=dict(file=args.config, text='', changed={}),
    checkpoint=dict(file=str(args.checkpoint), sha256=hashlib.sha256(
        args.checkpoint.read_bytes()).hexdigest()),
    protocol=dict(
        dataset='GleasonDataset', split='test', num_scenes=3, num_classes=4,
        classes=['a', 'b', 'c', 'd'], ignore_index=255, mode='slide',
        window=size, input_size=size, stride=size, blend='center',
        context_factors=[4] if relay else [],
        conversion=dict(zero='benign', votes='released')))))
"""


@pytest.fixture
def root(tmp_path):
    """A root with stand-ins for the tools, and a converted Gleason."""
    for name, text in (('train', TRAIN), ('test', TEST)):
        path = tmp_path / 'tools' / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for model in MODELS.values():
        path = tmp_path / f'configs/released/{model}_gleason.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'model = dict(type={model!r})\n')
    write_manifest(tmp_path / 'data/gleason')
    return tmp_path


def write_manifest(folder, dataset='gleason', test=3, **options):
    folder.mkdir(parents=True, exist_ok=True)
    options = dict(zero='benign', trim=False, votes='released') | options
    (folder / 'manifest.json').write_text(json.dumps(dict(
        format=1, dataset=dataset, options=options,
        splits=dict(train=4, val=2, test=test), failures={}, scenes=[])))


def settings_of(root, **changes):
    return RunSettings(**dict(root=root, out=root / 'out',
                           data_root=root / 'data') | changes)


def run(root, models=('rt_swin2_s', 'swin2_s'), seeds=1, names=('gleason', ),
        dry_run=False, **changes):
    """Exit code, what was said, and the calls of this time."""
    said, calls = [], root / 'tools/calls.txt'
    calls.unlink(missing_ok=True)
    code = reproduce(settings_of(root, **changes), names, models, seeds,
                     said.append, dry_run)
    done = calls.read_text().splitlines() if calls.exists() else []
    return code, '\n'.join(said), [line.split()[0] for line in done]


# The plan and its commands.


def test_every_cell_has_a_config_and_every_seed_a_folder():
    settings = RunSettings(ROOT, Path('out'))
    runs = plan(settings, list(BY_NAME), list(MODELS.values()), 3)
    assert len(runs) == 16 * 3
    assert len({r.folder for r in runs}) == len(runs)
    assert [r.seed for r in runs[::16]] == [42, 43, 44]
    for each in runs[:16]:
        cfg = Config.fromfile(config_of(each, settings))
        assert cfg.default_hooks.checkpoint.save_best == 'aAcc'
        assert cfg.randomness.seed == 42


def test_commands_are_those_of_the_tools():
    settings = RunSettings(Path('.'), Path('out'), cfg_options=('a.b=1', ))
    each, = plan(settings, ['urur'], ['vit_s'], 1)
    config, work = 'configs/released/vit_s_urur.py', 'out/urur/vit_s/seed42'
    assert training_command(each, settings) == [
        sys.executable, 'tools/train.py', config, '--work-dir', work,
        '--seed', '42', '--resume', '--cfg-options', 'a.b=1']
    assert planning.testing_command(each, settings, Path('x.pth')) == [
        sys.executable, 'tools/test.py', config, 'x.pth', '--work-dir', work,
        '--cfg-options', 'a.b=1']


def test_several_gpus_go_through_the_shell_scripts_with_this_python(tmp_path):
    settings = RunSettings(ROOT, tmp_path, gpus=3)
    each, = plan(settings, ['urur'], ['vit_s'], 1)
    command = training_command(each, settings)
    assert command[:2] == ['bash', str(ROOT / 'tools/dist_train.sh')]
    assert command[3] == '3'
    tested = planning.testing_command(each, settings, Path('x.pth'))
    assert tested[3:5] == ['x.pth', '3']
    shown = subprocess.run(
        ['bash', '-c', 'command -v python'], env=environment(settings),
        text=True, capture_output=True, check=True).stdout.strip()
    assert Path(shown).parent == Path(sys.executable).parent
    assert as_text(command, settings).startswith(
        f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH" bash ')


def test_data_may_be_elsewhere(tmp_path):
    write_manifest(tmp_path / 'cores')
    for given in (tmp_path / 'cores', tmp_path):
        settings = RunSettings(ROOT, tmp_path, data_root=given)
        each, = plan(settings, ['gleason'], ['vit_s'], 1)
        folder = tmp_path / ('cores' if given != tmp_path else 'gleason')
        options = training_command(each, settings)
        assert [x for x in options if 'data_root' in x] == [
            f'{split}_dataloader.dataset.data_root={folder}'
            for split in ('train', 'val', 'test')]


def test_dry_run_says_what_a_shell_can_run_and_does_nothing(root):
    root = root.rename(root.with_name('a folder'))
    before = sorted(root.rglob('*'))
    code, said, calls = run(root, dry_run=True)
    assert (code, calls, sorted(root.rglob('*'))) == (0, [], before)
    # The stand-ins need the folders that reproduce() makes.
    for model in ('rt_swin2_s', 'swin2_s'):
        (root / f'out/gleason/{model}/seed42').mkdir(parents=True)
    done = subprocess.run(['bash', '-e'], input=said, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(list(root.glob('out/*/*/*/results.json'))) == 2
    code, said, calls = run(root, dry_run=True, data_root=root / 'nowhere')
    assert code == 0
    assert '# Gleason: ' in said and 'does not exist' in said


def test_the_tool_knows_the_names_and_asks_for_no_heavy_import():
    tool = runpy.run_path(str(ROOT / 'tools/reproduce.py'))
    assert list(tool['DATASETS']) == list(BY_NAME)
    assert list(tool['MODELS']) == list(MODELS.values())
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', ROOT / 'tools/reproduce.py',
         '--help'], text=True, capture_output=True, check=True)
    assert '--dry-run' in done.stdout
    assert not re.search(r'torch|mmengine|relay_seg$', done.stderr, re.M)


# What is done already is not done again.


def test_trains_tests_and_sets_the_rows_beside_the_published(root):
    code, said, calls = run(root, seeds=2)
    assert code == 0
    assert calls == ['train', 'test'] * 4
    row = ('| Gleason | SwinV2-S + relay | 55.5 | released | 52.5 ± 0.7 '
           '(2 runs) | -3.0 | 70.0 ± 0.0 (2 runs) |')
    assert row in said and 'URUR' not in said
    table = (root / 'out/table.md').read_text()
    assert row in table and '| URUR | ViT-S | 36.3 |  |' in table
    assert '[4/4 gleason/swin2_s/seed43] 0:00:0' in said
    assert 'train epoch 1, 50/100  eta 1 day, 2:00:00  loss 0.5' in said
    log = (root / 'out/gleason/swin2_s/seed42/train.log').read_text()
    assert 'Epoch(train)' in log
    code, said, calls = run(root, seeds=2)
    assert (code, calls) == (0, []) and row in said
    # Rows of earlier calls stay in the table.
    run(root, models=['vit_s'])
    assert row in (root / 'out/table.md').read_text()


def test_a_finished_training_is_tested_again_if_its_results_are_not_its(root):
    run(root, models=['vit_s'])
    folder = root / 'out/gleason/vit_s/seed42'
    for damage in ('no JSON', None):
        path = folder / 'results.json'
        if damage:
            path.write_text(damage)
        else:
            results = json.loads(path.read_text())
            results['checkpoint']['sha256'] = 'of another'
            path.write_text(json.dumps(results))
        code, _, calls = run(root, models=['vit_s'])
        assert (code, calls) == (0, ['test'])


def test_without_its_mark_a_training_goes_on(root):
    run(root, models=['vit_s'])
    (root / 'out/gleason/vit_s/seed42/trained.json').unlink()
    code, _, calls = run(root, models=['vit_s'])
    assert (code, calls) == (0, ['train'])


def test_a_lost_checkpoint_is_said(root):
    run(root, models=['vit_s'])
    (root / 'out/gleason/vit_s/seed42/best_aAcc_epoch_1.pth').unlink()
    code, said, calls = run(root, models=['vit_s'])
    assert (code, calls) == (1, [])
    assert 'best_aAcc_epoch_1.pth is missing' in said
    assert 'delete' in said and 'trained.json' in said


def test_of_two_best_checkpoints_the_training_knows_its_own(tmp_path):
    for epoch in (3, 7):
        (tmp_path / f'best_aAcc_epoch_{epoch}.pth').touch()
    (tmp_path / 'last_checkpoint').write_text('/moved/epoch_9.pth')
    write_checkpoint(dict(message_hub=dict(runtime_info=dict(
        best_ckpt='/moved/best_aAcc_epoch_3.pth'))), tmp_path / 'epoch_9.pth')
    assert best_checkpoint(tmp_path).name == 'best_aAcc_epoch_3.pth'
    with pytest.raises(Failed, match='holds no best_aAcc_epoch'):
        best_checkpoint(tmp_path / 'empty')


def test_a_run_that_fails_does_not_stop_the_others(root):
    (root / 'tools/fail').write_text('rt_swin2_s')
    code, said, calls = run(root)
    assert code == 1
    assert calls == ['train', 'train', 'test']
    assert 'no memory left' in said
    assert re.search('FAILED gleason/rt_swin2_s/seed42: exit code 1, see '
                     r'\S+/train.log$', said, re.M)
    assert '| Gleason | SwinV2-S | 48.1 | released | 52.0 |' in said
    (root / 'tools/fail').unlink()
    code, _, calls = run(root)
    assert (code, calls) == (0, ['train', 'test'])


# What is refused.


@pytest.mark.parametrize('change, message', [
    (dict(gpus=2), 'gpus=1, now 2'),
    (dict(cfg_options=('a=1', )), r"cfg_options=\[\], now \['a=1'\]"),
])
def test_a_started_run_does_not_go_on_otherwise(root, change, message):
    run(root, models=['vit_s'])
    for models in (['vit_s'], ['rt_vit_s', 'vit_s']):
        with pytest.raises(ValueError, match=f'{message}.*another --out'):
            run(root, models=models, **change)
    assert not (root / 'out/gleason/rt_vit_s').exists()
    with pytest.raises(ValueError, match=message):
        run(root, models=['vit_s'], seeds=2, **change)
    assert run(root, models=['swin2_s'], gpus=1)[0] == 0


def test_a_config_or_data_that_changed_are_noticed(root):
    run(root, models=['vit_s'])
    write_manifest(root / 'data/gleason', test=4)
    with pytest.raises(ValueError, match='data_sha256='):
        run(root, models=['vit_s'])
    write_manifest(root / 'data/gleason')
    path = root / 'configs/released/vit_s_gleason.py'
    path.write_text('# another word\n' + path.read_text())
    assert run(root, models=['vit_s'])[0] == 0
    path.write_text('model = dict(type=5)')
    with pytest.raises(ValueError, match='config_sha256='):
        run(root, models=['vit_s'])


def test_further_seeds_must_be_trained_as_the_first(root):
    """They become one mean."""
    run(root, models=['vit_s'])
    (root / 'out/gleason/vit_s/seed42').rename(
        root / 'out/gleason/vit_s/seed43')
    with pytest.raises(ValueError, match='seed43 was started with'):
        run(root, models=['vit_s'], cfg_options=('a=1', ))


def test_checkpoints_of_somebody_else_are_left_alone(root):
    folder = root / 'out/gleason/vit_s/seed42'
    folder.mkdir(parents=True)
    (folder / 'epoch_3.pth').touch()
    with pytest.raises(ValueError, match='somebody else.*another --out'):
        run(root, models=['vit_s'])


def test_a_folder_in_use_is_left_alone(root):
    with locked(root / 'out/gleason/swin2_s/seed42/.lock', inherited=True):
        code, said, calls = run(root)
    assert code == 1
    assert calls == ['train', 'test']  # of the other model
    assert 'swin2_s/seed42 is in use by another process' in said


@pytest.mark.parametrize('name, manifest, remedy', [
    ('gleason', None, 'does not exist.*data_prep/gleason.py RAW_FOLDER .* '
     '--votes released'),
    ('gleason', dict(votes='classes'), 'votes=classes.*--votes released'),
    ('gleason', dict(zero='ignore'), 'zero=ignore.*--votes released'),
    ('urur', None, 'does not exist.*data_prep/urur.py RAW_FOLDER'),
    ('urur', dict(dataset='urur', test=12),
     '12 scenes of test.*of 571.*data_prep/urur.py'),
    ('urur', dict(dataset='gleason'), 'is of gleason; give a --data-root'),
])
def test_data_that_are_not_there_or_not_right_are_said(
        tmp_path, name, manifest, remedy):
    settings = RunSettings(ROOT, tmp_path, data_root=tmp_path / 'data')
    if manifest is not None:
        write_manifest(tmp_path / 'data' / name, **manifest)
    assert re.search(remedy, data_problem(BY_NAME[name], settings), re.S)


def test_data_are_complete(tmp_path):
    settings = RunSettings(ROOT, tmp_path, data_root=tmp_path)
    write_manifest(tmp_path / 'urur', 'urur', test=571)
    write_manifest(tmp_path / 'cityscapes', 'cityscapes')
    listed = tmp_path / 'cityscapes/frankfurt.txt'
    listed.write_text('scene\n' * 266)
    assert data_problem(BY_NAME['urur'], settings) is None
    assert '266 scenes' in data_problem(BY_NAME['cityscapes'], settings)
    listed.write_text('scene\n' * 267)
    assert data_problem(BY_NAME['cityscapes'], settings) is None
    (tmp_path / 'urur/manifest.journal').touch()
    assert 'go on with' in data_problem(BY_NAME['urur'], settings)
    (tmp_path / 'urur/manifest.json').write_text('{')
    assert 'cannot be read' in data_problem(BY_NAME['urur'], settings)


def test_nothing_runs_if_one_data_set_is_missing(root):
    with pytest.raises(ValueError, match='URUR: .*does not exist'):
        run(root, names=['gleason', 'urur'])
    assert not (root / 'out').exists()


# How it ends.


def alive(pid):
    """Whether a process runs; one that nobody waited for does not."""
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1]
    except FileNotFoundError:
        return False
    return state.split()[0] not in 'ZX'


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.05)


CALL = """
import pathlib, sys
from relay_seg.evaluation.planning import RunSettings
from relay_seg.evaluation.reproducing import reproduce
root = pathlib.Path(sys.argv[1])
sys.exit(reproduce(
    RunSettings(root, root / 'out', data_root=root / 'data'), ['gleason'],
    ['rt_swin2_s', 'swin2_s'], 1, lambda text: print(text, flush=True)))
"""


def started(root):
    """A reproduction whose training hangs, and the training's processes."""
    (root / 'tools/hang').touch()
    (root / 'tools/pids.txt').unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, '-c', CALL, root], text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: (root / 'tools/pids.txt').exists()
               and (root / 'tools/pids.txt').read_text().count(' '))
    return process, [
        int(x) for x in (root / 'tools/pids.txt').read_text().split()]


@pytest.mark.parametrize('number', [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_training_ends_with_it_and_goes_on_later(root, number):
    process, pids = started(root)
    assert all(map(alive, pids))
    process.send_signal(number)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + number
    assert 'the same command goes on' in said and 'Traceback' not in said
    wait_until(lambda: not any(map(alive, pids)), 5)
    folder = root / 'out/gleason/rt_swin2_s/seed42'
    assert not (folder / 'trained.json').exists()
    (root / 'tools/hang').unlink()
    code, _, calls = run(root)
    assert (code, calls) == (0, ['train', 'test'] * 2)


def test_killed_outright_the_folder_stays_locked_while_it_trains(root):
    process, pids = started(root)
    try:
        process.kill()
        process.communicate(timeout=300)
        (root / 'tools/hang').unlink()
        code, said, calls = run(root, models=['rt_swin2_s'])
        assert (code, calls) == (1, [])
        assert 'in use by another process' in said
    finally:
        os.killpg(pids[0], signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), 5)
    assert run(root, models=['rt_swin2_s'])[0] == 0


def test_who_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(children_module, 'GRACE', 0.5)
    script = ('import signal, time; signal.signal(signal.SIGTERM, '
              'signal.SIG_IGN); print("ready", flush=True); time.sleep(20)')
    start = time.monotonic()
    with ending_children() as children, pytest.raises(Interrupted):
        children.run(
            [sys.executable, '-c', script], tmp_path / 'log',
            show=lambda line: os.kill(os.getpid(), signal.SIGTERM))
    assert time.monotonic() - start < 15
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with ending_children() as children:
        children.ask(signal.SIGTERM, None)
        with pytest.raises(Interrupted):
            children.run(['true'], tmp_path / 'log')


def test_an_end_that_came_before_the_signal_counts(tmp_path):
    """A training that is over must not be taken for one that is not."""
    def ask(line):
        children.ask(signal.SIGINT, None)

    # Its own handler of the signal lets it end well.
    script = ('import signal, sys, time; signal.signal(signal.SIGTERM, '
              'lambda *a: sys.exit(0)); print("over", flush=True); '
              'time.sleep(600)')
    with ending_children() as children:
        code = children.run([sys.executable, '-c', script],
                            tmp_path / 'log', show=ask)
        assert code == 0
        with pytest.raises(Interrupted):
            children.check()


@pytest.mark.parametrize('line, expected', [
    ('... - INFO - Epoch(val) [3][10/40]    eta: 0:00:07  time: 0.1',
     'val epoch 3, 10/40  eta 0:00:07'),
    ('... - INFO - Epoch(test) [ 4/40]    aAcc: 81.5  mIoU: 40.0  '
     'mIoU_all: 30.0', 'test 4/40  aAcc 81.5  mIoU_all 30.0  mIoU 40.0'),
    ('... - INFO - Iter(train) [ 50/300]  lr: 1e-3  loss: 0.25',
     'train 50/300  loss 0.25'),
    ('... - INFO - Saving checkpoint at 3 epochs', None)])
def test_progress_is_told_in_short(line, expected):
    assert short(line) == expected


# Generated scenes, converted, trained on and tested for real.


@pytest.mark.slow
def test_smoke_goes_from_a_raw_folder_to_a_row(tmp_path):
    """Far from the checkout, as from an installation."""
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/reproduce.py', 'gleason', '--models',
         'rt_swin2_s', '--smoke', '--out', 'out'], cwd=tmp_path, text=True,
        capture_output=True, env=os.environ | dict(
            PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES=''))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    table = (tmp_path / 'out/smoke/table.md').read_text()
    assert table in done.stdout
    assert table.startswith('SMOKE RUN: ')
    assert 'window 64x64 (published: 256x256)' in table
    assert '| SwinV2-S | 4 |' in table and '55.5' not in table
    assert sorted(p.name for p in tmp_path.glob('*/*')) == ['smoke']
    folder = tmp_path / 'out/smoke/gleason/rt_swin2_s/seed42'
    results = json.loads((folder / 'results.json').read_text())
    assert results['protocol']['conversion']['votes'] == 'released'
    assert results['protocol']['window'] == [64, 64]
    assert results['model']['decode_head'] == 'LinearHead'
    assert results['config']['changed']['train_cfg.max_epochs'] == 1
