"""Do relay tokens help at full size? Short trainings, as many as fit.

Models, data path and test are those of benchmarks/evidence; windows are
augmented as in configs/. Several trainings run at once: one alone leaves the
GPU waiting for its process.
"""
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import rasterio
from mmengine.config import Config

from .records import Records
from .setting import ROOT, Setting, make_tiny

sys.path.append(str(ROOT / 'benchmarks/evidence'))

from experiments import HALF, NEITHER, PLACED
from runs import Budget, Variant, run
from tables import FIRST_SLIDE
from tasks import READERS, TASKS, Task, prepare

SAMPLE = 'sample'
#: Of all models: there is no time to search for one.
RATE = 5e-4
FULL = Budget(400, 32, 256, 1, 'bf16')
SMOKE = Budget(2, 2, 64, 8, 'bf16')
AT_ONCE = 4
FAMILIES = {'ViT-S': 'vit_s', 'SwinV2-T': 'swin_t'}
HERE = Path(__file__).parent


def sample_scenes(raw: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (3, H, W) and label (H, W) of the sample scenes."""
    for path in sorted(raw.glob('img_dir/*/*.tif')):
        label = raw / 'ann_dir' / path.parent.name / path.name
        with rasterio.open(path) as x, rasterio.open(label) as y:
            yield path.stem, x.read(), y.read(1)


def offer_sample() -> None:
    """Let the experiments know the sample scenes."""
    dubai = TASKS['dubai']
    TASKS[SAMPLE] = Task(
        SAMPLE, dubai.classes, dubai.palette,
        dict(train=('scene2', 'scene3'), val=('scene6', ),
             test=('scene1', )),
        'trained on scenes 2, 3 and 6, tested on 1')
    READERS[SAMPLE] = sample_scenes


def variants(pipeline: list[dict], smoke: bool) -> list[Variant]:
    """Plain, plain with as much work, relay as published, and less of it."""
    found = []
    for family, name in FAMILIES.items():
        for what, title, more, passes in (
                ('plain', family, {}, 1.),
                ('plain', f'{family}, trained twice as long', {}, 2.),
                ('relay', f'RT-{family}', {}, 1.),
                ('relay', f'RT-{family}, neither loss', NEITHER, 1.),
                ('relay', f'RT-{family}, lean', NEITHER | PLACED | HALF, 1.)):
            config = f'{what}_{name}'
            options = {'train_dataloader.dataset.pipeline': pipeline, **more}
            if smoke:
                options |= tiny_options(config)
            elif 'swin' in name:  # the experiments would choose smaller ones
                options['model.backbone.window_size'] = [8] * 4
            found.append(Variant(title, f'../../gpu/configs/{config}',
                                 options, passes))
    return found


def tiny_options(config: str) -> dict:
    """Settings that make the model of a config tiny."""
    model = Config.fromfile(HERE / 'configs' / f'{config}.py').model
    make_tiny(model)
    backbone = model.backbone
    options = {
        'model.backbone.arch': dict(backbone.arch, _delete_=True),
        'model.backbone.out_indices': backbone.out_indices,
        'model.decode_head.in_channels': model.decode_head.in_channels,
        'model.decode_head.channels': model.decode_head.channels}
    if 'neck' in model:
        options['model.neck.embed_dim'] = model.neck.embed_dim
    return options


def training_steps(side: int, mean: list[float]) -> list[dict]:
    """From scene to sample, as configs/ have it."""
    steps = Config.fromfile(
        ROOT / 'configs/_base_/datasets/dubai.py').train_pipeline
    steps[0].window, steps[1].fill = (side, side), mean
    return [dict(step) for step in steps]


def evidence(setting: Setting, records: Records,
             raw: dict[str, Path]) -> None:
    """One seed of all models after the other, some of them at once.

    Args:
        setting: Setting of the part.
        records: Takes the results.
        raw: Folders of larger data sets, by the name of a task; the sample
            scenes without one.
    """
    offer_sample()
    loaders = (os.cpu_count() or 1) // AT_ONCE - 1
    budget = SMOKE if setting.smoke else replace(
        FULL, loaders=max(loaders, 1))
    raw = raw or {SAMPLE: ROOT / 'data_prep/sample/dubai'}
    roots = {task: prepare(TASKS[task].data, folder, setting.scratch,
                           budget.reduce) for task, folder in raw.items()}
    records.note(budget=vars(budget), rate=RATE, at_once=AT_ONCE, tasks={
        task: TASKS[task].words for task in roots})
    jobs = (
        (variant, task, root, budget, RATE, seed, 'test',
         setting.scratch / f'{task} {variant.name} {seed}')
        for seed in (range(1) if setting.smoke else count())
        for task, root in roots.items()
        for variant in variants(training_steps(
            budget.window, mean_of(root)), setting.smoke))
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context(
            'spawn'), offer_sample) as pool:
        running = {pool.submit(timed, job): job
                   for job in islice(jobs, AT_ONCE)}
        longest = 0.
        while running:
            for done in wait(running, None, FIRST_COMPLETED).done:
                variant, task, *_, seed, _, _ = running.pop(done)
                with records.attempt(f'{variant.name}, {task}, {seed}'):
                    found, seconds = done.result()
                    longest = max(longest, seconds)
                    records.row('evidence', **results_of(found))
                # One that would be cut off only holds up the others.
                if time.monotonic() + longest < setting.until:
                    running |= {pool.submit(timed, job): job
                                for job in islice(jobs, 1)}


def timed(job: tuple) -> tuple[dict, float]:
    """Train and test, in a process of its own, and how long that took."""
    start = time.monotonic()
    return run(*job), time.monotonic() - start


def results_of(found: dict) -> dict:
    """What is told of a training and its test."""
    test = found['tests'][FIRST_SLIDE]
    return dict(
        model=found['variant'], task=found['task'], seed=found['seed'],
        mIoU=test['metrics']['mIoU'], mF1=test['metrics']['mF1'],
        iterations=found['iterations'], parameters=found['parameters'],
        train_seconds=found['train_seconds'], test_seconds=test['seconds'],
        train_flops=found['train_flops'], pixel_flops=found['pixel_flops'])


def mean_of(root: Path) -> list[float]:
    return json.loads((root / 'manifest.json').read_text())['mean']
