"""``results.json``: what a test found, and all that it depends on."""
import json
import math
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from relay_seg.checkpoints import local_file, sha256
from relay_seg.config import load_config
from relay_seg.rasters.files import write_text

from .confusion import ConfusionMetric
from .pictures import draw_confusion
from .report import scenes_csv

#: What a reader must know to understand the file; raised when a key changes
#: its meaning or goes.
SCHEMA, VERSION = 'relay_seg/results', 1

PACKAGES = ('relay_seg', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg',
            'mmpretrain', 'numpy', 'rasterio')
#: Backbones and sizes that have a name in the table of results.
FAMILIES = dict(
    VisionTransformer='ViT', RelayViT='ViT', SwinTransformerV2='SwinV2',
    RelaySwinV2='SwinV2')
SIZES = dict(tiny='T', small='S', base='B', large='L')
#: Settings that decide what is trained, and which checkpoint is kept.
TRAINING = ('model', 'train_dataloader', 'val_dataloader', 'optim_wrapper',
            'param_scheduler', 'train_cfg', 'auto_scale_lr', 'default_hooks')
ROOT_KEY = 'train_dataloader.dataset.data_root'
#: Of these, what says where and how fast, and how a model is tested.
NO_TRAINING = re.compile(
    r'model\.test_cfg\.|default_hooks\.(logger|runtime_info)\.'
    r'|\w+_dataloader\.(dataset\.data_root|num_workers|persistent_workers'
    r'|prefetch_factor|pin_memory)$')


def write_results(runner: Runner, metrics: Mapping[str, float],
                  checkpoint: str | Path, seconds: float) -> None:
    """Write what a test found to the work dir.

    ``results.json``, ``scenes.csv`` and ``confusion.png``.

    All processes call this; the first one writes.

    Args:
        runner: Runner that tested.
        metrics: What its evaluator returned.
        checkpoint: File that was tested.
        seconds: Time that the test took.
    """
    memory = [*all_gather_object(peak_memory())]
    if not is_main_process():
        return
    cfg = runner.cfg
    metric = _confusion_metric(runner.test_loop.evaluator)
    report = metric.report if metric else None
    file = local_file(checkpoint)
    results = dict(
        schema=SCHEMA,
        schema_version=VERSION,
        metrics={k: float(v) for k, v in metrics.items()},
        classes=report['classes'] if report else None,
        scenes=report['scenes'] if report else None,
        confusion=report['confusion'] if report else None,
        model=_describe_model(runner),
        config=dict(file=cfg.filename, text=cfg.pretty_text,
                    changed=changed_settings(cfg)),
        checkpoint=dict(
            file=str(checkpoint), bytes=file.stat().st_size,
            sha256=sha256(file)),
        protocol=protocol(
            cfg, runner.test_dataloader.dataset,
            metric.ignore_index if metric else None),
        parameters=sum(p.numel() for p in runner.model.parameters()),
        seconds=seconds,
        peak_memory={
            key: max((m[key] for m in memory if m[key] is not None),
                     default=None) for key in memory[0]},
        world_size=get_world_size(),
        device=device_name(),
        versions=versions())
    folder = Path(runner.work_dir)
    write_text(folder / 'results.json', strict_json(results))
    if report:
        write_text(folder / 'scenes.csv', scenes_csv(report))
        draw_confusion(report, folder / 'confusion.png')


def _confusion_metric(evaluator: Evaluator) -> ConfusionMetric | None:
    found = (m for m in evaluator.metrics if isinstance(m, ConfusionMetric))
    return next(found, None)


def _describe_model(runner: Runner) -> dict:
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    tokens = getattr(model.backbone, 'num_relay_tokens', 0)
    return dict(name=model_name(runner.cfg.model), relay=tokens > 0,
                relay_tokens=tokens,
                decode_head=type(model.decode_head).__name__ if (
                    hasattr(model, 'decode_head')) else None)


def changed_settings(cfg: Config) -> dict | None:
    """Settings of the training that are not those of the config's file.

    A test knows what it was told itself: give it the settings that the
    training was given.

    Args:
        cfg: Config with overrides.

    Returns:
        New values by dotted key, None for a setting that went; None without
        a file to compare with.
    """
    if not cfg.filename or not Path(cfg.filename).is_file():
        return None
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    root = dataset.get('data_root')
    before, after = (
        _flat({k: c.get(k) for k in TRAINING}) for c in (
            # The data, too, decide what is in a config.
            load_config(cfg.filename, {ROOT_KEY: root} if root else {}), cfg))
    return {k: after.get(k) for k in sorted({*before, *after})
            if before.get(k) != after.get(k) and not NO_TRAINING.match(k)}


def _flat(content: object, key: str = '') -> dict[str, object]:
    """Values by dotted key; a list of plain values is one value."""
    if isinstance(content, list | tuple) and any(
            isinstance(v, Mapping) for v in content):
        content = {str(i): v for i, v in enumerate(content)}
    if isinstance(content, Mapping) and content:
        return {inner: value for k, v in content.items()
                for inner, value in _flat(
                    v, f'{key}.{k}' if key else k).items()}
    return {key: list(content) if isinstance(content, tuple) else content}


