"""Configs as the command line changes them, each wish in every place."""
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from math import gcd, lcm
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import MMLogger

from relay_seg.schedules import check_schedules, fit_schedules, run_length

LOADERS = 'train_dataloader', 'val_dataloader', 'test_dataloader'
#: What is read at the top of a config after the file itself.
READ = {
    'model', 'work_dir', *LOADERS, 'train_cfg', 'val_cfg', 'test_cfg',
    'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator',
    'test_evaluator', 'default_hooks', 'custom_hooks', 'data_preprocessor',
    'load_from', 'resume', 'launcher', 'env_cfg', 'log_processor',
    'log_level', 'visualizer', 'default_scope', 'randomness',
    'experiment_name', 'model_wrapper_cfg', 'sync_bn', 'compile',
    'find_unused_parameters', 'activation_checkpointing',
    'efficient_conv_bn_eval', 'gpu_ids', 'band_statistics', 'tta_model',
    'tta_pipeline'}
#: Pixels of the input under a token of the last feature map, by the last
#: part of a backbone's type; 32 for others.
STRIDES = dict(
    RelayViT=16, VisionTransformer=16, RelayTimmViT=16, TimmViT=16)
#: How far a length in metres may be from whole pixels, in pixels.
WHOLE = 1e-3

Size = tuple[int, int]


def load_config(path: str | Path,
                options: Mapping[str, object] | Sequence[str] | None = None,
                *, window: Sequence[str] | None = None,
                input_size: Sequence[str] | None = None,
                pretrained: str | None = None) -> Config:
    """A config file with what a command line asks for.

    Args:
        path: Config file.
        options: Settings to override, by dotted key; or 'key=value' as on
            a command line, see :func:`read_options`.
        window: See :func:`set_window`; None leaves it.
        input_size: Likewise.
        pretrained: See :func:`relay_seg.checkpoints.pretrained.
            set_pretrained`; None leaves it.

    Raises:
        ValueError: An option changes nothing, or is of no use.
    """
    cfg = Config.fromfile(path)
    if options is not None and not isinstance(options, Mapping):
        options = read_options(options)
    fit_schedules(cfg)  # a base may have another length
    schedules, planned = deepcopy(cfg.get('param_scheduler')), run_length(cfg)
    hooks = _hook_types(cfg)
    _refuse_unread(cfg, options or {})
    _refuse_words(cfg, options or {})
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError) as error:  # of lists
        raise ValueError(f'--cfg-options: {error.args[0]}') from error
    _compare_hooks(hooks, _hook_types(cfg))
    _let_workers_go(cfg)
    if planned and cfg.get('param_scheduler') == schedules:
        fit_schedules(cfg, planned[1])
    check_schedules(cfg)
    if window or input_size:
        set_window(cfg, window, input_size)
    if pretrained:
        from relay_seg.checkpoints.pretrained import set_pretrained
        set_pretrained(cfg, pretrained)
    set_statistics(cfg)
    return cfg


def read_options(options: Sequence[str]) -> dict[str, object]:
    """Settings as the host reads them, but with the spaces in them.

    Args:
        options: 'key=value'; values are numbers, text, or lists as in
            '[1,2]' and '(1,2)'.
    """
    found: dict[str, object] = {}
    for option in options:
        key, equals, value = option.partition('=')
        if not equals:
            raise ValueError(f'--cfg-options {option!r} is no key=value.')
        # The host takes out all spaces: those inside of words hide.
        found[key] = _with_spaces(DictAction._parse_iterable(
            re.sub(r'(?<=[^\s,\[(])\s+(?=[^\s,\])])', _hide, value.strip())))
    return found


def _hide(spaces: re.Match) -> str:
    return '\0' * len(spaces[0])


def _with_spaces(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_with_spaces, value))
    return value.replace('\0', ' ') if isinstance(value, str) else value


