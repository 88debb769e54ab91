"""A run that was stopped goes on as if it had not been."""
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from tiny_runs import Line, StopAfter, Stopped, history, tiny_runner

from relay_seg.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    read_checkpoint,
    register_loaders,
    resuming,
    write_checkpoint,
)

ONE_CYCLE = [dict(type='OneCycleLR', eta_max=0.1, total_steps=16,
                  by_epoch=False)]
#: Written by the stock hook of mmengine 0.10.7 with NumPy 1.26, after two
#: epochs of tiny_runs with ONE_CYCLE and scores; NumPy's parts have other
#: names there.
ORIGINAL = Path(__file__).parent / 'mmengine_0.10.7.pth'
HOOKS = {'ours': 'CheckpointHook', 'stock': 'mmengine.CheckpointHook'}
same_hooks = pytest.mark.parametrize('hook', HOOKS.values(), ids=HOOKS)


@pytest.fixture(autouse=True)
def safe_loaders():
    """Others may have trusted a file in this process."""
    register_loaders()


def state(folder, epoch):
    content = read_checkpoint(folder / f'epoch_{epoch}.pth')
    return content['state_dict'], content['optimizer'], content['meta']


def check_same(one, two):
    """Weights and the optimiser's state to the last bit."""
    for key, value in one[0].items():
        assert torch.equal(value, two[0][key]), key
    assert one[1]['param_groups'] == two[1]['param_groups']
    for key, values in one[1]['state'].items():
        for name, value in values.items():
            assert torch.equal(value, two[1]['state'][key][name])
    assert [one[2][k] for k in ('epoch', 'iter')] == [
        two[2][k] for k in ('epoch', 'iter')]


@same_hooks
@pytest.mark.parametrize('ema', [False, True], ids=['', 'ema'])
def test_resumed_run_equals_one_in_one_go(tmp_path, hook, ema):
    def run(folder, *hooks, scores, **settings):
        if ema:
            hooks = EMAHook(), *hooks
        return tiny_runner(
            tmp_path / folder, checkpoint=hook, schedules=ONE_CYCLE,
            scores=scores, hooks=hooks, save_best='mIoU', rule='greater',
            **settings)

    whole = run('whole', scores=[1., 2., 4., 3.])
    whole.train()
    with pytest.raises(Stopped):
        run('parts', StopAfter(2), scores=[1., 2.]).train()
    resumed = run('parts', scores=[4., 3.], resume=True)
    resumed.train()
    for key in ('train/loss', 'train/lr'):
        assert len(history(resumed)[key]) == 16
        assert history(resumed)[key] == history(whole)[key]
    # The validation after epoch 2 is not in its checkpoint.
    assert history(whole)['val/mIoU'] == [1, 2, 4, 3]
    assert history(resumed)['val/mIoU'] == [1, 4, 3]
    assert [p.name for p in (tmp_path / 'parts').glob('best*')] == [
        'best_mIoU_epoch_3.pth']
    check_same(state(tmp_path / 'whole', 4), state(tmp_path / 'parts', 4))


