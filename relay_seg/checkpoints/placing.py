"""Which weight of a file goes where in a backbone."""
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from relay_seg.positions import TABLES, fit_position

from .fitting import compare_windows, fit_bands, fit_patches
from .namings import Weights

#: What relay adds; no other model has it.
RELAY = re.compile(
    r'^relay_tokens$|\.relay_bias$|(^|\.)relay_(merge|places?)\.')
#: What LoRA adds.
LORA = re.compile(r'\.lora_[ab]$')
#: Biases that may be left out where they are nothing.
BIASES = re.compile(r'\.attn\.[qv]_bias$')
CLASS_TOKENS = ('cls_token', 'dist_token')
TOKENS = (*CLASS_TOKENS, 'mask_token')
#: Norms of feature maps, and the final norm of ViT.
OUTPUT_NORMS = re.compile(r'^(norm\d|ln1)\.')
TWIN = re.compile(r'^(global_(?:patch_embed|pos_embed))\.\d+')


#: First convolution of a stem.
STEM = re.compile(
    r'^(patch_embed|global_patch_embed\.\d+|layers\.0\.0)'
    r'\.proj(ection)?\.weight')


@dataclass
class Placed:
    """Values for all parameters of a backbone but the new ones.

    Args:
        loaded: From the file.
        copied: Of global stems, from the file's local stem.
        new: Names of parameters that stay as initialised.
        notes: What was changed or left out.
    """

    loaded: Weights
    copied: Weights
    new: list[str]
    notes: list[str] = field(default_factory=list)


def place(weights: Weights, model: nn.Module, bands: str,
          source: str, patches: str = 'error') -> Placed:
    """Find the place of every weight, and a weight for every place.

    Args:
        weights: Of a backbone, under our names.
        model: Backbone, initialised.
        bands: See :func:`relay_seg.checkpoints.fitting.fit_bands`.
        source: File, for errors.
        patches: See :func:`relay_seg.checkpoints.fitting.fit_patches`.

    Raises:
        ValueError: Weights without a place or places without a weight, all
            of them named.
    """
    places: Weights = dict(model.named_parameters())
    notes = compare_windows(weights, model, source)
    loaded = {k: v for k, v in weights.items() if not TABLES.search(k)}
    copied = {}
    locals_ = {twins: local
               for local, twins in getattr(model, 'stem', {}).items()}
    for name in places:
        found = TWIN.match(name)
        if found and name not in loaded:
            local = locals_[found[1]] + name[found.end():]
            if local in loaded:
                copied[name] = loaded[local]
    # Copies are fitted each by itself: a rule may draw bands.
    both = loaded | copied
    changes = _fit(both, places, model, bands, source, patches)
    loaded, copied = ({k: both[k] for k in x} for x in (loaded, copied))
    notes += [f'{k}: {v}' for k, v in changes.items() if k in loaded]

    surplus = [name for name in loaded if name not in places]
    dropped = [name for name in surplus
               if name in TOKENS or OUTPUT_NORMS.match(name)
               or (BIASES.search(name) and not loaded[name].any())]
    surplus = [name for name in surplus if name not in dropped]
    missing = [name for name in places
               if name not in loaded and name not in copied]
    added = [kind for kind in (RELAY, LORA)
             if not any(map(kind.search, loaded))]
    last = f'norm{len(getattr(model, "stages", ())) - 1}.'
    new = [name for name in missing
           if any(kind.search(name) for kind in added)
           or (re.match(r'norm\d\.', name) and not name.startswith(last))]
    missing = [name for name in missing if name not in new]
    other = [name for name, value in loaded.items() if name in places
             and value.shape != places[name].shape]
    if surplus or missing or other:
        raise ValueError(_complaint(surplus, missing, other, loaded, places,
                                    source))
    for name in dropped:
        del loaded[name]
    if dropped:
        notes.append(f'dropped: {", ".join(dropped)}')
    return Placed(loaded, copied, new, notes)


