"""Settings that no weight tells, of a checkpoint and of a config."""
import ast
import re
from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmseg.registry import MODELS

from .content import meta_of

#: Parts of a model whose arguments are compared.
PARTS = 'data_preprocessor', 'backbone', 'decode_head'
#: Arguments that matter in training alone, or that weights tell.
OTHERS = re.compile(
    r'type|_scope_|init_cfg|pretrained|train_cfg|test_cfg|auxiliary_head|neck'
    r'|loss_.*|.*drop.*|frozen.*|with_cp|norm_cfg|norm_eval|sampler|img_size'
    r'|ignore_index|num_classes|channels_last|non_blocking|'
    + '|'.join(PARTS))
#: Longest text of a config that is read.
LONGEST = 10**6


class _Unknown:
    """A value that was not read: it may be any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return '...'


UNKNOWN = _Unknown()


def warn_of_settings(checkpoint: Mapping, cfg: Any,
                     source: str | Path) -> None:
    """Say which settings a model was trained with and does not have now.

    Those of training are read from the text of the config in the
    checkpoint, as plain values: nothing of it is run.

    Args:
        checkpoint: With its ``meta``; without, nothing is said.
        cfg: The ``Config`` in use.
        source: Where the checkpoint comes from.
    """
    text = meta_of(checkpoint).get('cfg')
    before = parse_config(text) if isinstance(text, str) else {}
    now = _plain(cfg.to_dict())
    differing = list(_differing(before, now))
    if differing:
        MMLogger.get_current_instance().warning(
            f'{source} was trained with other settings, which its weights do '
            f'not tell: {"; ".join(differing)}. What it predicts may be of no '
            'use, unless this is meant; use the config that it was trained '
            'with.')


def parse_config(text: str) -> dict[str, Any]:
    """Plain values that the text of a config sets, without running it.

    Args:
        text: As the host writes it: NAME = VALUE, with dict(...) calls.

    Returns:
        Lists are tuples; what is no plain value equals any other.
    """
    try:
        lines = ast.parse(text[:LONGEST]).body
        return {line.targets[0].id: _value(line.value) for line in lines
                if isinstance(line, ast.Assign)
                and isinstance(line.targets[0], ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(
            node.keys, node.values)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id == 'dict' and not node.args):
        return {part.arg: _value(part.value) for part in node.keywords
                if part.arg}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN


def _plain(value: Any) -> Any:
    """Lists as tuples, as :func:`parse_config` gives them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else (
        value)


def _differing(before: Mapping, now: Mapping) -> Iterator[str]:
    models = [_part(cfg, 'model') for cfg in (before, now)]
    if not all(models):
        return
    arguments = [_arguments('model', *models)]
    for part in PARTS:
        found = [_part(model, part) or _part(cfg, part)
                 for model, cfg in zip(models, (before, now))]
        if all(found):
            arguments.append(_arguments(f'model.{part}', *found))
    arguments.append(_scene(before, now))
    for pairs in arguments:
        for name, (old, new) in pairs.items():
            if old != new:
                yield f'{name}={old!r}, here {new!r}'


def _arguments(name: str, before: Mapping,
               now: Mapping) -> dict[str, tuple[Any, ...]]:
    """Arguments of a part of the model, before and now."""
    defaults = _defaults(now.get('type'))
    sides = [defaults | dict(side) for side in (before, now)]
    for side in sides:
        if side.get('context_reductions', 0) is None:
            side['context_reductions'] = side.get('context_factors')
    return {f'{name}.{key}': tuple(side.get(key, UNKNOWN) for side in sides)
            for key in sorted({*before, *now}) if not OTHERS.fullmatch(key)}


def _defaults(kind: Any) -> dict[str, Any]:
    """What a part of a model is built with where a config is silent."""
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    return {name: _plain(p.default) for base in reversed(
        getattr(found, '__mro__', ()))
        for name, p in signature(base.__init__).parameters.items()
        if p.default is not Parameter.empty}


def _scene(before: Mapping, now: Mapping) -> dict[str, tuple[Any, ...]]:
    """What a window shows: its sides, and the bands that are read."""
    sides = []
    for cfg in (before, now):
        windows = _part(_part(cfg, 'model'), 'test_cfg')
        crop = windows.get('crop_size', UNKNOWN)
        dataset = _part(_part(cfg, 'test_dataloader'), 'dataset')
        steps = dataset.get('pipeline')
        steps = steps if isinstance(steps, tuple) else ()
        bands = [step.get('bands') for step in steps
                 if _part(dict(step=step), 'step').get('type') == 'ReadScene']
        sides.append({
            'model.test_cfg.crop_size': crop,
            'model.test_cfg.input_size': windows.get('input_size') or crop,
            'bands of ReadScene': bands[0] if bands else UNKNOWN})
    return {name: tuple(side[name] for side in sides) for name in sides[0]}


def _part(settings: Mapping, name: str) -> Mapping:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}
