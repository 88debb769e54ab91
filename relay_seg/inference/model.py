"""Models that are ready to predict, and what their classes are called."""
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from relay_seg.checkpoints import (
    check_class_order,
    load_weights,
    local_file,
    meta_of,
    sha256,
    warn_of_settings,
)
from relay_seg.class_ids import spread_colours
from relay_seg.segmentors.slide import SlideEncoderDecoder

from .source import ModelBands


def load_model(config: str | Path | Config, checkpoint: str | Path, *,
               device: str | torch.device | None = None,
               trust: bool = False) -> SlideEncoderDecoder:
    """A trained model, ready to predict.

    Args:
        config: Config file, or config.
        checkpoint: Checkpoint that training wrote.
        device: Where to compute; a GPU by default, where there is one
            (CUDA, or MPS of a Mac).
        trust: Unpickle anything that the checkpoint asks for, which may run
            its code.

    Returns:
        The model in evaluation mode, with the config as ``cfg``, names and
        colours of classes as ``dataset_meta``, and the SHA-256 of the
        checkpoint as ``checkpoint_sha256``.

    Raises:
        ValueError: The device is not there, or the checkpoint does not fit.
    """
    device = _found(get_device() if device is None else device)
    import_module('relay_seg.registered')
    cfg = config if isinstance(config, Config) else Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(model_config(cfg))
    if not isinstance(model, SlideEncoderDecoder):
        raise ValueError(
            f'{type(model).__name__} cannot predict scenes of any size; use '
            'a config with PlainEncoderDecoder or RelayEncoderDecoder.')
    loaded = load_weights(model, checkpoint, trust=trust)
    meta, own = meta_of(loaded).get('dataset_meta'), dataset_meta(cfg)
    check_class_order(loaded, own.get('classes') or (), checkpoint)
    warn_of_settings(loaded, cfg, checkpoint)
    model.cfg = cfg
    model.dataset_meta = (meta if isinstance(meta, dict) else {}) | own
    model.checkpoint_sha256 = sha256(local_file(checkpoint))
    return model.to(device).eval()


def _found(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # not built for it
        raise ValueError(f'device {device} is not there ({error}); use '
                         'another one, such as cpu.') from error


def model_config(cfg: Config) -> dict:
    """The model of a config, with the data preprocessor as runners set it."""
    model = cfg.model.copy()
    if 'data_preprocessor' not in model and 'data_preprocessor' in cfg:
        model['data_preprocessor'] = cfg.data_preprocessor
    return model


def dataset_meta(cfg: Config) -> dict:
    """Facts about the data set that a config tests on."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        if isinstance(dataset, Mapping) and 'type' in dataset:
            kind = DATASETS.get(dataset['type'])
            meta = getattr(kind, 'METAINFO', {})
            return dict(meta) | dict(dataset.get('metainfo') or {})
    return {}


def bands_of(model: SlideEncoderDecoder,
             chosen: Sequence[int] | None = None) -> ModelBands:
    """What a model makes of the bands of a scene.

    Args:
        model: Model with a ``ViewsDataPreprocessor``.
        chosen: Bands to read, the first is 1; those that the config's test
            pipeline reads by default, else all.
    """
    preprocessor = model.data_preprocessor
    if not hasattr(preprocessor, 'mean'):
        raise ValueError(
            f'the data preprocessor {type(preprocessor).__name__} has no '
            'mean and std; use a ViewsDataPreprocessor.')
    preprocessor.check_known()
    mean, std = preprocessor.mean.cpu(), preprocessor.std.cpu()
    fill = tuple(
        float('nan') if i in model.relative_bands else float(value)
        for i, value in enumerate(mean.flatten()))
    if chosen is None:
        chosen = _bands_of_config(getattr(model, 'cfg', None))
    return ModelBands(mean, std, fill, tuple(chosen) if chosen else None)


def _bands_of_config(cfg: Config | None) -> Sequence[int] | None:
    loader = (cfg or {}).get('test_dataloader') or {}
    for step in (loader.get('dataset') or {}).get('pipeline') or ():
        if step.get('type') == 'ReadScene':
            return step.get('bands')
    return None


@dataclass(frozen=True)
class Classes:
    """Names and colours of the classes of a model."""
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def classes_of(model: SlideEncoderDecoder) -> Classes:
    """From ``dataset_meta``; numbers and spread colours where it is silent."""
    count = max(model.num_classes, 2)
    meta = getattr(model, 'dataset_meta', None) or {}
    names = meta.get('classes') or [f'class {i}' for i in range(count)]
    palette = meta.get('palette') or spread_colours(count)
    for what, given in (('classes', names), ('palette', palette)):
        if len(given) < count:
            raise ValueError(
                f'the data set names {len(given)} {what} but the model has '
                f'{count} classes; set metainfo of the dataset in the config.')
    if count > 255:
        raise ValueError(f'the model has {count} classes; a prediction of '
                         'bytes holds 255 and no data.')
    return Classes(tuple(map(str, names[:count])),
                   tuple((int(red), int(green), int(blue))
                         for red, green, blue in palette[:count]))


#: Digests by model, with the state of the weights that they are of.
_DIGESTS: WeakKeyDictionary = WeakKeyDictionary()


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over all weights and buffers; once for each state of them."""
    tensors = dict(sorted(model.state_dict().items()))
    state = [(name, value.data_ptr(), value._version)
             for name, value in tensors.items()]
    known = _DIGESTS.get(model)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f'{name}{tuple(value.shape)}{value.dtype}'.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes()
                      if flat.numel() else b'')
    _DIGESTS[model] = state, digest.hexdigest()
    return _DIGESTS[model][1]
