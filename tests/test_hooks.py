"""What a training says, and what it does when its numbers go bad."""
import csv
import logging
import os
import pty
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from mmengine.logging import MessageHub
from mmseg.structures import SegDataSample
from test_tools import PLAIN, RELAY, ROOT, call, options
from torch import nn

from relay_seg.hooks import (
    GatheredInfoHook,
    ProgressHook,
    StopAfterBadSteps,
)
from relay_seg.scalars import CSVVisBackend

NAN = torch.tensor(float('nan'))


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def runner():
    logger = logging.Logger('test')
    logger.addHandler(Lines())
    wrapper = SimpleNamespace(
        skipped=None, zeroed=0,
        loss_scaler=SimpleNamespace(get_scale=lambda: 512.))
    return SimpleNamespace(
        logger=logger, optim_wrapper=wrapper, iter=0, max_iters=4,
        val_dataloader=[0] * 3, test_dataloader=[0] * 3)


def batch(*names):
    return dict(data_samples=[
        SegDataSample(metainfo=dict(img_path=name)) for name in names])


# Bad steps.


def run_steps(hook, runner, reasons):
    for i, reason in enumerate(reasons):
        runner.iter, runner.optim_wrapper.skipped = i, reason
        outputs = dict(loss=NAN, loss_global=torch.tensor(0.5))
        hook.after_train_iter(runner, i, batch('a.tif', 'b.tif'), outputs)


def test_bad_steps_in_a_row_stop_with_names_and_losses(runner):
    hook = StopAfterBadSteps(limit=3)
    with pytest.raises(FloatingPointError) as error:
        run_steps(hook, runner, ['loss', 'gradient', 'loss'])
    said = str(error.value)
    for part in ('3 iterations in a row', 'Iteration 3', 'loss=nan',
                 'loss_global=0.5', 'a.tif', 'b.tif', '--resume'):
        assert part in said
    levels, lines = zip(*runner.logger.handlers[0].lines)
    assert levels == ('WARNING', ) * 3
    assert 'the gradient is not finite' in lines[1]
    assert all('a.tif' in line for line in lines)


def test_single_bad_steps_are_borne(runner):
    hook = StopAfterBadSteps(limit=2)
    run_steps(hook, runner, ['loss', None, 'gradient', None, 'loss'])
    assert len(runner.logger.handlers[0].lines) == 3


def test_looking_for_the_scale_of_fp16_is_no_bad_step(runner):
    run_steps(StopAfterBadSteps(limit=1), runner, ['scale'] * 5)
    assert {level for level, _ in runner.logger.handlers[0].lines} == {'INFO'}
    assert 'It is 512 now' in runner.logger.handlers[0].lines[0][1]


def test_zeroed_gradients_are_told_and_do_not_count(runner):
    hook = StopAfterBadSteps(limit=2)
    runner.optim_wrapper.zeroed = 7
    run_steps(hook, runner, [None] * 4)
    assert hook.in_a_row == 0
    levels, lines = zip(*runner.logger.handlers[0].lines)
    assert levels == ('WARNING', ) * 4
    assert 'Iteration 4 makes its step with 7 entries' in lines[3]
    runner.optim_wrapper.zeroed = 0
    run_steps(hook, runner, [None])
    assert len(runner.logger.handlers[0].lines) == 4


def test_training_stops_on_data_that_give_nan(module_scenes, tmp_path):
    """The whole tool: labels are fine, the loss weight is not."""
    with pytest.raises(FloatingPointError, match='img_dir/train/[ab].tif'):
        call('tools/train.py', PLAIN, '--work-dir', tmp_path, *options(
            module_scenes, 8, **{
                'model.decode_head.loss_decode.loss_weight': 'nan',
                'custom_hooks.1.limit': 3}))
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    parameters = [v for k, v in state['state_dict'].items()
                  if not k.endswith(('running_mean', 'running_var'))]
    assert all(torch.isfinite(v.float()).all() for v in parameters)
    assert not (tmp_path / 'iter_4.pth').exists()


# Losses for the log.


def log_losses(hook, hooks, epoch=50, iters=12):
    """Losses in the message hub after each iteration."""
    hub = MessageHub('losses')
    runner = SimpleNamespace(
        message_hub=hub, max_iters=iters, hooks=[hook, *hooks],
        train_dataloader=[0] * epoch)
    weight, told = torch.ones((), requires_grad=True), []
    for i in range(iters):
        runner.iter = i
        outputs = dict(loss=weight * i, acc_seg=torch.tensor(i / 3.))
        if i % 2:
            outputs['loss_global'] = torch.tensor(1. - i)
        hook.after_train_iter(runner, i % epoch, {}, outputs)
        told.append({key: buffer.data[0].tolist()
                     for key, buffer in hub.log_scalars.items()})
    return told


@pytest.mark.parametrize('hooks, epoch, known', [
    ([LoggerHook(interval=5)], 50, [5, 10, 12]),
    ([LoggerHook(interval=5)], 7, [5, 7, 12]),  # of each epoch, and its end
    ([], 50, [12]),
    ([LoggerHook(interval=50), CheckpointHook(4, by_epoch=False)], 50,
     [4, 8, 12]),
    ([CheckpointHook(4)], 50, [12])])
