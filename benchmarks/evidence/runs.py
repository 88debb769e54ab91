"""One training and test of a variant, in the host's runner."""
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import baselines  # noqa: F401
import torch
from ablations import offer_fusions
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from tasks import TASKS

from relay_seg.analysis import counted_flops
from relay_seg.engine import build_runner
from relay_seg.rasters.files import write_text
from relay_seg.views import view_sizes

HERE = Path(__file__).parent
#: Share of windows seen twice and blending; the first is for all variants.
SLIDES = (0., 'mean'), (0.5, 'mean'), (0.5, 'gaussian'), (0.5, 'center')


@dataclass(frozen=True)
class Variant:
    """A model and how it is trained: a config and settings over it.

    Args:
        name: What tables call it; unique in its experiment.
        config: Name of a file in configs/.
        options: Settings as ``--cfg-options`` of tools/train.py;
            ``window_times`` and ``batch_times`` multiply those of the
            budget.
        passes: Iterations, as a multiple of those of the others.
        like: Variant whose learning rate it takes; its own, if None.
        rate: Learning rate, where none is searched.
        slides: Task on which it is tested in all ``SLIDES``.
    """

    name: str
    config: str
    options: Mapping = field(default_factory=dict)
    passes: float = 1.
    like: str | None = None
    rate: float | None = None
    slides: str | None = None


@dataclass(frozen=True)
class Budget:
    """How much is trained: small for two CPU cores, large for a GPU.

    Args:
        iters: Iterations of a variant with ``passes`` of 1.
        batch: Windows in a batch.
        window: Side of a window in pixels.
        reduce: Scenes are reduced by this factor first.
        precision: 'fp32' or 'bf16'.
        loaders: Processes that read windows; 0 for the training process.
    """

    iters: int
    batch: int
    window: int
    reduce: int
    precision: str
    loaders: int = 0


BUDGETS = {
    'cpu': Budget(200, 24, 32, 2, 'fp32'),
    'gpu': Budget(4000, 64, 128, 1, 'bf16', 4),
}


