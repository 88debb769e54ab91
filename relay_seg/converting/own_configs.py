"""Configs for one's own data, ready to train."""
import ast
import os
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

import numpy as np
from mmengine.config import Config

from relay_seg.rasters import open_raster, write_text
from relay_seg.rasters.physical import PIXEL_SLACK, pixel_side

PACKAGE = Path(__file__).resolve().parents[1]
#: The checkout, or what an installation has of it.
ROOT = PACKAGE.parent if (PACKAGE.parent / 'data_prep').is_dir() else (
    PACKAGE / '.mim')
BASES = ROOT / 'configs' / '_base_'
ENDING = '_upernet.py'
FACTOR = 4
#: Classes of a smaller share are drawn as often as others.
RARE = 0.02
#: Models that are trained from scratch learn in larger steps.
RATES = {'swin2_n': 1e-3}
RELAY_TYPES = {'mmpretrain.SwinTransformerV2': 'RelaySwinV2',
               'mmpretrain.VisionTransformer': 'RelayViT',
               'TimmViT': 'RelayTimmViT'}
#: What the plain ViT of the host needs to give feature maps.
PLAIN_ONLY = 'with_cls_token', 'out_type'

DATASET = """\
# Written by data_prep/custom.py, which will write it again.
data_root = {root!r}
metainfo = dict(
    classes={classes},
    palette={palette}{pixel_size})
num_classes = {num_classes}
num_bands = {num_bands}
# Over the {valid} valid pixels of the first band in the train split.
mean = {mean}
std = {std}
data_preprocessor = dict(type='ViewsDataPreprocessor', mean=mean, std=std)
train_pipeline = [
    dict(type='SampleWindow', window={size}),
    dict(type='ReadViews', fill=mean),
    dict(type='FlipViews'),
{photometric}    dict(type='PackViews')
]
test_pipeline = [
    dict(type='ReadScene', num_bands=num_bands),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8,
    num_workers={workers},
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='WindowSampler', samples_per_epoch=4096),
    dataset=dict(
        type='SceneDataset',
        data_root=data_root,
        metainfo=metainfo,
{balanced}        data_prefix=dict(
            img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline))
"""
EVALUATION = """\
{loader}_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SceneDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='img_dir/{split}', seg_map_path='ann_dir/{split}'),
        test_mode=True,
        pipeline=test_pipeline))
{loader}_evaluator = dict(type='ConfusionMetric')
"""
#: The checksum of the rest tells whether somebody changed it.
HEAD = '# Written by data_prep/custom.py; kept once changed. {checksum}\n'
PLAIN = """\
_base_ = [
    {model!r},
    {dataset!r},
    {schedule!r},
    {runtime!r}
]
model = dict(
    data_preprocessor={{{{_base_.data_preprocessor}}}},
    backbone=dict(in_channels={{{{_base_.num_bands}}}}),
    decode_head=dict(num_classes={{{{_base_.num_classes}}}}))
max_iters = {iterations}
{rate}param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,
        end=max(max_iters // 20, 1)),
    dict(
        type='PolyLR', power=1., eta_min=0., by_epoch=False,
        begin=max(max_iters // 20, 1), end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval={interval})
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval={interval}))
"""
RELAY = """\
_base_ = {plain!r}
model = dict(
    type='RelayEncoderDecoder',
    context_factors=({factor}, ),
    backbone={backbone})
train_dataloader = dict(dataset=dict(context_factors=({factor}, )))
"""


@dataclass(frozen=True)
class Wanted:
    """What configs to write.

    Args:
        folder: Where.
        name: Name of the data set.
        model: Its name in configs/_base_/models/.
        iterations: Steps of training.
        scene: A raster to predict, with options, as one types them.
        validates: Whether there are scenes to validate on.
    """

    folder: Path
    name: str
    model: str
    iterations: int
    scene: str
    validates: bool


