"""Numbers that the authors published, and how they measured them.

Values: table "Results" of https://github.com/YohannPerron/RelayToken, which
are those of Relay Tokens, TMLR 2026, arXiv 2601.05927. The table is headed
"F1 Score"; the paper speaks of mIoU, and the code computes the Jaccard index,
a mean over all classes in which an absent class counts as 0: ``mIoU_all``.

Protocols: ``configs/data/*.yaml``, ``configs/model/RT_*_S.yaml`` and
``src/data/cityscape_datamodule.py`` there. ``test_overlap: 0.5`` means that
windows of half a window's step are read and only their centres count.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Models of the table: name, relay; with the name that configs/released/ has
#: for them.
MODELS = {
    ('ViT-S', False): 'vit_s',
    ('ViT-S', True): 'rt_vit_s',
    ('SwinV2-S', False): 'swin2_s',
    ('SwinV2-S', True): 'rt_swin2_s',
}
#: Of the models with relay tokens.
CONTEXT_FACTORS = [4]
#: Metric of a result that is the published one.
METRIC = 'mIoU_all'
#: Folder of Gleason's labels that the challenge's annotators agreed on.
MAJORITY = 'Maps_majority'


@dataclass(frozen=True)
class Published:
    """One data set of the table.

    Args:
        title: Name in the table.
        name: Name in configs/, data_prep/ and data/.
        values: Published percent, in the order of :data:`MODELS`.
        protocol: Fields of a result's ``protocol`` that must be these.
        convert: Options of the converter in data_prep/ that the published
            labels need.
    """
    title: str
    name: str
    values: tuple[float, float, float, float]
    protocol: dict
    convert: tuple[str, ...] = ()


def _protocol(dataset: str, split: str, num_scenes: int | None,
              num_classes: int, stride: int) -> dict:
    return dict(
        dataset=dataset, split=split, num_scenes=num_scenes,
        num_classes=num_classes, ignore_index=255, mode='slide',
        window=[256, 256], input_size=[256, 256], stride=[stride, stride],
        blend='center')


#: The table, by the ``dataset`` of a protocol.
PUBLISHED = {p.protocol['dataset']: p for p in (
    Published(
        'Archaeoscape', 'archaeoscape', (46.5, 46.7, 51.9, 57.8),
        _protocol('ArchaeoscapeDataset', 'test', 4, 4, 128)),
    Published(
        'URUR', 'urur', (36.3, 40.4, 41.0, 46.4),
        _protocol('URURDataset', 'test', 571, 8, 256)),
    # The number of cores depends on the download; the split does not.
    Published(
        'Gleason', 'gleason', (33.2, 49.1, 48.1, 55.5),
        _protocol('GleasonDataset', 'test', None, 4, 256),
        ('--votes', 'released')),
    Published(
        'Cityscapes', 'cityscapes', (53.0, 61.0, 68.2, 75.1),
        _protocol('CityscapesSceneDataset', 'frankfurt', 267, 19, 128)),
)}


def differences(result: dict) -> list[str]:
    """Where a result's protocol is not the published one.

    Args:
        result: Content of a ``results.json``.

    Returns:
        'field value (published: value)' each; a data set without published
        numbers differs in the data set.
    """
    found = result['protocol']
    published = PUBLISHED.get(found['dataset'])
    if published is None:
        return [f'dataset {found["dataset"]} (published: none)']
    factors = CONTEXT_FACTORS if result['model']['relay'] else []
    wanted = published.protocol | dict(
        context_factors=factors, context_reductions=factors)
    differ = [
        f'{key} {_show(found.get(key))} (published: {_show(value)})'
        for key, value in wanted.items()
        if value is not None and found.get(key) != value]
    if published.name == 'gleason':
        differ += label_differences(
            found.get('conversion'), found.get('raw_folders'))
    return differ


def label_differences(conversion: Mapping | None,
                      raw_folders: list[str] | None) -> list[str]:
    """Where Gleason's labels are not those of the published numbers.

    Args:
        conversion: Options of the converter; None if it left no manifest.
        raw_folders: Folders that it read.
    """
    if conversion is None:
        return ['conversion unknown (published: votes=released)']
    # Older converters had no such options, and these were their ways.
    zero = conversion.get('zero', 'benign')
    votes = conversion.get('votes', 'classes')
    differ = []
    if zero != 'benign':
        differ.append(f'conversion zero={zero} (published: benign)')
    if (votes not in ('released', 'majority')
            and MAJORITY not in (raw_folders or ())):
        differ.append(f'conversion votes={votes} (published: released)')
    return differ


def _show(value: object) -> str:
    if isinstance(value, list):
        return 'x'.join(map(str, value)) or 'none'
    return 'none' if value is None else str(value)


def training_of(result: dict) -> str:
    """How the weights of a result were trained, in a few words.

    Args:
        result: Content of a ``results.json``.

    Returns:
        'released' for a config of configs/released/ as it stands there; else
        the config, its decoder and what was changed in it.
    """
    config = result['config']
    file, changed = Path(config['file'] or ''), config.get('changed') or {}
    if file.parent.name == 'released' and not changed:
        return 'released'
    head = result['model'].get('decode_head')
    text = f'{file.parent.name}/{file.stem}' + (f' ({head})' if head else '')
    if changed:
        text += ' with ' + ', '.join(f'{k}={v}' for k, v in changed.items())
    return text