def protocol(cfg: Config, dataset: BaseDataset,
             ignore_index: int | None) -> dict:
    """What two results must share to be compared.

    Args:
        cfg: Config of the test.
        dataset: Data set that was tested.
        ignore_index: Label id that did not count.
    """
    loader = cfg.test_dataloader
    prefix = loader.dataset.get('data_prefix', {}).get('img_path')
    ann_file = loader.dataset.get('ann_file') or None
    test_cfg = cfg.model.get('test_cfg', {})
    slide = test_cfg.get('mode', 'whole') == 'slide'
    classes = dataset.metainfo['classes']
    manifest = _manifest(loader.dataset.get('data_root'))
    return dict(
        dataset=loader.dataset.type,
        split=Path(ann_file or prefix or '').stem or None,
        data_root=loader.dataset.get('data_root'),
        img_path=prefix,
        ann_file=ann_file,
        conversion=manifest.get('options'),
        raw_folders=raw_folders(manifest),
        num_scenes=len(dataset),
        classes=list(classes),
        num_classes=len(classes),
        ignore_index=ignore_index,
        mode='slide' if slide else 'whole',
        window=_pair(test_cfg.crop_size) if slide else None,
        input_size=_pair(test_cfg.get('input_size') or test_cfg.crop_size)
        if slide else None,
        stride=_pair(test_cfg.stride) if slide else None,
        blend=test_cfg.get('blend', 'mean') if slide else None,
        flips=bool(test_cfg.get('flips')),
        windows_per_batch=test_cfg.get('batch_size', 8) if slide else None,
        scenes_per_batch=loader.get('batch_size'),
        context_factors=list(cfg.model.get('context_factors', ())),
        context_reductions=list(cfg.model.get('context_reductions')
                                or cfg.model.get('context_factors', ())))


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _manifest(data_root: str | None) -> dict:
    """What a converter in data_prep/ left; empty if none did."""
    path = Path(data_root or '.') / 'manifest.json'
    return json.loads(path.read_text()) if path.is_file() else {}


def raw_folders(manifest: Mapping) -> list[str] | None:
    """Folders of a download that scenes were made from.

    Args:
        manifest: Content of a ``manifest.json``; None is returned for one
            that does not tell.
    """
    found = {Path(source['path']).parts[0]
             for scene in manifest.get('scenes', ())
             for source in scene.get('sources', ())}
    return sorted(found) or None


def model_name(model: Mapping) -> str | None:
    """Short name such as ``SwinV2-S``; None for other models."""
    backbone = model.get('backbone', {})
    family = FAMILIES.get(str(backbone.get('type')).split('.')[-1])
    arch = backbone.get('arch')
    size = SIZES.get(arch.split('-')[-1]) if isinstance(arch, str) else None
    return f'{family}-{size}' if family and size else None


def peak_memory() -> dict[str, int | None]:
    """Most memory that this process held, without its data workers.

    ``process_bytes`` is its resident memory (None on Windows), ``gpu_bytes``
    what PyTorch allocated on its GPU (None without one).
    """
    peak = None
    if sys.platform != 'win32':
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform != 'darwin':  # which gives bytes
            peak *= 1024
    gpu = torch.cuda.is_available()
    return dict(
        process_bytes=peak,
        gpu_bytes=torch.cuda.max_memory_allocated() if gpu else None)


def device_name() -> str:
    """Name of the GPU, or of the processor's architecture."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'cpu ({platform.machine()}, {torch.get_num_threads()} threads)'


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {name: import_module(name).__version__ for name in PACKAGES}
    return dict(python=platform.python_version()) | found


def strict_json(content: object) -> str:
    """JSON as every reader takes it: null for NaN and infinity."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + '\n'


def _finite(content: object) -> object:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {k: _finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(v) for v in content]
    return content


def read_results(path: str | Path) -> dict:
    """Read a ``results.json`` of this schema.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or of another schema version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / 'results.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is no file; tools/test.py writes results.json to the '
            'work dir.')
    try:
        results = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f'{path} is no JSON ({error}); give a results.json '
                         'that tools/test.py wrote.') from error
    schema = results.get('schema') if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f'{path} is no file of results (schema {schema!r}, not '
            f'{SCHEMA!r}); give a results.json that tools/test.py wrote, '
            'and test again if it is of relay_seg 0.1.0.')
    if results.get('schema_version') != VERSION:
        raise ValueError(
            f'{path} has schema version {results.get("schema_version")}, '
            f'this relay_seg reads {VERSION}; test again.')
    missing = {'metrics', 'model', 'config', 'checkpoint',
               'protocol'} - results.keys()
    if missing:
        raise ValueError(f'{path} misses {sorted(missing)}; test again.')
    # Files that are older than these keys had views of one size.
    protocol = results['protocol']
    protocol.setdefault('input_size', protocol.get('window'))
    protocol.setdefault('context_reductions', protocol.get('context_factors'))
    protocol.setdefault('flips', False)
    return results