def next_commands(config: Path, wanted: Wanted) -> list[str]:
    """What to type to train, validate, test and predict."""
    name = shlex.quote(str(config))
    checkpoint = shlex.quote(
        f'work_dirs/{config.stem}/iter_{wanted.iterations}.pth')
    prefix = 'test_dataloader.dataset.data_prefix'
    validate = [
        f'python tools/test.py {name} {checkpoint} --cfg-options '
        f'{prefix}.img_path=img_dir/val {prefix}.seg_map_path=ann_dir/val']
    return [
        f'python tools/train.py {name}', *validate * wanted.validates,
        f'python tools/test.py {name} {checkpoint}',
        f'python tools/predict.py {name} {checkpoint} {wanted.scene}']


def base_model(model: str) -> Config:
    """The config of a model."""
    return Config.fromfile(BASES / 'models' / f'{model}{ENDING}').model


def window_size(model: str) -> tuple[int, int]:
    """Height and width of the windows of a model."""
    return tuple(base_model(model).test_cfg.crop_size)


def pooled(records: Sequence[Mapping]) -> list[dict]:
    """Mean, deviation and number of pixels of each band over scenes.

    Args:
        records: Of scenes, as in a manifest.

    Raises:
        ValueError: A band holds nothing, or one value only.
    """
    bands = []
    for number, scenes in enumerate(zip(*(r['bands'] for r in records)), 1):
        count, mean, std = (np.array([scene[key] for scene in scenes])
                            for key in ('valid', 'mean', 'std'))
        total = count.sum()
        if not total:
            raise ValueError(f'band {number} holds no data in the train '
                             'split; leave it out with --bands.')
        middle = (count * mean).sum() / total
        spread = (count * (std**2 + (mean - middle)**2)).sum() / total
        if not spread > 0:
            raise ValueError(
                f'band {number} is {middle:g} everywhere in the train split; '
                'leave it out with --bands.')
        bands.append(dict(mean=float(middle), std=float(spread**0.5),
                          valid=int(total)))
    return bands


