"""The experiments in benchmarks/evidence, with a few steps on small scenes."""
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ablations import offer_fusions
from experiments import EXPERIMENTS, RealExperiment
from look import look
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from report import look_section, rounded
from run import Plan
from runs import Budget, kept, make_config, request_of, run, work
from tasks import TASKS

COMMAND = sys.executable, 'benchmarks/evidence/run.py'
BUDGET = Budget(2, 8, 32, 2, 'fp32')
VARIANTS = {v.name: v for e in EXPERIMENTS.values()
            if isinstance(e, RealExperiment) for v in e.variants}
RUN = ('SwinV2 plain', 'SwinV2 relay', 'SwinV2 on the whole image / 4',
       'ViT plain, window twice the side')


@pytest.mark.parametrize('name', VARIANTS)
def test_every_parameter_of_a_variant_learns(
        name, carrots, few_scenes, tmp_path):
    init_default_scope('mmseg')
    offer_fusions()
    cfg = make_config(VARIANTS[name], 'carrot last', carrots, BUDGET, 1e-3, 0,
                      'test', tmp_path)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    losses = model.loss(**model.data_preprocessor(batch, training=True))
    loss, _ = model.parse_losses(losses)
    loss.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None]
    assert loss.isfinite() and still == []


@pytest.fixture
def few_scenes(monkeypatch):
    """Two scenes to test on, and two to train on."""
    for name, task in TASKS.items():
        splits = {part: names[-2:] for part, names in task.splits.items()}
        monkeypatch.setitem(TASKS, name, replace(task, splits=splits))


@pytest.mark.parametrize('name', RUN)
def test_variant_trains_and_tests(name, carrots, few_scenes, tmp_path):
    def again():
        return run(VARIANTS[name], 'carrot last', carrots, BUDGET, 1e-3, 0,
                   'test', tmp_path)

    result, found = again(), tmp_path / 'results.json'
    assert result['iterations'] == 2 and result['train_flops'] > 0
    for test in result['tests'].values():
        assert 0 <= test['metrics']['mIoU'] <= 100
        assert len(test['classes']) == 3
    assert list(tmp_path.glob('*.pth'))
    before = found.stat().st_mtime_ns
    assert again() == result  # what is done is not done again
    assert found.stat().st_mtime_ns == before


def test_results_of_another_request_are_not_taken(tmp_path):
    file = tmp_path / 'results.json'
    assert kept(file, dict(steps=20), lambda: dict(x=1))['x'] == 1
    assert kept(file, dict(steps=20), lambda: dict(x=2))['x'] == 1
    assert kept(file, dict(steps=300), lambda: dict(x=3))['x'] == 3
    one = request_of(VARIANTS['ViT plain'], 'dubai', BUDGET, 1e-3, 0, 'test')
    other = request_of(VARIANTS['ViT plain'], 'dubai',
                       replace(BUDGET, iters=3), 1e-3, 0, 'test')
    assert one != other


@pytest.mark.parametrize('family', ['ViT', 'SwinV2'])
def test_what_stands_beside_relay_costs_as_much(family, carrots, tmp_path):
    init_default_scope('mmseg')
    offer_fusions()
    flops = {}
    for name in ('relay', 'plain, window twice the side', 'plain'):
        cfg = make_config(VARIANTS[f'{family} {name}'], 'carrot last',
                          carrots, BUDGET, 1e-3, 0, 'val', tmp_path)
        side = cfg.train_dataloader.dataset.pipeline[0].window[0]
        assert cfg.model.test_cfg.crop_size == (side, side)
        flops[name] = work(MODELS.build(cfg.model), cfg)
    relay, twice, plain = flops.values()
    assert 0.8 < relay / twice < 1.25
    # Relay tokens count among the 4 tokens of the last attention windows.
    assert 1.8 < relay / plain < 2.5


