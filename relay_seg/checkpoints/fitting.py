"""Weights of one model made to fit another of other sizes."""
from math import log2

import torch
from torch import Tensor, nn

from .namings import Weights

PATCHES = ('error', 'resample')
BANDS = ('error', 'repeat-mean', 'rgb+random', 'rgb+zero', 'rgb+normal')


def fit_bands(weight: Tensor, initial: Tensor, rule: str,
              source: str) -> Tensor:
    """Fit a patch embedding to another number of bands.

    Args:
        weight: Of the file, (D, bands, P, P).
        initial: Of the model as initialised, (D, other bands, P, P).
        rule: 'repeat-mean': every band gets the mean of the file's, scaled
            so that a grey image gives what it gave. 'rgb+random',
            'rgb+zero' and 'rgb+normal': the first three bands are red, green
            and blue, the others start as initialised, at zero, or drawn from
            N(0, 1) at each call. 'error': an error.
        source: File, for the error.
    """
    found, wanted = weight.shape[1], initial.shape[1]
    if found == wanted:
        return weight
    if rule == 'repeat-mean':
        mean = weight.mean(dim=1, keepdim=True) * (found / wanted)
        return mean.repeat(1, wanted, 1, 1)
    where = f'{source} is for {found} bands, in_channels={wanted}'
    if rule == 'error':
        raise ValueError(
            f'{where}; say what to do as bands=... of init_cfg: one of '
            f'{list(BANDS[1:])}.')
    if found != 3 or wanted < 3:
        raise ValueError(f'{where}; bands={rule!r} is for a file of 3 bands '
                         "and a model of more: use bands='repeat-mean'.")
    others = initial[:, 3:].to(weight)
    if rule == 'rgb+zero':
        others = torch.zeros_like(others)
    elif rule == 'rgb+normal':
        others = torch.randn_like(others)
    return torch.cat((weight, others), dim=1)


def fit_patches(weight: Tensor, side: int, rule: str, source: str) -> Tensor:
    """Fit a patch embedding to patches of another size.

    Args:
        weight: Of the file, (D, bands, P, P).
        side: Pixels of a side that are wanted.
        rule: 'resample': so that an image that is resized gives what it gave
            (FlexiViT, arXiv 2212.08013; needs timm). 'error': an error.
        source: File, for the error.
    """
    if rule == 'error':
        raise ValueError(
            f'{source} has patches of {weight.shape[2]} pixels, this model '
            f'of {side}: they see other things, and are not resized. Use a '
            f'file with patches of {side}, or patch_size={weight.shape[2]} '
            'and windows that are a multiple of it, or say '
            "patches='resample' in init_cfg.")
    try:
        from timm.layers import resample_patch_embed
    except ImportError as error:
        raise ImportError("patches='resample' needs timm; run pip install "
                          "'relay-seg[timm]'.") from error
    return resample_patch_embed(weight, [side, side])


def attention_windows(tables: Weights) -> dict[str, tuple[int, int]]:
    """Attention window, and that of pretraining, by coordinate table.

    Args:
        tables: Weights, of which those of other names do not matter.
    """
    windows = {}
    for name, table in tables.items():
        if name.endswith('relative_coords_table') and table.shape[1] > 1:
            size = (table.shape[1] + 1) // 2
            widest = table.max().item() * log2(8)  # log2(1 + 8 * (M-1)/(p-1))
            windows[name] = size, 1 + round(8 * (size - 1) / (2**widest - 1))
    return windows


def compare_windows(weights: Weights, model: nn.Module,
                    source: str) -> list[str]:
    """Say where attention windows of file and model differ.

    Tables of relative positions always follow the model's config.

    Raises:
        ValueError: The windows are of one size but the file scales distances
            by those of its own pretraining and the model does not.
    """
    theirs = attention_windows(weights)
    ours = attention_windows(dict(model.named_buffers()))
    both = [name for name in ours if name in theirs]
    if all(theirs[name] == ours[name] for name in both):
        return []
    by_stage = {name.split('.')[1]: name for name in both}
    scales = [theirs[name][1] for name in by_stage.values()]
    remedy = f'pretrained_window_sizes={scales}'
    if any(theirs[n][0] == ours[n][0] and theirs[n] != ours[n] for n in both):
        raise ValueError(
            f'{source} has the attention windows of this model but scales '
            f'distances in them by others; use {remedy}.')
    text = 'attention windows {} -> {}'.format(
        *([w[name][0] for name in by_stage.values()] for w in (theirs, ours)))
    if any(theirs[name][1] != ours[name][1] for name in both):
        text += (', position bias stretched to fit; '
                 f'{remedy} keeps it by distance')
    return [text]