def test_log_and_checkpoints_have_all_losses(hooks, epoch, known):
    """The same as by the host's hook, wherever they are looked at."""
    ours = log_losses(GatheredInfoHook(), hooks, epoch)
    theirs = log_losses(RuntimeInfoHook(), hooks, epoch)
    for i in known:
        assert ours[i - 1].keys() == theirs[i - 1].keys()
        for key, values in theirs[i - 1].items():
            assert ours[i - 1][key] == pytest.approx(values, rel=1e-6)
    for i in set(range(1, 13)) - set(known):
        assert ours[i - 1] != theirs[i - 1]


def test_losses_wait_without_their_graph():
    hook = GatheredInfoHook()
    hook.after_train_iter(
        SimpleNamespace(hooks=[], iter=0, max_iters=9,
                        train_dataloader=[0] * 9),
        0, {}, dict(loss=torch.ones((), requires_grad=True) * 2))
    assert not hook.waiting[0]['loss'].requires_grad


# Progress.


def run_loops(hook, runner):
    hook.before_train(runner)
    for i in range(runner.iter, runner.max_iters):
        hook.after_train_iter(runner, i)
        runner.logger.info(f'a line of iteration {i}')
        runner.iter = i + 1
    hook.before_val_epoch(runner)
    for i in range(3):
        hook.after_val_iter(runner, i)
    hook.after_val_epoch(runner)
    hook.after_train(runner)


@contextmanager
def terminal():
    """stdout and stderr are a terminal; gives what it was sent."""
    main, other = pty.openpty()
    said = []

    def listen():
        try:
            while data := os.read(main, 4096):
                said.append(data.decode(errors='replace'))
        except OSError:
            pass  # the other end is closed

    listener = threading.Thread(target=listen)
    listener.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(other, 'w') as file:
        patch.setattr(sys, 'stdout', file)
        patch.setattr(sys, 'stderr', file)
        patch.setenv('TERM', 'xterm')
        patch.setenv('COLUMNS', '100')
        yield said
    listener.join()
    os.close(main)


def test_bars_and_log_lines_share_a_terminal(runner):
    runner.iter = 1  # resumed
    with terminal() as sent:
        stream = sys.stdout
        handler = logging.StreamHandler(stream)
        runner.logger.addHandler(handler)
        run_loops(ProgressHook(), runner)
        assert sys.stdout is stream and handler.stream is stream
    said = ''.join(sent)
    assert '4/4' in said and '3/3' in said and '1/4' in said
    assert '/s' in said and 'left' in said
    for i in (1, 2, 3):  # whole, on a line of its own, above the bar
        assert f'\x1b[2Ka line of iteration {i}\r\n' in said
    assert said.rfind('\x1b[?25h') > said.rfind('\x1b[?25l')  # the cursor


def test_an_error_gives_the_terminal_back(runner):
    with terminal():
        stream = sys.stdout
        hook = ProgressHook()
        hook.before_train(runner)
        assert sys.stdout is not stream
        hook.close()  # registered with atexit
        assert sys.stdout is stream


def test_plain_lines_without_a_terminal(runner, capfd):
    """Training is in the host's log; scenes are told with time left."""
    hook = ProgressHook(interval=0)
    run_loops(hook, runner)
    lines = [x for _, x in runner.logger.handlers[0].lines if 'val:' in x]
    assert len(lines) == 3
    assert lines[0].startswith('val: 1 of 3 (33 %), ')
    assert lines[2].endswith('0:00:00 left')
    assert capfd.readouterr() == ('', '')
    runner.logger.handlers[0].lines.clear()
    run_loops(ProgressHook(interval=60), runner)
    assert not [x for _, x in runner.logger.handlers[0].lines if 'val:' in x]


def test_what_a_validation_costs_is_told(runner, monkeypatch):
    """Beside the training since the one before."""
    clock = [100.]
    monkeypatch.setattr('relay_seg.hooks.progress.time.monotonic',
                        lambda: clock[0])
    hook = ProgressHook()

    def after(seconds, call, *args):
        clock[0] += seconds
        call(runner, *args)

    hook.before_train(runner)
    after(60, hook.before_val_epoch)
    after(15, hook.after_val_epoch, {})
    after(30, hook.before_val_epoch)
    after(2.5, hook.after_val_epoch, {})
    told = [text for _, text in runner.logger.handlers[0].lines
            if 'Validation took' in text]
    assert told == [
        'Validation took 15.0 s, training before it 60.0 s.',
        'Validation took 2.5 s, training before it 30.0 s.']
    hook.after_train(runner)
    hook.before_val_epoch(runner)  # a validation alone is beside nothing
    hook.after_val_epoch(runner, {})
    assert len(runner.logger.handlers[0].lines) == 2


