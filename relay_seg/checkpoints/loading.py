"""Weights of a trained model, into the model of its config."""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from . import authors
from .content import check_finite, meta_of, model_weights
from .errors import CheckpointError
from .placing import remedies
from .reading import read_checkpoint

#: Buffers that a model makes itself, whatever a file says.
DERIVED = ('num_batches_tracked', 'relative_position_index',
           'relative_coords_table')
#: Layers of heads whose shape is that of the classes.
CLASSIFIERS = re.compile(
    r'^(decode|auxiliary)_head\.(\d+\.)?(conv_seg|upsample)\.')
RELAY = ('relay_tokens', 'global_patch_embed', 'global_pos_embed',
         'relay_bias', 'relay_place')


def load_weights(model: nn.Module, source: str | Path, *,
                 trust: bool = False) -> dict:
    """Load what training wrote; every weight must find its place.

    Models that the authors of the method trained get our names first.

    Args:
        model: Segmentor built from the checkpoint's config.
        source: Local path or URL.
        trust: See :func:`read_checkpoint`.

    Returns:
        The checkpoint, with its ``meta``.

    Raises:
        CheckpointError: The file does not fit, or has weights that are NaN
            or infinite; the message says in what.
    """
    checkpoint = read_checkpoint(source, trust=trust)
    place_weights(model, checkpoint, source)
    return checkpoint


def place_weights(model: nn.Module, checkpoint: dict,
                  source: str | Path) -> None:
    """Load weights that were read already, as :func:`load_weights` does.

    Args:
        model: May be wrapped, for several processes or test augmentation.
        checkpoint: With or without ``state_dict`` around the weights.
        source: Where it comes from, for messages.
    """
    model = _inner(model)
    weights = with_our_names(
        model, model_weights(checkpoint, source), source)
    places = model.state_dict()
    missing = _but_derived(places.keys() - weights.keys())
    unexpected = _but_derived(weights.keys() - places.keys())
    if missing or unexpected:
        raise CheckpointError(_misfit(
            source, checkpoint, weights, places, missing, unexpected))
    weights = {k: v for k, v in weights.items() if k in places}
    check_finite(weights, source)
    try:
        # What is derived may be missing: nothing else is, see above.
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a shape that no rule of the model fits
        raise CheckpointError(_misfit(
            source, checkpoint, weights, places, [], [])) from error


def with_our_names(model: nn.Module, weights: Mapping[str, Tensor],
                   source: str | Path) -> Mapping[str, Tensor]:
    """Weights of a model of the authors under our names; others as they are.

    Args:
        model: May be wrapped.
        weights: All weights of a file.
        source: Where they come from, for messages.
    """
    if not authors.is_theirs(weights):
        return weights
    weights, notes = authors.to_ours(weights, _inner(model), str(source))
    MMLogger.get_current_instance().info('\n  '.join(notes))
    return weights


def with_own_classifier(model: nn.Module, weights: Mapping[str, Tensor],
                        source: str | Path) -> Mapping[str, Tensor]:
    """Weights of a model of other classes, with this one's classifiers.

    It is said in the log. Weights of as many classes stay as they are.

    Args:
        model: May be wrapped.
        weights: All weights of a file, under our names.
        source: Where they come from, for messages.
    """
    own = {key: value for key, value in _inner(model).state_dict().items()
           if CLASSIFIERS.search(key) and key in weights
           and value.shape != weights[key].shape}
    if not own:
        return weights
    MMLogger.get_current_instance().warning(
        f'{source} tells other classes apart: all of its weights are taken '
        f'but {", ".join(own)}, which begin anew.')
    return dict(weights) | own


