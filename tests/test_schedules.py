"""Learning rate and end of a training, against PyTorch and Lightning.

The authors train with Lightning 2.1: a linear warm-up, PyTorch's
``ReduceLROnPlateau`` and an early stop, all on the pixel accuracy.
"""
import math
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, ReduceOnPlateauLR
from mmengine.registry import METRICS
from torch import nn

from relay_seg.config import load_config
from relay_seg.engine import RelayRunner

ROOT = Path(__file__).parents[1]
STEPS = 7  # an epoch; 5 % of 50 epochs are then no whole number of steps
numbers = count()


def schedule(name):
    """What a runner needs of a schedule of ours."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/schedules/{name}.py')
    return {key: cfg.to_dict()[key] for key in (
        'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks')}


#: Epochs, and how many of them at least.
SCHEDULES = {'released_50e': (50, 20), 'released_30e': (30, 10)}


class Slope(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, mode='loss'):
        if mode == 'loss':
            return dict(loss=self.weight.square().sum())
        return [0]


class Items(torch.utils.data.Dataset):
    metainfo = dict(classes=('a', ), palette=[[0, 0, 0]])

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return dict(x=torch.zeros(1))


@METRICS.register_module()
class Curve(BaseMetric):
    """Gives a list of accuracies, one a validation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(aAcc=self.scores.pop(0))


class Rates(Hook):
    """Keeps the learning rate of each step."""

    def __init__(self):
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.steps.append(runner.optim_wrapper.get_lr()['lr'][0])


def loader(items):
    return dict(
        dataset=Items(items), batch_size=1, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False))


def make_runner(folder, curve, steps=STEPS, hooks=(), **settings):
    quiet = dict(logger=None, runtime_info=None, timer=None)
    return RelayRunner(**dict(
        model=Slope(), work_dir=str(folder), train_dataloader=loader(steps),
        val_dataloader=loader(1), val_cfg=dict(),
        val_evaluator=dict(type='Curve', scores=curve),
        custom_hooks=list(hooks), default_scope='mmseg', log_level='ERROR',
        experiment_name=f'schedule{next(numbers)}') | settings | dict(
            default_hooks=settings['default_hooks'] | quiet))


def train(folder, settings, curve, steps=STEPS):
    """Learning rate of each step, and the epochs that were done."""
    rates = Rates()
    hooks = settings['default_hooks'] | dict(checkpoint=None)
    runner = make_runner(folder, curve, steps, [rates],
                         **settings | dict(default_hooks=hooks))
    runner.train()
    return rates.steps, runner.epoch


# What Lightning and PyTorch do


def lightning_end(curve, patience, min_epochs):
    """Epochs that Lightning 2.1 trains, written out.

    ``EarlyStopping`` with mode max and min_delta 0 sets
    ``trainer.should_stop``, which nothing takes back; the loop looks at it
    once min_epochs are done.
    """
    best, waited, should_stop = -math.inf, 0, False
    for epoch, score in enumerate(curve, start=1):
        if score > best:
            best, waited = score, 0
        else:
            waited += 1
            should_stop = should_stop or waited >= patience
        if should_stop and epoch >= min_epochs:
            return epoch
    return len(curve)