def _refuse_unread(cfg: Config, options: Mapping[str, object]) -> None:
    """Top-level names that only the config file itself reads change nothing.

    It has been read by now.
    """
    for option in options:
        name = option.split('.')[0]
        if name in READ:
            continue
        places = [key for key in _leaves(cfg) if key.split('.')[0] in READ
                  and key.endswith(f'.{option}')]
        raise ValueError(
            f'--cfg-options {option}=...: nothing reads {name!r} at the top '
            'of a config once the file has been read. '
            + (f'Set {" and ".join(places[:6])}.' if places else
               'Give the whole dotted name, such as train_cfg.max_iters.'))


def _refuse_words(cfg: Config, options: Mapping[str, object]) -> None:
    """Words in the place of numbers are not understood where they arrive."""
    for option, value in options.items():
        before: Any = cfg
        try:
            for name in option.split('.'):
                before = before[
                    int(name) if isinstance(before, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            continue  # is not there yet
        if (isinstance(value, str) and isinstance(before, int | float)
                and not isinstance(before, bool)):
            raise ValueError(f'--cfg-options {option}={value}: the config has '
                             f'a number there, {before}; give one, too.')


def _leaves(value: Any, key: str = '') -> Iterator[str]:
    """Dotted keys of all settings, without those of steps in lists."""
    if isinstance(value, Mapping | Config):
        for name, inner in value.items():
            yield from _leaves(inner, f'{key}.{name}' if key else name)
    else:
        yield key


def _hook_types(cfg: Config) -> list[str]:
    hooks = cfg.get('custom_hooks') or []
    for hook in hooks:
        if not isinstance(hook, Mapping):
            raise ValueError(
                f'custom_hooks holds {hook!r}, which is no hook; to add one '
                'on the command line, name it: default_hooks.NAME.type='
                'EMAHook.')
    return [hook['type'] for hook in hooks]


def _compare_hooks(before: list[str], after: list[str]) -> None:
    gone = [hook for hook in before if hook not in after]
    if gone:
        MMLogger.get_current_instance().warning(
            f'--cfg-options take {", ".join(gone)} out of custom_hooks: the '
            'run goes without. To add a hook, name it: default_hooks.NAME.'
            'type=EMAHook.')


def _let_workers_go(cfg: Config) -> None:
    """PyTorch refuses what says how workers work where there are none."""
    for loader in _loaders(cfg):
        if loader.get('num_workers') or not (
                loader.get('persistent_workers')
                or loader.get('prefetch_factor')):
            continue
        loader.persistent_workers, loader.prefetch_factor = False, None
        MMLogger.get_current_instance().info(
            'num_workers=0: persistent_workers and prefetch_factor are off.')


def set_window(cfg: Config, window: Sequence[str] | None = None,
               input_size: Sequence[str] | None = None) -> None:
    """Set the window and the size it is brought to, wherever they matter.

    That is: sampling in training, the views and their labels, position
    embeddings, attention windows, slide inference and its steps. The share of
    a window that is seen twice stays.

    Args:
        cfg: Config of this package, changed in place.
        window: Height and width of a window, or one number for both: native
            pixels, metres as '128m' or micrometres as '128um'. None keeps
            it.
        input_size: Height and width in pixels to which it is brought before
            the network. None keeps the size of a pixel: a window of twice
            the side is brought to twice the side.

    Raises:
        ValueError: The sizes do not fit each other or the model.
    """
    test_cfg = cfg.model.get('test_cfg') or ConfigDict()
    if test_cfg.get('mode') != 'slide':
        raise ValueError(
            f'{cfg.filename} tests in mode {test_cfg.get("mode")!r}, without '
            'windows; choose a config with mode="slide".')
    old_window = tuple(test_cfg.crop_size)
    old_input = tuple(test_cfg.get('input_size') or old_window)
    new_window = _size(window, cfg) if window else old_window
    if input_size:
        new_input = _size(input_size)
    else:
        new_input = tuple(side * new // old for side, new, old in zip(
            old_input, new_window, old_window))
    if new_window[0] * new_input[1] != new_window[1] * new_input[0]:
        raise ValueError(
            f'a window of {_show(new_window)} pixels brought to '
            f'{_show(new_input)} would be squeezed; give --input of the same '
            'proportions.')
    _check_input(cfg, new_input)

    test_cfg.crop_size, test_cfg.input_size = new_window, new_input
    for place in (test_cfg, test_cfg.get('val') or ConfigDict()):
        if place.get('stride'):
            place.stride = tuple(
                max(round(step * new / old), 1) for step, new, old in zip(
                    place.stride, new_window, old_window))
    backbone = cfg.model.backbone
    if 'img_size' in backbone:
        square = new_input[0] == new_input[1]
        backbone.img_size = new_input[0] if square else new_input
    if 'window_size' in backbone and new_input != old_input:
        _fit_attention(backbone, new_input)
    for loader in _loaders(cfg):
        if 'window' in (loader.get('sampler') or {}):
            loader.sampler.window = new_window
    for step in _training_steps(cfg):
        if step['type'] == 'SampleWindow':
            step['window'], step['input_size'] = new_window, new_input
    cfg.window, cfg.input_size = new_window, new_input
    if any(str(side).endswith('m') for side in window or ()):
        # Scenes with other pixels are refused: the window would be another.
        cfg.window_metres = tuple(side * pixel_size(cfg)
                                  for side in new_window)
        for dataset in _datasets(loader.dataset for loader in _loaders(cfg)):
            dataset.metainfo = dict(
                dataset.get('metainfo') or {}, pixel_size=pixel_size(cfg))


def _size(sides: Sequence[str], cfg: Config | None = None) -> Size:
    """Height and width in pixels of what a command line gives."""
    text = ' '.join(map(str, sides))
    found = [match for side in sides if (
        match := re.fullmatch(r'(\d+(?:\.\d+)?)(u?m)?', str(side)))]
    if not len(found) == len(sides) <= 2:
        raise ValueError(
            f'{text!r} is no size; give one number or height and width, in '
            'pixels such as 512, or for --window in metres such as 128m, or '
            '128um.')
    lengths = []
    for match in found:
        length, pixel = float(match[1]), 1.
        if match[2]:
            if cfg is None:
                raise ValueError(f'--input {text} is in metres; give pixels.')
            pixel = pixel_size(cfg) / (1e-6 if match[2] == 'um' else 1)
        pixels = round(length / pixel)
        if pixels < 1 or abs(length / pixel - pixels) > WHOLE:
            raise ValueError(
                f'{match[0]} are {length / pixel:g} pixels of {pixel:g} '
                f'{match[2]}; use {max(pixels, 1) * pixel:g}{match[2]}.'
                if match[2] else
                f'{match[0]} is no whole number of pixels.')
        lengths.append(pixels)
    return lengths[0], lengths[-1]


def pixel_size(cfg: Config) -> float:
    """Side of a pixel of a config's data in metres.

    From the data set's ``metainfo``, else from its first scene.

    Raises:
        ValueError: Neither says it.
    """
    from relay_seg.inference.model import dataset_meta
    size = dataset_meta(cfg).get('pixel_size')
    if size:
        return float(size)
    for dataset in _datasets(loader.dataset for loader in _loaders(cfg)):
        folder = Path(dataset.get('data_root') or '', (
            dataset.get('data_prefix') or {}).get('img_path') or '')
        suffix = dataset.get('img_suffix', '.tif')
        scene = next(iter(sorted(folder.glob(f'**/*{suffix}'))), None)
        if scene is not None:
            from relay_seg.rasters import open_raster
            from relay_seg.rasters.physical import pixel_side
            with open_raster(scene) as raster:
                size = pixel_side(raster)
            if size:
                return size
            raise ValueError(f'{scene} does not say how large its pixels are; '
                             'give the window in pixels, without m.')
    raise ValueError(
        'the data do not say how large a pixel is; set '
        'metainfo=dict(pixel_size=...) of the data set in metres, or give '
        'the window in pixels, without m.')


def _check_input(cfg: Config, size: Size) -> None:
    """Does the model take views of this size?"""
    backbone = cfg.model.backbone
    kind = str(backbone.type).split('.')[-1]
    from relay_seg.views import contexts_of
    stride = STRIDES.get(kind, 32)
    if kind in STRIDES:  # timm says it in the name
        named = re.search(r'_patch(\d+)', str(backbone.get('arch')))
        stride = (backbone.get('patch_size')
                  or (int(named[1]) if named else stride))
    contexts = contexts_of(cfg.model.get('context_factors', ()),
                           cfg.model.get('context_reductions'))
    multiple = lcm(stride, *(n for k, r in contexts for n in (
        r * (2 - k % 2),  # centres of global views lie on whole pixels
        r * stride // gcd(r * stride, k))))
    if any(side % multiple for side in size):
        near = tuple(max(round(side / multiple), 1) * multiple
                     for side in size)
        raise ValueError(
            f'views of {_show(size)} pixels do not fit {kind}'
            + (f' with context factors {tuple(cfg.model.context_factors)}'
               if contexts else '')
            + f'; use multiples of {multiple}, such as --input '
            f'{" ".join(map(str, near))}.')


def _fit_attention(backbone: ConfigDict, size: Size) -> None:
    """Attention windows that part the token maps without a rest.

    Each becomes the divisor of its map that is nearest to it. Distances in
    it mean what they meant before.
    """
    patch = backbone.get('patch_size', 4)
    old = backbone.window_size
    if isinstance(old, int):  # one for all: the last map is the smallest
        new: int | list[int] = _nearest_divisor(gcd(*size) // (8 * patch), old)
    else:
        new = [_nearest_divisor(gcd(*size) // (patch * 2**i), side)
               for i, side in enumerate(old)]
    if new == old:
        return
    sides = [old] * 4 if isinstance(old, int) else old
    before = backbone.get('pretrained_window_sizes') or [0] * len(sides)
    backbone.pretrained_window_sizes = [
        side or own for side, own in zip(before, sides)]
    backbone.window_size = new
    MMLogger.get_current_instance().info(
        f'Attention windows of {new} in place of {old}, to fit views of '
        f'{_show(size)} pixels.')


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (max(d / wanted, wanted / d), -d))


def set_statistics(cfg: Config) -> None:
    """Fill in mean and deviation that a config takes from its data.

    ``band_statistics=dict(splits=[...])`` at the top of a config asks for
    those of the converted scenes in these splits: the model's data
    preprocessor and the fill of its training views are set, and the config
    then holds numbers. Without the data it stays as it is.
    """
    wanted = cfg.get('band_statistics')
    if not wanted:
        return
    from relay_seg.datasets.balance import band_statistics
    root = cfg.train_dataloader.dataset.get('data_root')
    try:
        found = band_statistics(root, wanted.splits)
    except FileNotFoundError:
        return  # said by whoever needs the numbers
    mean, std = ([float(f'{x:.7g}') for x in part] for part in zip(*found))
    cfg.model.data_preprocessor.update(mean=mean, std=std)
    relative = cfg.model.get('relative_bands', ())
    for step in _training_steps(cfg):
        if step['type'] == 'ReadViews':
            step['fill'] = [None if i in relative else x
                            for i, x in enumerate(mean)]
    cfg.band_statistics = None


def _loaders(cfg: Config) -> Iterator[ConfigDict]:
    for name in LOADERS:
        if (cfg.get(name) or {}).get('dataset'):
            yield cfg[name]


def _datasets(cfgs: Iterable[ConfigDict]) -> Iterator[ConfigDict]:
    """Data sets, those inside of wrappers too."""
    for cfg in cfgs:
        inside = cfg.get('datasets') or (
            [cfg.dataset] if cfg.get('dataset') else [])
        yield from _datasets(inside) if inside else [cfg]


def _training_steps(cfg: Config) -> Iterator[ConfigDict]:
    """Steps of the training pipeline, wherever a config holds it."""
    pipelines = [cfg.get('train_pipeline') or ()]
    loader = cfg.get('train_dataloader') or ConfigDict()
    if loader.get('dataset'):
        pipelines += [dataset.get('pipeline') or ()
                      for dataset in _datasets([loader.dataset])]
    for pipeline in pipelines:
        yield from pipeline


def _show(size: Size) -> str:
    return ' x '.join(map(str, size))