def _fit(weights: Weights, places: Weights, model: nn.Module, bands: str,
         source: str, patches: str) -> dict[str, str]:
    """Fit weights to their places, and say what was done to which."""
    changes = {}
    for name, value in weights.items():
        if name not in places or value.shape == places[name].shape:
            continue
        wanted = places[name].shape
        if STEM.match(name):
            said = []
            if value.shape[2:] != wanted[2:]:
                value = fit_patches(value, wanted[2], patches, source)
                said.append(f'patches of {weights[name].shape[2]} -> '
                            f'{wanted[2]} pixels')
            if value.shape[1] != wanted[1]:
                said.append(f'{value.shape[1]} -> {wanted[1]} bands '
                            f'({bands})')
                value = fit_bands(
                    value, places[name].detach(), bands, source)
            weights[name], changes[name] = value, ', '.join(said)
        elif 'pos_embed' in name:
            grid: Any = model.patch_resolution
            rows: Any = getattr(model, 'prefix_rows', sum(
                t in places for t in CLASS_TOKENS))
            mode: Any = model.interpolate_mode
            weights[name] = fit_position(
                value, tuple(grid), mode,
                class_tokens=sum(t in weights for t in CLASS_TOKENS),
                keep=rows,
                antialias=getattr(model, 'antialias', False),
                name=f'{name} of {source}')
            changes[name] = f'{value.shape[1]} -> {wanted[1]} rows ({mode})'
    return changes


#: If a name like this is (surplus, missing), what helps.
REMEDIES = (
    (r'\.gamma\d\.', 'The file has LayerScale: set layer_scale_init_value '
     'above 0.', 'The file has no LayerScale: set layer_scale_init_value=0.'),
    (r'^global_', 'The file is of a relay model with more views: set '
     'num_views, or run tools/convert_checkpoint.py --to plain.', ''),
    (r'relay_tokens|relay_merge', 'The file is of a relay model: use a relay '
     'backbone, or run tools/convert_checkpoint.py --to plain.', ''),
    (r'relay_bias', "The file has a relay bias: set relay_bias='learned'.",
     "The file's relay tokens have no bias: set relay_bias='zero'."),
    (r'relay_place', "The file has a bias by place: set relay_place='bias'.",
     "The file has no bias by place: set relay_place='none'."),
    (r'\.lora_', 'The file has LoRA: set its lora_rank.',
     "The file's LoRA lacks these: set its lora_rank."),
    (BIASES.pattern, 'The file has biases of queries and values: use the '
     'arch with _qkvb.', 'The file has no biases of queries and values: use '
     'the arch without _qkvb.'),
    (r'^reg_token', 'The file has register tokens: use an arch that has them '
     '(dinov3, reg4_dinov2).', 'The file has no register tokens: use an arch '
     'without them (patch14_dinov2).'),
    (r'^ln1\.', '', 'The file has no final norm: set final_norm=False.'),
)


def _complaint(surplus: list[str], missing: list[str], other: list[str],
               loaded: Weights, places: Weights, source: str) -> str:
    lines = [f'{source} does not fit this model.']
    if surplus:
        lines.append(f'Weights without a place ({len(surplus)}): '
                     + ', '.join(surplus))
    if missing:
        lines.append(f'Places without a weight ({len(missing)}): '
                     + ', '.join(missing))
    if other:
        lines.append(f'Of another shape, file and model ({len(other)}): '
                     + ', '.join(f'{name} {tuple(loaded[name].shape)} '
                                 f'{tuple(places[name].shape)}'
                                 for name in other))
    lines += remedies(surplus, missing) or [
        'Set arch, and what else shapes the backbone, to that of the file.']
    return '\n'.join(lines)


def remedies(surplus: list[str], missing: list[str]) -> list[str]:
    """What helps, if weights of a backbone have no place or are missing.

    Args:
        surplus: Names in the file alone.
        missing: Names in the model alone.
    """
    lines = []
    for pattern, if_surplus, if_missing in REMEDIES:
        for names, remedy in ((surplus, if_surplus), (missing, if_missing)):
            if remedy and any(re.search(pattern, name) for name in names):
                lines.append(remedy)
    return lines


@torch.no_grad()
def assign(placed: Placed, model: nn.Module) -> None:
    """Give parameters their values."""
    places = dict(model.named_parameters())
    for name, value in (placed.loaded | placed.copied).items():
        places[name].copy_(value)