def write_configs(wanted: Wanted, out: Path, classes: Sequence[str],
                  palette: Sequence[Sequence[int]], records: Sequence[Mapping],
                  colours: bool) -> tuple[list[Path], list[Path]]:
    """Write a config of the data, of a plain and of a relay model.

    Args:
        wanted: What to write.
        out: Folder of the converted scenes.
        classes: Names of the classes.
        palette: Their colours.
        records: Of the scenes, as in a manifest.
        colours: Whether the bands are red, green and blue of 8 bits, whose
            brightness and hue may be changed in training.

    Returns:
        Configs of the plain and of the relay model, and those of the two
        that were there already, changed by somebody, and are kept.

    Raises:
        ValueError: The folder has configs of other data of this name.
    """
    datasets = {window_size(wanted.model)} | _written(wanted, out)
    height, _ = window_size(wanted.model)
    dataset = _dataset_file(wanted, height)
    plain = wanted.folder / f'{wanted.model}_{wanted.name}.py'
    relay = wanted.folder / f'rt_{plain.name}'
    dataset.parent.mkdir(parents=True, exist_ok=True)
    for size in datasets:  # others name the classes of before
        write_text(_dataset_file(wanted, size[0]), _dataset_text(
            out, classes, palette, records, colours, size))
    base = _base_of(wanted.folder)
    interval = max(wanted.iterations // 10, min(wanted.iterations, 100))
    rate = RATES.get(wanted.model)
    backbone = base_model(wanted.model).backbone.to_dict()
    kept = []
    for path, text in (
            (plain, PLAIN.format(
                model=f'{base}/models/{wanted.model}{ENDING}',
                dataset=f'datasets/{dataset.name}',
                schedule=f'{base}/schedules/adamw_20k.py',
                runtime=f'{base}/default_runtime.py',
                iterations=wanted.iterations, interval=interval,
                rate=f'optim_wrapper = dict(optimizer=dict(lr={rate}))\n'
                if rate else '')),
            (relay, RELAY.format(
                plain=plain.name, factor=FACTOR,
                backbone=_relay_backbone(backbone)))):
        text += '# Next:\n' + ''.join(
            f'#   {command}\n' for command in next_commands(path, wanted))
        if path.exists() and not _is_as_written(path.read_text()):
            kept.append(path)
        else:
            write_text(path, HEAD.format(checksum=_checksum(text)) + text)
    return [plain, relay], kept


def _dataset_file(wanted: Wanted, height: int) -> Path:
    return wanted.folder / 'datasets' / f'{wanted.name}_{height}.py'


def _written(wanted: Wanted, out: Path) -> set[tuple[int, int]]:
    """Windows of the configs of this data that were written before.

    Raises:
        ValueError: One is of other data.
    """
    found = set()
    for path in wanted.folder.glob(f'datasets/{wanted.name}_*.py'):
        text = path.read_text()
        root = re.search(r'^data_root = (.*)$', text, re.M)
        size = re.search(r'window=\((\d+), (\d+)\)', text)
        if not root or not size or not text.startswith(DATASET[:20]):
            continue
        height, width = map(int, size.groups())
        if path != _dataset_file(wanted, height):
            continue
        other = Path(ast.literal_eval(root[1]))
        if other != out.resolve() and other.is_dir():
            raise ValueError(
                f'{path} is the config of {other}; choose another --name '
                'or another folder with --configs.')
        found.add((height, width))
    return found


def _checksum(text: str) -> str:
    return f'{zlib.crc32(text.encode()):08x}'


def _is_as_written(text: str) -> bool:
    """Whether nobody changed a config since it was written."""
    head, _, body = text.partition('\n')
    return head + '\n' == HEAD.format(checksum=_checksum(body))


def _relay_backbone(plain: dict) -> str:
    """Settings of the relay backbone over those of its plain twin."""
    kind = RELAY_TYPES[plain['type']]
    if not set(PLAIN_ONLY) & set(plain):
        return f'dict(type={kind!r})'
    settings = {'type': kind} | {
        key: value for key, value in plain.items()
        if key not in ('type', *PLAIN_ONLY)}
    lines = ''.join(f'        {key}={value!r},\n'
                    for key, value in settings.items())
    return ('dict(\n        _delete_=True,\n' + lines
            + '        in_channels={{_base_.num_bands}})')


def _base_of(folder: Path) -> str:
    """How configs in a folder name the base configs.

    Relative inside the checkout, so that both may move together.
    """
    folder = folder.resolve()
    if folder.is_relative_to(ROOT):
        return Path(os.path.relpath(BASES, folder)).as_posix()
    return BASES.as_posix()


def _dataset_text(out: Path, classes: Sequence[str],
                  palette: Sequence[Sequence[int]],
                  records: Sequence[Mapping], colours: bool,
                  size: tuple[int, int]) -> str:
    splits = {record['split'] for record in records}
    bands = pooled([r for r in records if r['split'] == 'train'])
    text = DATASET.format(
        root=out.resolve().as_posix(), classes=_listed(tuple(classes)),
        palette=_listed([list(colour) for colour in palette]),
        pixel_size=_pixel_size(out, records),
        num_classes=len(classes), num_bands=len(bands),
        valid=bands[0]['valid'], size=size,
        mean=_listed([float(f'{b["mean"]:.7g}') for b in bands], 4),
        std=_listed([float(f'{b["std"]:.7g}') for b in bands], 4),
        balanced='        class_balanced=True,\n' * _has_rare(records),
        photometric="    dict(type='PhotoMetricViews'),\n" * colours,
        workers=min(4, os.cpu_count() or 1))
    for loader, spare in (('val', 'test'), ('test', 'val')):
        text += EVALUATION.format(
            loader=loader, split=loader if loader in splits else spare)
    return text


def _pixel_size(out: Path, records: Sequence[Mapping]) -> str:
    """Side of a pixel in metres, if all scenes say the same."""
    sides = set()
    for record in records:
        with open_raster(out / record['image']['path']) as raster:
            sides.add(pixel_side(raster))
    size = sides.pop()
    if not size or any(not side or abs(side / size - 1) > PIXEL_SLACK
                       for side in sides):
        return ''
    return f',\n    pixel_size={size:.7g}'


def _has_rare(records: Sequence[Mapping]) -> bool:
    """Whether a class that there is has a small share of train."""
    pixels = np.sum([record['class_pixels'] for record in records
                     if record['split'] == 'train'], axis=0)
    return bool(((0 < pixels) & (pixels < RARE * pixels.sum())).any())


def _listed(values: Sequence, indent: int = 8) -> str:
    """A value in lines of at most 79 characters."""
    text = pformat(values, width=68, compact=True)
    return text.replace('\n', '\n' + ' ' * indent)
