"""What a prediction is computed from."""
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

import relay_seg
from relay_seg.rasters import changed, identity
from relay_seg.segmentors.slide import SlideEncoderDecoder

from .model import Classes, ModelBands, weights_digest
from .plan import Plan
from .settings import Settings

#: Settings that change nothing of what class ids are computed from.
LATER = frozenset((
    'block', 'threads', 'output_format', 'polygons', 'min_area',
    'simplify', 'preview', 'stac', 'truth', 'cuda_graph', 'overwrite'))
#: Attributes of modules that are no settings.
NO_SETTINGS = frozenset(('training', 'cfg', 'dataset_meta', 'init_cfg'))


class Inputs:
    """Files that a scene is read from, as they are now.

    To be made before they are read.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.identities = {str(path): identity(path) for path in paths}

    def check(self) -> None:
        """Are they still as they were?

        Raises:
            ValueError: They are not.
        """
        for path, before in self.identities.items():
            if names := changed(before, path):
                raise ValueError(
                    f'{path} changed while it was read '
                    f'({", ".join(names[:3])}), so no output is written; run '
                    'the same command again when nobody writes to it.')


def signature_of(model: SlideEncoderDecoder, inputs: Inputs, bands: ModelBands,
                 plan: Plan, classes: Classes, settings: Settings) -> dict:
    """What the class ids of a scene follow from, as JSON gives it back."""
    found = dict(
        relay_seg=relay_seg.__version__,
        inputs=list(inputs.identities.values()),
        model=model_digest(model), weights=weights_digest(model),
        mean=bands.mean.flatten().tolist(),
        std=bands.std.flatten().tolist(),
        bands=[str(bands.fill), bands.chosen],
        plan=[plan.size, plan.stride, plan.block, plan.blend,
              model.test_cfg.get('batch_size'), plan.contexts,
              plan.input_size],
        classes=asdict(classes),
        settings={k: v for k, v in asdict(settings).items()
                  if k not in LATER})
    return json.loads(json.dumps(found, default=str))


def fingerprint(signature: dict, output_format: str) -> str:
    """What an output says of itself, to be known again."""
    text = json.dumps(signature | dict(format=output_format), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def model_digest(model: torch.nn.Module) -> str:
    """SHA-256 over what a model computes with, weights apart.

    That is its config, if it has one, and the plain attributes of its
    modules, which may have been set since.
    """
    cfg = getattr(model, 'cfg', None) or {}
    facts = [cfg.get('model')]
    for name, module in model.named_modules():
        facts.append((name, type(module)))
        facts += [(name, key, value)
                  for key, value in sorted(vars(module).items())
                  if not key.startswith('_') and key not in NO_SETTINGS
                  and _is_plain(value)]
    text = json.dumps(facts, default=lambda value: getattr(
        value, '__qualname__', type(value).__qualname__))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)
