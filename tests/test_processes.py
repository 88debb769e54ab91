"""Processes of gloo that fail: how all end, and how they start again."""
import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from test_tools import PLAIN, RELAY, ROOT, environment, options

from relay_seg.processes import warn_of_shared_store, was_restarted

FAULTS = """
import os
import signal

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Fault(Hook):
    '''Process 1 fails at an iteration of an attempt, in one way or other.'''

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
        iteration, kind = self.at.get(attempt, (None, None))
        if get_rank() == 1 and runner.iter + 1 == iteration:
            if kind == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == 'bad':  # what an image of infinite values gives
                (first, *local), *wider = data_batch['inputs']
                first = torch.full(first.shape, float('inf'))
                data_batch['inputs'] = [[first, *local], *wider]
                return
            raise KeyError('raised on purpose')


@HOOKS.register_module()
class Dump(Hook):
    '''What each process validates.'''

    priority = 'VERY_LOW'

    def before_val_epoch(self, runner):
        torch.save(runner.model.state_dict(),
                   f'{runner.work_dir}/rank{get_rank()}.pth')
"""


def launch(folder, scenes, at, *command, config=PLAIN, changes={}, **env):
    """Two processes, of which one fails; what they said, and how long."""
    base = ROOT / config
    (folder / 'fault.py').write_text(FAULTS)
    config = folder / 'config.py'
    config.write_text(
        f"_base_ = '{base}'\n"
        "custom_imports = dict(imports=['relay_seg.registered', 'fault'])\n"
        "default_hooks = dict(\n"
        f"    fault=dict(type='Fault', at={at}), dump=dict(type='Dump'))\n")
    env = environment() | dict(PYTHONPATH=f'{folder}:{ROOT}') | env
    start = time.monotonic()
    done = subprocess.run(
        [*command, str(config), *(['2'] if 'dist' in command[-1] else []),
         '--work-dir', str(folder / 'work'), *options(scenes, 8, **changes)],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout, time.monotonic() - start


def logged(work):
    """(iteration, time stamp of the run) of each training step."""
    lines = []
    for file in sorted(work.glob('*/vis_data/scalars.json')):
        lines += [(json.loads(line)['step'], file.parts[-3])
                  for line in file.read_text().splitlines()
                  if 'loss' in line]
    return lines


@pytest.mark.slow
def test_restarts_go_on_from_the_last_checkpoint(module_scenes, tmp_path):
    """An exception, then a kill, then to the end: checkpoints are written
    at 2, 4, 6 and 8."""
    at = {'0': (4, 'raise'), '1': (6, 'kill')}
    code, said, _ = launch(
        tmp_path, module_scenes, at, 'tools/dist_train.sh', MAX_RESTARTS='2')
    assert code == 0, said[-3000:]
    assert said.count("KeyError: 'raised on purpose'") == 1
    assert said.count('in before_train_iter') == 1  # of its traceback
    assert 'Process 1 failed:' in said
    resumed = re.findall(r'resumed epoch: \d+, iter: (\d+)', said)
    assert resumed == ['2', '4']
    steps = [step for step, _ in logged(tmp_path / 'work')]
    assert steps == [1, 2, 3, 3, 4, 5, 5, 6, 7, 8]
    # The CSV holds one history, without what was done in vain.
    rows = (tmp_path / 'work/scalars.csv').read_text().splitlines()
    losses = [row.split(',')[0] for row in rows if ',loss,' in row]
    assert losses == [str(i) for i in range(1, 9)]


@pytest.mark.slow
def test_a_killed_process_ends_all(module_scenes, tmp_path):
    code, said, seconds = launch(
        tmp_path, module_scenes, {'0': (4, 'kill')}, 'tools/dist_train.sh')
    assert code != 0
    assert seconds < 60
    assert 'Signal 9 (SIGKILL)' in said  # says torchrun of process 1
    assert max(step for step, _ in logged(tmp_path / 'work')) == 3
    # Nobody but process 0 can say where it lost its partner.
    assert len(re.findall(r'Process \d failed:', said)) <= 1


@pytest.mark.slow
def test_processes_skip_a_bad_step_together(module_scenes, tmp_path):
    """With all that could keep them apart: accumulation, activation
    checkpointing, weights averaged over time."""
    code, said, _ = launch(
        tmp_path, module_scenes, {'0': (3, 'bad')}, 'tools/dist_train.sh',
        config=RELAY, changes={
            'train_cfg.max_iters': 6,
            'train_cfg.val_interval': 6,
            'optim_wrapper.accumulative_counts': 2,
            'model.backbone.with_cp': True,
            'default_hooks.ema.type': 'EMAHook',
            'default_hooks.ema.momentum': 0.5,
            'default_hooks.ema.update_buffers': True,
        })
    assert code == 0, said[-3000:]
    assert re.findall(r'Iteration (\d) makes no step', said) == ['3', '4']
    assert re.search(r'process 1: .*loss=nan.*\n +/.*img_dir/train', said)
    work = tmp_path / 'work'
    first, second = (torch.load(work / f'rank{i}.pth', weights_only=True)
                     for i in (0, 1))
    saved = torch.load(work / 'iter_6.pth', weights_only=False)
    assert {int(x['step']) for x in saved['optimizer']['state'].values()
            } == {2}
    for key, value in first.items():
        assert value.float().isfinite().all(), key
        assert torch.equal(value, second[key]), key
        name = key.removeprefix('module.')
        assert torch.equal(value, saved['state_dict'][name]), key


SRUN = """#!/usr/bin/env bash
echo "srun $*" >&2
while [[ $1 == -* ]]; do
  case $1 in --ntasks=*) tasks=${1#*=} ;; -p) shift ;; esac
  shift
done
export SLURM_JOB_ID=4711 SLURM_STEP_ID=0 SLURM_NTASKS=$tasks
export SLURM_NODELIST='far[1-2],local' SLURM_STEP_NODELIST='local[1-2]'
pids=()
for ((i = 0; i < tasks; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = 'show hostnames local[1-2]' ] && printf 'localhost\\nother\\n'
"""


@pytest.fixture
def slurm(tmp_path):
    """PATH with a srun that runs all tasks on this machine."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f'{folder}:{environment()["PATH"]}'


@pytest.mark.slow
def test_slurm_starts_processes_that_find_each_other(
        module_scenes, tmp_path, slurm):
    env = environment() | dict(
        PATH=slurm, GPUS='2', SRUN_ARGS='--time=5 --qos=low',
        PYTHONPATH=str(ROOT))
    done = subprocess.run(
        ['tools/slurm_train.sh', 'gpu', 'name', PLAIN, '--work-dir',
         str(tmp_path / 'work'), *options(module_scenes, 2)],
        cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        'srun -p gpu --job-name=name --ntasks=2 --gres=gpu:2 '
        '--ntasks-per-node=2 --cpus-per-task=5 --kill-on-bad-exit=1 '
        '--time=5 --qos=low tools/slurm_task.sh tools/train.py '
        f'{PLAIN} --launcher slurm --work-dir') in done.stderr
    assert 'GPU number: 2' in done.stdout
    assert (tmp_path / 'work/iter_2.pth').exists()


@pytest.mark.parametrize('extra, address, port', (
    ({}, 'localhost', 10000 + 4711 * 16 % 22000),
    ({'SLURM_STEP_ID': '3'}, 'localhost', 10000 + (4711 * 16 + 3) % 22000),
    ({'MASTER_ADDR': 'node7', 'MASTER_PORT': '1234'}, 'node7', 1234)))
def test_slurm_tasks_agree_on_a_port(extra, address, port, tmp_path, slurm):
    script = tmp_path / 'show.py'
    script.write_text("import os\nprint(os.environ['MASTER_ADDR'], "
                      "os.environ['MASTER_PORT'])")
    env = environment() | dict(
        PATH=slurm, SLURM_JOB_ID='4711', SLURM_JOB_NODELIST='far[1-2]',
        SLURM_STEP_NODELIST='local[1-2]') | extra
    said = subprocess.run(
        ['tools/slurm_task.sh', str(script)], cwd=ROOT, env=env, text=True,
        capture_output=True, check=True).stdout
    assert said.split() == [address, str(port)]


PYTHON = """#!/usr/bin/env bash
echo "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE $*"
"""


@pytest.mark.parametrize('script, arguments', (
    ('train', ['config.py', '8', '--resume']),
    ('test', ['config.py', 'last.pth', '8', '--out', 'ids'])))
def test_command_on_several_machines(script, arguments, tmp_path):
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    command = [f'tools/dist_{script}.sh', *arguments]
    rest = ' '.join([f'tools/{script}.py', *arguments]).replace(
        ' 8', ' --launcher pytorch')

    def said(**env):
        env = os.environ | dict(PATH=path) | env
        return subprocess.run(command, cwd=ROOT, env=env, text=True,
                              capture_output=True)

    assert said().stdout == (
        '1 -m torch.distributed.run --standalone --nproc-per-node=8 '
        f'--max-restarts=0 {rest}\n')
    assert said(NNODES='2', MASTER_ADDR='one', MAX_RESTARTS='3').stdout == (
        '1 -m torch.distributed.run --nnodes=2 --rdzv-backend=c10d '
        '--rdzv-endpoint=one:29500 --rdzv-id=relay_seg --nproc-per-node=8 '
        f'--max-restarts=3 {rest}\n')
    failed = said(NNODES='2')
    assert failed.returncode and 'set it to the first machine' in failed.stderr


@pytest.mark.parametrize('name', ('TORCHELASTIC', 'SLURM'))
def test_a_restart_is_seen(name, monkeypatch):
    for each in ('TORCHELASTIC', 'SLURM'):
        monkeypatch.delenv(f'{each}_RESTART_COUNT', raising=False)
    assert not was_restarted()
    monkeypatch.setenv(f'{name}_RESTART_COUNT', '0')
    assert not was_restarted()
    monkeypatch.setenv(f'{name}_RESTART_COUNT', '2')
    assert was_restarted()


def test_torchrun_that_would_hang_is_warned_of(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'True')
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '1')
    with pytest.warns(UserWarning, match='TORCH_DISABLE_SHARE_RDZV'):
        warn_of_shared_store()


LEFT = """
import torch
from relay_seg.engine import leave_processes, start_processes
start_processes('pytorch')
torch.distributed.barrier()

class Runner:  # refers to itself, as the host's does
    pass

def threads():
    from pathlib import Path
    names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]
    return sum(name.startswith('pt_gloo') for name in names)

runner = Runner()
runner.runner, runner.group = runner, torch.distributed.group.WORLD
assert threads()
del runner
leave_processes()
assert not threads()
"""


def test_no_thread_of_a_group_is_left():
    """One that runs when the interpreter ends may abort the process."""
    env = environment() | dict(
        MASTER_ADDR='localhost', MASTER_PORT='0', RANK='0', WORLD_SIZE='1',
        PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, '-c', LEFT], env=env, check=True)