def plateau_rates(curve, base=1e-3):
    """Learning rate of each epoch by PyTorch's scheduler, without warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode='max', factor=0.2, patience=4, threshold=0.01,
        threshold_mode='rel')
    rates = []
    for score in curve:
        rates.append(optimizer.param_groups[0]['lr'])
        plateau.step(score)
    return rates


def warm_up(step, steps):
    """Factor of a step, from 0.01 at the first to 1 at the last."""
    return min(0.01 + 0.99 * step / (steps - 1), 1)


def expected_rates(curve, epochs, steps=STEPS):
    warming = int(0.05 * epochs * steps)
    return [rate * warm_up(epoch * steps + step, warming)
            for epoch, rate in enumerate(plateau_rates(curve))
            for step in range(steps)]


def rising(*values):
    return lambda epochs: [
        values[min(i, len(values) - 1)] for i in range(epochs)]


CURVES = {
    'flat': rising(50.),
    'rises': lambda epochs: [40. + i for i in range(epochs)],
    'falls': lambda epochs: [90. - i for i in range(epochs)],
    # More than before, but never by 1 %: the rate falls, nothing stops.
    'creeps': lambda epochs: [70 + i / 100 for i in range(epochs)],
    # By 1 % and not by more.
    'exactly_1_%': lambda epochs: [50 * 1.01**i for i in range(epochs)],
    'stairs': lambda epochs: [50 + 5 * (i // 6) for i in range(epochs)],
    'long_stairs': lambda epochs: [50 + 5 * (i // 10) for i in range(epochs)],
    # A stop is due after 11 epochs, then the accuracy rises again.
    'late_rise': lambda epochs: [60.] * 12 + [
        61. + i for i in range(epochs - 12)],
    'rises_again_at_the_end_of_patience': rising(
        *[60.] * 10, 61, *[60.] * 9, 62),
    'waves': lambda epochs: [
        60 + 10 * math.sin(i / 3) + i / 10 for i in range(epochs)],
    'best_at_16': lambda epochs: [
        50 + i if i < 16 else 60. for i in range(epochs)],
    'from_zero': lambda epochs: [0.] * 3 + [
        min(i, 20.) for i in range(epochs - 3)],
}


@pytest.mark.parametrize('curve', CURVES.values(), ids=CURVES)
@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_and_end_are_those_of_pytorch_and_lightning(
        name, curve, tmp_path):
    epochs, min_epochs = SCHEDULES[name]
    scores = curve(epochs)
    rates, done = train(tmp_path, schedule(name), scores)
    assert done == lightning_end(scores, 10, min_epochs)
    assert rates == pytest.approx(
        expected_rates(scores[:done], epochs), rel=1e-12, abs=0)


def test_the_curves_tell_the_rules_apart():
    """Ends and rates differ where a rule is another one."""
    scores = [curve(50) for curve in CURVES.values()]
    ends = [lightning_end(s, 10, 20) for s in scores]
    assert ends != [lightning_end(s, 10, 0) for s in scores]
    assert {20, 26, 50} <= set(ends)
    rates = {round(math.log(r / 1e-3, 0.2)) for s in scores
             for r in plateau_rates(s)}
    assert {0, 1, 2, 5} <= rates


@pytest.mark.parametrize('steps', [2, 3, 8, 40])
def test_every_step_of_the_warm_up(steps, tmp_path):
    """From 1e-5 to 1e-3 over 5 % of all steps, rounded down."""
    rates, _ = train(
        tmp_path, schedule('released_50e'), CURVES['rises'](50), steps)
    warming = 5 * steps // 2
    expected = torch.linspace(1e-5, 1e-3, warming, dtype=torch.float64)
    assert rates[:warming] == pytest.approx(
        expected.tolist(), rel=1e-12, abs=0)
    assert rates[warming:] == pytest.approx(
        [1e-3] * (50 * steps - warming), rel=1e-12, abs=0)


def test_the_rate_may_fall_during_the_warm_up(tmp_path):
    """Both multiply; validations count from the first on."""
    settings = schedule('released_50e')
    first, plateau = settings['param_scheduler']
    first['end'], plateau['patience'] = 4, 0
    rates, _ = train(tmp_path, settings, [50., 50.] + [
        60 * 1.02**i for i in range(48)])
    assert len(rates) == 50 * STEPS
    for step, rate in enumerate(rates):
        fell = 0.2 if step >= 2 * STEPS else 1
        assert rate == pytest.approx(
            1e-3 * fell * warm_up(step, 4 * STEPS), rel=1e-12, abs=0)


@given(st.lists(st.integers(0, 12), max_size=40),
       st.sampled_from([0., 0.01, 0.25]), st.integers(0, 4))
def test_plateaus_are_those_of_pytorch(scores, threshold, patience):
    theirs, ours = (
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.)
        for _ in range(2))
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode='max', factor=0.2, patience=patience,
        threshold=threshold, threshold_mode='rel')
    hosts = ReduceOnPlateauLR(
        OptimWrapper(ours), monitor='aAcc', rule='greater', factor=0.2,
        patience=patience, threshold=threshold, threshold_rule='rel')
    for score in scores:
        torchs.step(score)
        hosts.step()  # after the epoch
        hosts.step(dict(aAcc=score))
        assert ours.param_groups[0]['lr'] == theirs.param_groups[0]['lr']


# The early stop


def early_stop(min_epochs=0, patience=2, **kwargs):
    return dict(early_stopping=dict(
        type='EarlyStoppingHook', monitor='aAcc', rule='greater',
        min_delta=0., patience=patience, min_epochs=min_epochs, **kwargs))


def epochs_done(folder, curve, hook, epochs=9, hooks=(), **changes):
    runner = make_runner(folder, curve, 1, hooks, **dict(
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None) | hook) | changes)
    runner.train()
    return runner.epoch


def test_an_equal_score_is_no_improvement(tmp_path):
    assert epochs_done(tmp_path, [1., 1., 1., 2., 3.], early_stop()) == 3
    less = dict(early_stop()['early_stopping'], rule='less')
    assert epochs_done(
        tmp_path, [1., 1., 1.], dict(early_stopping=less)) == 3
    delta = dict(early_stop()['early_stopping'], min_delta=1.)
    assert epochs_done(
        tmp_path, [1., 2., 2., 9.], dict(early_stopping=delta)) == 3


@pytest.mark.parametrize('min_epochs, end', [
    (0, 3), (3, 3), (4, 4), (6, 6), (9, 9)])
def test_a_stop_that_is_due_stays_due(min_epochs, end, tmp_path):
    curve = [5., 4., 3., 9., 10., 11., 12., 13., 14.]
    assert epochs_done(tmp_path, curve, early_stop(min_epochs)) == end


def test_a_stop_that_is_due_waits_for_the_next_validation(tmp_path):
    settings = dict(type='EpochBasedTrainLoop', max_epochs=9, val_interval=2)
    assert epochs_done(tmp_path, [3., 2., 1., 0.], early_stop(5, 1),
                       train_cfg=settings) == 6


class EndAfter(Hook):
    """End a run as a kill would, once an epoch is saved."""

    priority = 'LOWEST'

    def __init__(self, epoch):
        self.epoch = epoch

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch:
            raise KeyboardInterrupt


def test_a_stop_that_is_due_goes_through_a_resume(tmp_path):
    hook = early_stop(8) | dict(
        checkpoint=dict(type='CheckpointHook', interval=1))
    with pytest.raises(KeyboardInterrupt):
        epochs_done(tmp_path, [5., 4., 3., 6., 7.], hook,
                    hooks=[EndAfter(5)])
    rest = [float(i) for i in range(8, 20)]
    assert epochs_done(tmp_path, rest, hook, epochs=12, resume=True) == 8


def test_other_hooks_may_stop_earlier(tmp_path):

    class Stop(Hook):

        def after_val_epoch(self, runner, metrics=None):
            runner.train_loop.stop_training = runner.epoch == 4

    assert epochs_done(tmp_path, [5., 4., 3., 2.], early_stop(8),
                       hooks=[Stop()]) == 4


def test_min_epochs_needs_epochs(tmp_path):
    with pytest.raises(ValueError, match='goes by iterations'):
        epochs_done(tmp_path, [1.], early_stop(2), train_cfg=dict(
            type='IterBasedTrainLoop', max_iters=4))
    with pytest.raises(ValueError, match='min_epochs=-1'):
        epochs_done(tmp_path, [1.], early_stop(-1))


def test_a_test_needs_no_training_data(tmp_path):
    missing = loader(1) | dict(dataset=dict(type='NotThere'))
    runner = make_runner(
        tmp_path, [], **schedule('released_50e') | dict(
            train_dataloader=missing, test_dataloader=loader(1),
            test_cfg=dict(), test_evaluator=dict(type='Curve', scores=[7.])))
    assert runner.test() == dict(aAcc=7.)


# A training of another length


ITERATIONS = ROOT / 'configs/relay/rt_vit_s_dubai.py'


def planned(options=None, path=ITERATIONS):
    return [(s['begin'], s['end'])
            for s in load_config(path, options).param_scheduler]


@pytest.mark.parametrize('iters, expected', [
    (20000, [(0, 1000), (1000, 20000)]), (5000, [(0, 250), (250, 5000)]),
    (80000, [(0, 4000), (4000, 80000)]), (2, [(0, 2)])])
def test_schedules_follow_the_length_of_a_run(iters, expected):
    assert planned({'train_cfg.max_iters': iters}) == expected


def test_a_config_of_ones_own_may_be_shorter(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {str(ITERATIONS)!r}\n'
                     'train_cfg = dict(max_iters=4000)\n')
    assert planned(path=child) == [(0, 200), (200, 4000)]
    assert planned({'train_cfg.max_iters': 400}, child) == [(0, 20), (20, 400)]


def test_the_warm_up_is_a_share_of_the_epochs():
    warm_up, plateau = load_config(
        ROOT / 'configs/relay/rt_swin2_s_gleason.py',
        {'train_cfg.max_epochs': 10}).param_scheduler
    assert warm_up['end'] == pytest.approx(0.5)
    assert plateau['end'] == 10**6


def test_all_that_counts_steps_is_scaled(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"""
_base_ = {str(ITERATIONS)!r}
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=False, milestones=[100, 150], end=200)]
train_cfg = dict(max_iters=200)
""")
    step, = load_config(child, {'train_cfg.max_iters': 600}).param_scheduler
    assert (step['milestones'], step['end']) == ([300, 450], 600)


def test_a_schedule_that_is_given_stays():
    given = {'param_scheduler.1.end': 30000, 'train_cfg.max_iters': 10000}
    assert planned(given)[1] == (1000, 30000)


def test_a_run_without_a_rate_is_refused():
    with pytest.raises(ValueError, match='5000.*end=20000'):
        load_config(ITERATIONS, {'param_scheduler.1.end': 5000})


def iterations(folder, iters, resume=False, **changes):
    """Rates of a run with warm-up and decay, as of the configs."""
    rates = Rates()
    runner = make_runner(folder, [], 4, [rates], **dict(
        resume=resume, val_dataloader=None, val_cfg=None, val_evaluator=None,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
            dict(type='PolyLR', by_epoch=False, begin=5, end=iters)],
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', by_epoch=False, interval=10))) | changes)
    runner.train()
    return rates.steps


def test_a_run_that_is_resumed_for_longer_has_its_rates(tmp_path):
    iterations(tmp_path / 'parts', 10)
    assert iterations(tmp_path / 'parts', 30, resume=True) == pytest.approx(
        iterations(tmp_path / 'whole', 30)[10:])


def test_what_validations_decided_cannot_be_done_again(tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='aAcc', by_epoch=True)
    iterations(tmp_path, 10, param_scheduler=[
        dict(type='PolyLR', by_epoch=False, end=10), plateau])
    with pytest.raises(ValueError, match='validations.*load_from'):
        iterations(tmp_path, 30, resume=True, param_scheduler=[
            dict(type='PolyLR', by_epoch=False, end=30), plateau])