def test_resumes_what_mmengine_0_10_7_wrote(tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    shutil.copy(ORIGINAL, work / 'epoch_2.pth')
    resumed = tiny_runner(work, resume=True, schedules=ONE_CYCLE)
    resumed.train()
    whole = tiny_runner(tmp_path / 'whole', schedules=ONE_CYCLE)
    whole.train()
    for key in ('train/loss', 'train/lr'):
        assert history(resumed)[key] == pytest.approx(history(whole)[key])


def test_host_runner_resumes_our_files(tmp_path):
    """Without our runner, as the host's own tools."""
    tiny_runner(tmp_path, epochs=2).train()
    resumed = tiny_runner(tmp_path, resume=True, runner=Runner)
    resumed.train()
    assert len(history(resumed)['train/loss']) == 16


def test_our_files_need_no_allow_list(tmp_path):
    """torch itself reads them, in any program, with nothing allowed."""
    tiny_runner(tmp_path, epochs=1, scores=[1.], schedules=ONE_CYCLE).train()
    path = tmp_path / 'epoch_1.pth'
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(path)
    hub = torch.load(path, weights_only=True)['message_hub']
    assert len(hub['log_scalars']['train/loss']['log_history']) == 4


def cut(path, share=0.6):
    os.truncate(path, int(path.stat().st_size * share))


def resumed_iter(work_dir):
    """Iteration that a resumed run starts at."""
    runner = tiny_runner(work_dir, resume=True)
    runner.train_loop  # noqa: B018, built when asked for
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(
        runner.param_schedulers)
    runner.load_or_resume()
    return runner.iter


@pytest.fixture
def stopped(tmp_path):
    """Work dir with epoch_1, epoch_2 and epoch_3, of 4 iterations each."""
    tiny_runner(tmp_path / 'run', epochs=3).train()
    return tmp_path / 'run'


@pytest.fixture
def warnings_of(monkeypatch):
    """Warnings that resuming logs."""
    said = []
    logger = SimpleNamespace(warning=said.append)
    monkeypatch.setattr(resuming, 'MMLogger', SimpleNamespace(
        get_current_instance=lambda: logger))
    return said


def test_newest_whole_file_is_taken(stopped, warnings_of):
    assert resumed_iter(stopped) == 12
    assert not warnings_of
    cut(stopped / 'epoch_3.pth')
    assert resumed_iter(stopped) == 8
    assert 'epoch_3.pth is damaged' in warnings_of[0]
    assert 'Going on from' in warnings_of[1]
    assert 'epoch_2.pth' in warnings_of[1]
    (stopped / 'epoch_3.pth').unlink()
    (stopped / 'epoch_2.pth').write_bytes(b'')
    assert resumed_iter(stopped) == 4


def test_flipped_bit_is_damage_and_not_code(stopped, warnings_of):
    """Torch takes it for a name, and asks to trust the file."""
    path = stopped / 'epoch_3.pth'
    data = path.read_bytes()
    path.write_bytes(data.replace(b'_rebuild_tensor', b'_rebuild_temsor'))
    assert resumed_iter(stopped) == 8
    assert 'epoch_3.pth is damaged' in warnings_of[0]
    assert 'Going on from' in warnings_of[1] and 'epoch_2' in warnings_of[1]


def test_weights_of_a_diverged_run_are_passed_over(stopped, warnings_of):
    content = read_checkpoint(stopped / 'epoch_3.pth')
    content['state_dict']['line.bias'][:] = float('nan')
    write_checkpoint(content, stopped / 'epoch_3.pth')
    assert resumed_iter(stopped) == 8
    assert 'epoch_3.pth' in warnings_of[0] and 'line.bias' in warnings_of[0]
    assert 'Going on from' in warnings_of[1]


@pytest.mark.parametrize('change', [
    dict(meta=None), dict(meta='text'), dict(meta=dict(iter=3)),
    dict(optimizer=None), dict(message_hub=[])])
def test_state_of_another_kind_is_passed_over(stopped, change, warnings_of):
    content = torch.load(stopped / 'epoch_3.pth', weights_only=True)
    torch.save(content | change, stopped / 'epoch_3.pth')
    assert resumed_iter(stopped) == 8
    assert 'epoch_2.pth' in warnings_of[0]


@pytest.mark.parametrize('text', [None, '', 'nowhere/epoch_9.pth'])
def test_last_checkpoint_is_no_single_point_of_failure(
        stopped, text, warnings_of):
    pointer = stopped / 'last_checkpoint'
    pointer.unlink()
    if text is not None:
        pointer.write_text(text)
    assert resumed_iter(stopped) == 12
    assert 'epoch_3.pth' in warnings_of[-1]


def test_work_dir_that_moved_is_resumed(stopped, warnings_of):
    moved = stopped.rename(stopped.with_name('moved'))
    assert resumed_iter(moved) == 12
    assert not warnings_of


def test_best_model_is_not_resumed_from(tmp_path):
    """It is newer but has no state of the optimiser."""
    tiny_runner(tmp_path, epochs=2, scores=[1., 2.], save_best='mIoU',
                rule='greater').train()
    best = tmp_path / 'best_mIoU_epoch_2.pth'
    os.utime(best)
    (tmp_path / 'last_checkpoint').unlink()
    assert resumed_iter(tmp_path) == 8
    runner = tiny_runner(tmp_path / 'new', resume=True, load_from=str(best))
    with pytest.raises(CheckpointError, match='nothing to resume'):
        runner.train()


def test_nothing_to_resume_starts_from_the_beginning(tmp_path):
    assert resumed_iter(tmp_path) == 0


def test_only_damaged_files_are_an_error(stopped):
    for path in stopped.glob('*.pth'):
        cut(path)
    with pytest.raises(CheckpointError, match='epoch_3.pth, .*epoch_1.pth'):
        resumed_iter(stopped)


def test_file_that_asks_for_code_is_not_passed_over(stopped):
    """Going on silently from an older one would hide an attack."""
    content = torch.load(stopped / 'epoch_3.pth', weights_only=True)
    torch.save(content | dict(extra=os.getcwd), stopped / 'epoch_3.pth')
    with pytest.raises(UnsafeCheckpointError, match='posix.getcwd'):
        resumed_iter(stopped)


def test_own_checkpoints_come_before_load_from(stopped):
    first = stopped / 'epoch_1.pth'
    runner = tiny_runner(stopped, epochs=3, resume=True,
                         load_from=str(first))
    runner.train()
    assert runner._load_from.endswith('epoch_3.pth')


def test_other_model_or_schedules_are_refused(stopped):
    with pytest.raises(CheckpointError, match=r'line.weight \(1, 2\) for'):
        tiny_runner(stopped, resume=True, model=Line(3)).train()
    with pytest.raises(CheckpointError, match='holds 1 schedules.* has 2'):
        tiny_runner(stopped, resume=True, schedules=ONE_CYCLE).train()
    content = read_checkpoint(stopped / 'epoch_3.pth')
    content['optimizer']['param_groups'] *= 2
    write_checkpoint(content, stopped / 'epoch_3.pth')
    with pytest.raises(CheckpointError, match='holds 2 groups.* has 1'):
        tiny_runner(stopped, resume=True).train()


def test_another_optimiser_is_refused(stopped):
    for optimizer in (dict(type='SGD', lr=0.05), dict(type='RMSprop', lr=1)):
        with pytest.raises(CheckpointError, match=(
                f'another optimiser than {optimizer["type"]}: it has no')):
            tiny_runner(stopped, resume=True, optimizer=optimizer).train()


@pytest.mark.parametrize('optimizer, message', [
    (dict(type='AdamW', lr=0.1, weight_decay=0.5),
     'lr=0.05 (not 0.1), weight_decay=0.01 (not 0.5)'),
    (dict(type='AdamW', lr=0.05, fused=False), None),
    (dict(type='Adam', lr=0.05, weight_decay=0.01),
     'decoupled_weight_decay=True (not False)')])
def test_settings_of_the_optimiser_that_go_on_are_said(
        stopped, warnings_of, optimizer, message):
    tiny_runner(stopped, resume=True, optimizer=optimizer).train()
    assert (message in warnings_of[0]) if message else not warnings_of


def test_raw_weights_go_on_without_their_average(tmp_path, warnings_of):
    tiny_runner(tmp_path, epochs=2, hooks=[EMAHook(momentum=0.5)]).train()
    content = read_checkpoint(tmp_path / 'epoch_2.pth')
    runner = tiny_runner(tmp_path, epochs=2, resume=True)
    runner.train()
    raw = content['ema_state_dict']['module.line.weight']
    assert torch.equal(runner.model.line.weight, raw)
    assert not torch.equal(raw, content['state_dict']['line.weight'])
    assert 'EMAHook' in warnings_of[0]


def test_a_run_that_is_done_says_so(stopped, monkeypatch):
    runner, said = tiny_runner(stopped, epochs=2, resume=True), []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    runner.train()
    assert 'iteration 12 of 8: nothing is left' in said[-1]


def test_patience_goes_on(tmp_path):
    """Three validations without a better score, one of them before."""
    def run(epochs, scores, resume=False):
        runner = tiny_runner(
            tmp_path, epochs, resume, scores, save_best='mIoU',
            rule='greater', hooks=[dict(
                type='EarlyStoppingHook', monitor='mIoU', rule='greater',
                patience=3)])
        runner.train()
        return runner.epoch

    assert run(3, [5., 4., 3.]) == 3
    # The checkpoint of epoch 3 was written before its validation.
    assert run(9, [2., 1., 0., 0., 0., 0.], resume=True) == 5
