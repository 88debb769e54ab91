"""What is looked at before a training makes its first step."""
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from relay_seg.datasets import (
    SceneConcatDataset,
    SceneDataset,
    WindowSampler,
    parts_of,
)
from relay_seg.datasets.balance import pixels_of_classes
from relay_seg.rasters import choose_bands, open_raster
from relay_seg.transforms import ReadScene, ReadViews, SampleWindow


def check_data(model: Any, dataset: Any, name: str) -> None:
    """Do model and data have as many classes and bands?

    Args:
        model: Segmentor.
        dataset: Data set, or several in one.
        name: What it is for, for messages.

    Raises:
        ValueError: They do not.
    """
    for head, module in heads_of(model):
        losses = module.loss_decode
        for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
            if (module.out_channels == 1
                    and getattr(loss, 'use_sigmoid', None) is False):
                raise ValueError(
                    f'{head} has out_channels=1, one logit of two classes, '
                    f'which {type(loss).__name__} cannot learn from; set '
                    f'model.{head}.loss_decode.use_sigmoid=True, or leave out '
                    'out_channels.')
    for part in parts_of(dataset):
        metainfo: Mapping = getattr(part, 'metainfo', None) or {}
        classes = metainfo.get('classes') or ()
        for head, module in heads_of(model) if classes else ():
            if module.num_classes != len(classes):
                raise ValueError(
                    f'{head} has num_classes={module.num_classes}, the {name} '
                    f'data {len(classes)} classes '
                    f'({", ".join(map(str, classes))}); set '
                    f'model.{head}.num_classes={len(classes)}, or metainfo '
                    'of the data set.')
        if isinstance(part, SceneDataset):
            _check_bands(model, part)


def check_training(model: Any, dataset: Any, sampler: Any,
                   batch_size: int | None, samples: int) -> None:
    """As :func:`check_data`, and what would train badly is said.

    Args:
        model: Segmentor.
        dataset: Data set, or several in one.
        sampler: Of the data loader.
        batch_size: Windows in a batch of one process.
        samples: Windows of one process in an epoch.

    Raises:
        ValueError: Model and data do not fit, no window fits into a scene
            (``min_inside``), no pixel has a label, samples are not drawn as
            the data set says, or a batch is too small for batch norms.
    """
    check_data(model, dataset, 'training')
    _check_batch_norms(model, batch_size or 0, samples)
    for part in parts_of(dataset):
        if isinstance(part, SceneDataset):
            _check_contexts(model, part)
            _check_drawing(part, dataset, sampler)
            _check_windows(part)
            if is_main_process():
                _check_classes(part)


def check_monitors(runner: Runner) -> None:
    """Is what hooks and schedules look at among what is measured?

    Args:
        runner: With a validation. Of metrics that do not tell their names,
            as ``ConfusionMetric`` does, nothing is known.

    Raises:
        ValueError: It is not.
    """
    metrics: Any = runner.val_loop.evaluator.metrics
    if not all(hasattr(metric, 'names') for metric in metrics):
        return
    known = [name for metric in metrics for name in metric.names]
    for what, name in _monitored(runner):
        if name not in known:
            raise ValueError(
                f'{what}={name!r}, but the validation does not measure that; '
                f'use one of {known}.')


def _monitored(runner: Runner) -> Iterator[tuple[str, str]]:
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            for name in hook.save_best or ():
                if name != 'auto':
                    yield 'save_best of CheckpointHook', name
        elif isinstance(hook, EarlyStoppingHook):
            yield 'monitor of EarlyStoppingHook', hook.monitor
    schedules: Any = runner.param_schedulers
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        kind = str(schedule.get('type')) if isinstance(schedule, dict) else ''
        if 'ReduceOnPlateau' in kind:
            yield f'monitor of {kind}', schedule.get('monitor', 'loss')