def make_config(variant: Variant, task: str, data_root: Path, budget: Budget,
                lr: float, seed: int, split: str, work_dir: Path) -> Config:
    """The whole config of a run."""
    data_root, work_dir = data_root.resolve(), work_dir.resolve()
    cfg = Config.fromfile(HERE / 'configs' / f'{variant.config}.py')
    facts = TASKS[task]
    manifest = json.loads((data_root / 'manifest.json').read_text())
    mean, std = manifest['mean'], manifest['std']
    iters = round(budget.iters * variant.passes)
    windows = (round(budget.window * variant.options.get('window_times', 1)),
               ) * 2
    batch = round(budget.batch * variant.options.get('batch_times', 1))
    cfg.merge_from_dict({
        'work_dir': str(work_dir),
        'launcher': 'none',
        'randomness': dict(seed=seed),
        'train_cfg.max_iters': iters,
        'optim_wrapper.optimizer.lr': lr,
        'optim_wrapper.precision': budget.precision,
        'train_dataloader.batch_size': batch,
        'train_dataloader.num_workers': budget.loaders,
        'model.data_preprocessor.mean': mean,
        'model.data_preprocessor.std': std,
        'model.decode_head.num_classes': len(facts.classes),
        'model.test_cfg.crop_size': windows,
        'model.test_cfg.stride': windows,
    })
    backbone = cfg.model.backbone
    seen = windows[0] // variant.options.get('model.factor', 1)
    if backbone.get('img_size'):
        backbone.img_size = seen
    if backbone.get('window_size'):  # SwinV2: several on its first maps
        backbone.window_size = [
            min(8, max(seen // 8 // 2**i, 2))
            for i in range(len(backbone.window_size))]
    # One epoch: the host waits for two seconds between epochs.
    cfg.train_dataloader.sampler.samples_per_epoch = iters * batch
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = max(iters // 20, 1)
    decay.end = iters
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[0].window = windows
    pipeline[1].fill = mean
    parts = ('train', 'val') if split == 'test' else ('train', )
    names = [n for part in parts for n in facts.splits[part]]
    for loader, listed in ((cfg.train_dataloader, names),
                           (cfg.test_dataloader, facts.splits[split])):
        ann_file = work_dir / f'{len(listed)} {listed[0]}.txt'
        write_text(ann_file, '\n'.join(listed))
        loader.dataset.update(
            data_root=str(data_root), ann_file=str(ann_file),
            metainfo=dict(classes=facts.classes, palette=facts.palette))
    cfg.merge_from_dict(dict(variant.options))
    return cfg


def run(variant: Variant, task: str, data_root: Path, budget: Budget,
        lr: float, seed: int, split: str, out: Path) -> dict:
    """Train and test once; results are kept in ``out/results.json``.

    What is there already is not done again, if it was asked for alike.

    Args:
        variant: What is trained.
        task: Name of a :class:`tasks.Task`.
        data_root: Its scenes.
        budget: How much is trained.
        lr: Learning rate.
        seed: Seed of weights, windows and augmentation.
        split: 'test', then 'train' and 'val' are trained on; or 'val'.
        out: Folder for results and checkpoint.

    Returns:
        Metrics, seconds, work of a training step and parameters.
    """
    request = request_of(variant, task, budget, lr, seed, split)
    return kept(out / 'results.json', request, partial(
        train_and_test, variant, task, data_root, budget, lr, seed, split,
        out))


def request_of(variant: Variant, task: str, budget: Budget, lr: float,
               seed: int, split: str) -> dict:
    """All that results depend on, but for the code."""
    return dict(variant=asdict(variant), splits=TASKS[task].splits,
                budget=asdict(budget), lr=lr, seed=seed, split=split)


def kept(path: Path, request: dict, job: Callable[[], dict]) -> dict:
    """What a job gave before to the same request, or gives now."""
    request = json.loads(json.dumps(request))
    if path.exists():
        found = json.loads(path.read_text())
        if found['request'] == request:
            return found
    result = json.loads(json.dumps(job(), default=float))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result | dict(request=request)))
    return result | dict(request=request)


def train_and_test(variant: Variant, task: str, data_root: Path,
                   budget: Budget, lr: float, seed: int, split: str,
                   out: Path) -> dict:
    """As :func:`run`, without looking for results."""
    quiet()
    offer_fusions()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    init_default_scope('mmseg')
    cfg = make_config(variant, task, data_root, budget, lr, seed, split, out)
    cfg.experiment_name = f'{out.name}_{time.monotonic_ns()}'
    runner = build_runner(cfg)
    start = time.perf_counter()
    runner.train()
    trained = time.perf_counter() - start
    tests = {}
    every = task == variant.slides and split == 'test'
    slides = SLIDES if every else SLIDES[:1]
    for overlap, blend in slides:
        name = f'overlap {overlap:g}, {blend}'
        stride = round((1 - overlap) * cfg.model.test_cfg.crop_size[0])
        runner.model.test_cfg.update(stride=(stride, stride), blend=blend)
        start = time.perf_counter()
        metrics = runner.test()
        tests[name] = dict(
            metrics=metrics, seconds=time.perf_counter() - start,
            classes=runner.test_evaluator.metrics[0].report['classes'])
    MMLogger._instance_dict.clear()
    Visualizer._instance_dict.clear()
    return dict(
        variant=variant.name, task=task, seed=seed, lr=lr, split=split,
        iterations=cfg.train_cfg.max_iters,
        batch=cfg.train_dataloader.batch_size, train_seconds=trained,
        train_flops=3 * cfg.train_cfg.max_iters * work(runner.model, cfg),
        pixel_flops=work_of_a_pixel(runner.model, cfg),
        parameters=sum(p.numel() for p in runner.model.parameters()),
        tests=tests)


def work(model: torch.nn.Module, cfg: Config) -> float:
    """FLOPs of one forward pass of training, losses included."""
    model, loader = deepcopy(model).cpu(), deepcopy(cfg.train_dataloader)
    # As much for each window; batch norm wants two.
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    data = model.data_preprocessor(batch, training=True)
    windows = cfg.train_dataloader.batch_size / 2
    return windows * counted_flops(model, lambda: model.loss(**data))


def work_of_a_pixel(model: torch.nn.Module, cfg: Config) -> float:
    """FLOPs of a test for a pixel, windows side by side."""
    model = deepcopy(model).cpu().eval()
    height, width = size = tuple(cfg.model.test_cfg.crop_size)
    views = tuple(torch.zeros(1, 3, *each)
                  for each in view_sizes(size, model.contexts))
    return counted_flops(
        model, lambda: model.window_logits(views)) / (height * width)


def quiet() -> None:
    """Progress is told by the experiment, once for all runs."""
    warnings.simplefilter('ignore')
    logging.getLogger('mmengine').setLevel(logging.ERROR)