def test_tools_show_bars_on_a_terminal(module_scenes, tmp_path):
    with terminal() as sent:
        call('tools/train.py', PLAIN, '--work-dir', tmp_path,
             *options(module_scenes, 2))
    said = ''.join(sent)
    assert '2/2' in said and 'train' in said and 'val' in said
    assert 'Iter(train) [2/2]' in said


# Scalars.


def log(backend, iteration, **scalars):
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', iteration - 1)
    hub.update_info('epoch', 0)
    backend.add_scalars(dict(scalars, iter=iteration, step=iteration))


def rows(folder):
    with (folder / 'scalars.csv').open(newline='') as file:
        return [(int(r['iter']), r['name'], float(r['value']))
                for r in csv.DictReader(file)]


def test_csv_goes_on_after_a_resume(tmp_path):
    MessageHub.get_instance('test_csv')
    first = CSVVisBackend(str(tmp_path / '1/vis_data'))
    for i in (1, 2, 3, 4):
        log(first, i, loss=i, lr=torch.tensor(0.5))
    with (tmp_path / 'scalars.csv').open('a') as file:
        file.write('5,1,lo')  # killed while it wrote
    second = CSVVisBackend(str(tmp_path / '2/vis_data'))
    for i in (3, 4, 5):
        log(second, i, loss=10 * i)
    assert [r for r in rows(tmp_path) if r[1] == 'loss'] == [
        (1, 'loss', 1), (2, 'loss', 2), (3, 'loss', 30), (4, 'loss', 40),
        (5, 'loss', 50)]
    assert (2, 'lr', 0.5) in rows(tmp_path)
    assert (tmp_path / 'scalars.csv').read_text().count('iter') == 1


def test_csv_is_left_alone_by_a_test(tmp_path):
    MessageHub.get_instance('test_without_training')
    backend = CSVVisBackend(str(tmp_path / '1/vis_data'))
    backend.add_scalars(dict(mIoU=1.))
    assert not (tmp_path / 'scalars.csv').exists()


# Configs.


@pytest.mark.parametrize('name, added', (
    ('default_runtime', []), ('runtime_wandb', ['WandbVisBackend']),
    ('runtime_mlflow', ['MLflowVisBackend'])))
def test_where_scalars_go(name, added, tmp_path):
    """As a user changes it: one word of the list of bases."""
    source = ROOT / 'configs/plain/swin2_t_dubai.py'
    text = source.read_text().replace('default_runtime', name)
    (tmp_path / 'config.py').write_text(
        text.replace("'../_base_", f"'{ROOT}/configs/_base_"))
    cfg = Config.fromfile(tmp_path / 'config.py')
    types = [x.type for x in cfg.visualizer.vis_backends]
    assert types == ['LocalVisBackend', 'TensorboardVisBackend',
                     'CSVVisBackend', *added]
    assert [x.type for x in cfg.custom_hooks] == [
        'BroadcastBuffersHook', 'StopAfterBadSteps', 'ProgressHook']
    assert cfg.optim_wrapper.type == 'CheckedOptimWrapper'


# Switches of docs/training_hardware.md, through the tool.


SWITCHES = {
    'bf16': (['--amp'], {}),
    'accumulate': ([], {'optim_wrapper.accumulative_counts': 2,
                        'optim_wrapper.clip_grad.max_norm': 1.}),
    'checkpointing': ([], {'model.backbone.with_cp': True}),
    'compiled': ([], {'compile.backend': 'eager',
                      'model.backbone.arch.depths': '[1,1,1,1]'}),
    'ema': ([], {'default_hooks.ema.type': 'EMAHook',
                 'default_hooks.ema.momentum': 0.1,
                 'default_hooks.ema.update_buffers': True}),
}


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) if name == 'compiled'
    else name for name in SWITCHES])
def test_switch_trains(name, module_scenes, tmp_path):
    arguments, changes = SWITCHES[name]
    call('tools/train.py', RELAY, *arguments, '--work-dir', tmp_path,
         *options(module_scenes, 2, **changes))
    losses = [v for _, key, v in rows(tmp_path) if key == 'loss']
    assert len(losses) == 2 and all(0 < x < 10 for x in losses)
    assert list(tmp_path.glob('*/vis_data/events.out.tfevents.*'))
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    weights = state['state_dict']
    assert all(v.dtype == torch.float32 for v in weights.values()
               if v.is_floating_point())
    steps = {int(x['step']) for x in state['optimizer']['state'].values()}
    assert steps == {1 if name == 'accumulate' else 2}
    if name == 'ema':
        raw = state['ema_state_dict']
        key = 'backbone.global_patch_embed.0.projection.weight'
        assert not torch.equal(weights[key], raw[f'module.{key}'])
        twin = weights['backbone.patch_embed.projection.weight']
        assert not torch.equal(weights[key], twin)  # each has its own


def test_sync_bn_keeps_the_names_of_weights():
    from mmengine.model import convert_sync_batchnorm
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    cfg = Config.fromfile(ROOT / RELAY)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    names = set(model.state_dict())
    model = convert_sync_batchnorm(model, 'torch')
    norms = [m for m in model.modules()
             if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert set(model.state_dict()) == names