def heads_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Heads that know classes, with their names in a config."""
    for name in ('decode_head', 'auxiliary_head'):
        head: Any = getattr(model, name, None)
        several = isinstance(head, nn.ModuleList)
        for i, one in enumerate(head if several else [head]):
            if hasattr(one, 'num_classes'):
                yield f'{name}.{i}' if several else name, one


def _check_bands(model: Any, dataset: SceneDataset) -> None:
    mean = getattr(model.data_preprocessor, 'mean', None)
    if mean is None:
        return
    bands = len(mean)
    first = next((m for m in model.backbone.modules()
                  if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != bands:
        raise ValueError(
            f'the backbone has in_channels={first.in_channels}, the data '
            f'preprocessor mean and std of {bands} bands; set '
            f'model.backbone.in_channels={bands}, or mean and std.')
    for step in dataset.pipeline.transforms:
        if isinstance(step, ReadViews):
            what, found = 'fill', len(step.fill)
        elif isinstance(step, ReadScene):
            what, found = 'num_bands', step.num_bands
        else:
            continue
        if found != bands:
            raise ValueError(
                f'{what} of {type(step).__name__} is for {found} bands, mean '
                f'and std are for {bands}; set them alike.')
        with open_raster(dataset.get_data_info(0)['img_path']) as raster:
            choose_bands(raster, step.bands, bands)


def _check_contexts(model: Any, dataset: SceneDataset) -> None:
    """Views of the same sizes may still show other surroundings."""
    if not hasattr(model, 'contexts'):  # none of ours
        return
    for i, name in enumerate(('context_factors', 'context_reductions')):
        ours, theirs = (tuple(context[i] for context in contexts)
                        for contexts in (model.contexts, dataset.contexts))
        if ours != theirs:
            raise ValueError(
                f'model.{name}={ours}, but the training data has '
                f'train_dataloader.dataset.{name}={theirs}; set them alike '
                '(of a plain model the data has none).')


def _check_drawing(part: SceneDataset, dataset: Any, sampler: Any) -> None:
    """Only numbers of ``WindowSampler`` draw, where they get through."""
    numbers = isinstance(sampler, WindowSampler)
    wrapper = _holds_numbers_back(dataset)
    if numbers and wrapper:
        raise ValueError(
            f'{wrapper} does not pass on the numbers of WindowSampler, by '
            'which samples are drawn; leave it out (samples_per_epoch says '
            'how many are drawn) or use the ConcatDataset of mmseg.')
    drawn = 'class_balanced=True' if part.class_balanced else (
        "area='labelled'" if part.area == 'labelled' else None)
    if drawn and not numbers:
        raise ValueError(
            f'{drawn} of the training data needs a WindowSampler, but '
            f'train_dataloader.sampler is {type(sampler).__name__}, which '
            'gives each scene as often; use a WindowSampler.')


def _holds_numbers_back(dataset: Any) -> str | None:
    """The kind of data set around others that draws no samples, if any."""
    if isinstance(dataset, SceneConcatDataset):
        return next(filter(None, map(_holds_numbers_back, dataset.datasets)),
                    None)
    return None if isinstance(dataset, SceneDataset) else (
        type(dataset).__name__)


def _check_batch_norms(model: nn.Module, batch_size: int,
                       samples: int) -> None:
    """Refuse or tell of batch norms that see one window at a time."""
    norms = any(isinstance(m, nn.BatchNorm2d) and m.training
                for m in model.modules())
    single = batch_size == 1
    if not norms or not (single or batch_size and samples % batch_size == 1):
        return
    text = ('a batch of one window (batch_size=1)' if single else
            f'the last batch of an epoch, of one window (batch_size='
            f'{batch_size}, {samples} windows an epoch)')
    remedy = ('use batch_size=2 or more with optim_wrapper.accumulative_counts'
              ', norms without batches (norm_cfg=dict(type="GN", '
              'num_groups=32)), or sync_bn with several GPUs') if single else (
                  'choose a multiple of batch_size for samples_per_epoch, or '
                  'set train_dataloader.drop_last=True')
    pooled = any(isinstance(m, nn.AdaptiveAvgPool2d)
                 and m.output_size in (1, (1, 1)) for m in model.modules())
    if pooled and not getattr(model, 'contexts', ()):
        raise ValueError(
            f'{text} gives batch norms behind a pooling to one pixel a single '
            f'value, of which there is no deviation; {remedy}.')
    if single:
        MMLogger.get_current_instance().warning(
            f'Batch norms learn from {text}: their running means hardly '
            f'settle. Better {remedy}.')


def _check_windows(dataset: SceneDataset) -> None:
    """Say which scenes are smaller than the window."""
    for step in dataset.pipeline.transforms:
        if not isinstance(step, SampleWindow):
            continue
        height, width = step.window
        small = []
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            high, wide = info['scene_shape']
            if high < height or wide < width:
                small.append(f'{info["img_path"]} ({high} x {wide})')
            scale = step.scale_range[0] if step.scale_prob else 1.
            inside = (min(high / (height * scale), 1)
                      * min(wide / (width * scale), 1))
            if step.min_inside is not None and inside < step.min_inside:
                raise ValueError(
                    f'{info["img_path"]} has {high} x {wide} pixels: no '
                    f'window of {height} x {width} lies inside by min_inside='
                    f'{step.min_inside}; use a smaller --window, or take the '
                    'scene out of the split.')
        if small:
            MMLogger.get_current_instance().warning(
                f'{len(small)} of {len(dataset)} training scenes are smaller '
                f'than the window of {height} x {width} pixels, such as '
                f'{small[0]}: the rest of these windows is no data. Use a '
                'smaller --window.')


def _check_classes(dataset: SceneDataset) -> None:
    """Say which classes no label has."""
    names = dataset.metainfo['classes']
    pixels = pixels_of_classes(dataset)
    if pixels is None:
        return
    if not pixels.any():
        raise ValueError(
            f'no pixel of the {len(dataset)} training labels '
            f'({dataset.get_data_info(0)["seg_map_path"]}, ...) is of a '
            'class: all are ignored. Mend the labels or reduce_zero_label.')
    missing = [name for name, count in zip(names, pixels) if not count]
    if missing:
        MMLogger.get_current_instance().warning(
            f'No training label holds {", ".join(map(str, missing))}: the '
            'model will not learn it. Check the split, or leave the class '
            'out of metainfo.')