def _inner(model: nn.Module) -> nn.Module:
    """A model without what is wrapped around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def check_class_order(checkpoint: dict, names: Sequence[str],
                      source: str | Path) -> None:
    """Weights know classes by their place alone.

    Raises:
        CheckpointError: A checkpoint has the classes in another order.
    """
    meta = meta_of(checkpoint).get('dataset_meta')
    known = meta.get('classes') if isinstance(meta, Mapping) else None
    before, now = ([str(name) for name in some or ()]
                   for some in (known, names))
    if before != now and sorted(before) == sorted(now):
        raise CheckpointError(
            f'{source} was trained on the classes {before}, in this order; '
            f'the config has {now}. Use the config that it was trained with, '
            'or train again.')


def _but_derived(names: set[str]) -> list[str]:
    return sorted(n for n in names if not n.endswith(DERIVED))


def _misfit(source: str | Path, checkpoint: dict,
            weights: Mapping[str, Tensor], places: Mapping[str, Tensor],
            missing: list[str], unexpected: list[str]) -> str:
    """What differs between a file and a model, and what to do about it."""
    shapes = sorted(k for k, v in places.items() if k in weights
                    and v.shape != weights[k].shape)
    lines = [f'{source} does not fit the model of this config.']
    meta = meta_of(checkpoint)
    if 'experiment_name' in meta:
        lines.append(f'It was written by {meta["experiment_name"]}.')
    lines += (_kind(weights, places) or _backbone(weights, places)
              or [*_bands(weights, places), *_classes(weights, places),
                  *_decoder(weights, places),
                  *remedies(_of_backbone(unexpected), _of_backbone(missing))])
    if len(lines) < 2 or not (missing or unexpected or shapes):
        lines.append('Build the model from the config of the checkpoint.')
    lines += _listed('weights that the model needs and the file lacks',
                     missing)
    lines += _listed('weights of the file without a place', unexpected)
    lines += _listed('weights of another shape', [
        f'{k} {tuple(weights[k].shape)} for {tuple(places[k].shape)}'
        for k in shapes])
    return '\n  '.join(lines)


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = ', ...' if len(names) > 10 else ''
    return [f'{len(names)} {what}: {", ".join(names[:10])}{more}']


def _kind(weights: Mapping, places: Mapping) -> list[str]:
    """A plain file for a relay model, or the other way round."""
    file, model = (any(part in k for k in x for part in RELAY)
                   for x in (weights, places))
    if file == model:
        return []
    names = 'relay', 'plain'
    theirs, ours = names if file else names[::-1]
    return [f'The checkpoint is of a {theirs} model, the config of a {ours} '
            f'one: use a config in configs/{file}, or convert it with '
            f'tools/convert_checkpoint.py --to {ours}.']


def _backbone(weights: Mapping, places: Mapping) -> list[str]:
    """Too few weights in common to be the same architecture."""
    wanted = [k for k in places if k.startswith('backbone.')
              and not k.endswith(DERIVED)]
    fitting = [k for k in wanted
               if k in weights and weights[k].shape == places[k].shape]
    if not wanted or len(fitting) >= 0.8 * len(wanted):
        return []
    return [f'Its backbone is another one: {len(fitting)} of {len(wanted)} '
            'weights of the backbone have the name and the shape of the '
            'model. Use the config that the checkpoint was trained with '
            "(it is inside, under meta['cfg'])."]


def _of_backbone(names: list[str]) -> list[str]:
    return [name.removeprefix('backbone.') for name in names
            if name.startswith('backbone.')]


def _decoder(weights: Mapping, places: Mapping) -> list[str]:
    """The authors' decoder for a model with another."""
    layer = 'decode_head.upsample.weight'
    if layer not in weights or layer in places:
        return []
    return ['Its decoder is a LinearHead, that of the model another one: use '
            'a config with a LinearHead.']


def _bands(weights: Mapping, places: Mapping) -> list[str]:
    key = next((k for k in places if k.endswith('patch_embed.projection'
                                                '.weight')), None)
    if key not in weights or weights[key].ndim != 4:
        return []
    file, model = weights[key].shape[1], places[key].shape[1]
    if file == model:
        return []
    return [f'It was trained on {file} bands, the model takes {model}: set '
            f'in_channels={file} in the backbone and give the data set and '
            f'the preprocessor (bands, mean, std) {file} bands.']


def _classes(weights: Mapping, places: Mapping) -> list[str]:
    for layer, dim in (('conv_seg.weight', 0), ('decode_head.upsample.weight',
                                                1)):
        for key in places:
            if not key.endswith(layer) or key not in weights:
                continue
            file, model = weights[key].shape[dim], places[key].shape[dim]
            if file != model:
                return [f'It tells {file} classes apart, the model {model}: '
                        f'set num_classes={file} in {key.split(".")[0]}, or '
                        'give it as load_from to a training without --resume, '
                        'where the classifier begins anew.']
    return []