def test_folders_may_be_relative(carrots, tmp_path, monkeypatch):
    monkeypatch.chdir(carrots.parent)
    cfg = make_config(VARIANTS['ViT plain'], 'carrot last',
                      Path(carrots.name), BUDGET, 1e-3, 0, 'test',
                      Path('work'))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(dataset) == 13


def test_validation_scenes_are_not_trained_on_while_rates_are_searched(
        carrots, tmp_path):
    def files(split):
        cfg = make_config(VARIANTS['SwinV2 plain'], 'carrot first', carrots,
                          BUDGET, 1e-3, 0, split, tmp_path / split)
        return [set(open(cfg[loader].dataset.ann_file).read().split())
                for loader in ('train_dataloader', 'test_dataloader')]

    train, searched_on = files('val')
    both, tested_on = files('test')
    assert train | searched_on == both and not train & searched_on
    assert not both & tested_on and len(both) == 26 and len(tested_on) == 13


def test_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    import run as module

    def complaint(*arguments):
        monkeypatch.setattr(sys, 'argv', ['run.py', *arguments])
        with pytest.raises(SystemExit) as stop:
            module.main()
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert 'are no experiments' in complaint('nothing')
    assert '--carrot-weed' in complaint('main', '--dubai', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='images/IMG_3438.jpg'):
        complaint('main', '--carrot-weed', str(tmp_path), '--dubai',
                  str(tmp_path), '--out', str(tmp_path), '--budget', 'cpu')
    assert not (tmp_path / 'carrot_weed_2/manifest.json').exists()


@pytest.mark.slow
def test_look_inside(carrots, few_scenes, tmp_path):
    def folder_of(name, task):
        folder = tmp_path / name
        run(VARIANTS[name], 'carrot last', carrots, BUDGET, 1e-3, 0, 'test',
            folder)
        return folder

    found = look(folder_of, tmp_path / 'look')
    assert {p.name for p in (tmp_path / 'look').iterdir()} == {
        'attention_ViT.png', 'attention_SwinV2.png', 'errors_ViT.jpg',
        'errors_SwinV2.jpg'}
    for errors in found['errors'].values():
        assert sum(errors.values()) <= 100
    learned, zero = (found['shares'][f'SwinV2 relay{x}']
                     for x in ('', ', relay bias zero'))
    # What the design says of the start: almost cut with a bias of zero.
    equal = learned['equal']
    assert all(x < 0.017 * e for x, e in zip(zero['before'][:2], equal))
    assert all(0.2 * e < x < 5 * e for x, e in zip(learned['before'], equal))
    assert 'SwinV2 relay | before' in look_section(found)
    kept_shares = rounded(found)['shares']['SwinV2 relay, relay bias zero']
    assert kept_shares['before'] == pytest.approx(zero['before'], rel=1e-4)


def test_look_trains_nothing(tmp_path):
    plan = Plan(tmp_path, {}, BUDGET, range(1), 20)
    with pytest.raises(FileNotFoundError, match='run main and ablations'):
        plan.folder_of('ViT relay', 'dubai')


@pytest.mark.slow
def test_command_can_be_interrupted_and_goes_on(tmp_path):
    arguments = ('puzzle_ablations', '--steps', '20', '--seeds', '1',
                 '--out', str(tmp_path), '--budget', 'cpu')
    folder = tmp_path / 'cpu/puzzles'
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE,
                          text=True) as process:
        while not list(folder.glob('*.json')):
            assert process.poll() is None
            time.sleep(0.2)
        process.terminate()  # as Ctrl-C, which CI may have turned off
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and 'goes on where it was' in told
    times = {f: f.stat().st_mtime_ns for f in folder.glob('*.json')}
    assert 0 < len(times) < 19
    assert subprocess.run([*COMMAND, *arguments]).returncode == 0
    assert len(list(folder.glob('*.json'))) == 19
    assert times == {f: f.stat().st_mtime_ns for f in times}
    runs = json.loads(
        (tmp_path / 'cpu/puzzle_ablations/results.json').read_text())['runs']
    assert len(runs) == 19
