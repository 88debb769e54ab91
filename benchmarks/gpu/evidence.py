"""Do relay tokens help at full size? Short trainings, as many as fit.

Models, data path and test are those of benchmarks/evidence; windows are
augmented as in configs/.
"""
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import rasterio
from mmengine.config import Config

from .records import Records
from .setting import ROOT, Setting, make_tiny

sys.path.append(str(ROOT / 'benchmarks/evidence'))

from runs import Budget, Variant, run
from tables import FIRST_SLIDE
from tasks import READERS, TASKS, Task, prepare

SAMPLE = 'sample'
#: Of all models: there is no time to search for one.
RATE = 5e-4
FULL = Budget(400, 32, 256, 1, 'bf16', min(12, os.cpu_count() or 1))
SMOKE = Budget(2, 2, 64, 8, 'bf16')
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
    """Relay, plain, and plain with as much work: twice as long."""
    found = []
    for family, name in FAMILIES.items():
        for what, title, passes in (
                ('relay', f'RT-{family}', 1.), ('plain', family, 1.),
                ('plain', f'{family}, trained twice as long', 2.)):
            config = f'{what}_{name}'
            options = {'train_dataloader.dataset.pipeline': pipeline}
            if smoke:
                options |= tiny_options(config)
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
    """One seed of all models after the other.

    Args:
        setting: Setting of the part.
        records: Takes the results.
        raw: Folders of larger data sets, by the name of a task; the sample
            scenes without one.
    """
    offer_sample()
    budget = SMOKE if setting.smoke else FULL
    raw = raw or {SAMPLE: ROOT / 'data_prep/sample/dubai'}
    roots = {task: prepare(TASKS[task].data, folder, setting.scratch,
                           budget.reduce) for task, folder in raw.items()}
    records.note(budget=vars(budget), rate=RATE, tasks={
        task: TASKS[task].words for task in roots})
    longest = 0.
    for seed in range(1) if setting.smoke else count():
        for task, root in roots.items():
            steps = training_steps(budget.window, mean_of(root))
            for variant in variants(steps, setting.smoke):
                start = time.monotonic()
                if start + longest > setting.until:
                    return
                out = setting.scratch / f'{task} {variant.name} {seed}'
                records.row('evidence', **results_of(run(
                    variant, task, root, budget, RATE, seed, 'test', out)))
                longest = max(longest, time.monotonic() - start)


def results_of(found: dict) -> dict:
    """What is told of a training and its test."""
    test = found['tests'][FIRST_SLIDE]
    return dict(
        model=found['variant'], task=found['task'], seed=found['seed'],
        mIoU=test['metrics']['mIoU'], mF1=test['metrics']['mF1'],
        iterations=found['iterations'], parameters=found['parameters'],
        train_seconds=found['train_seconds'], test_seconds=test['seconds'],
        train_flops=found['train_flops'])


def mean_of(root: Path) -> list[float]:
    return json.loads((root / 'manifest.json').read_text())['mean']
