"""Checkpoints of one naming turned into those of another."""
from itertools import product
from pathlib import Path

from relay_seg.positions import TABLES

from .authors import our_head
from .content import meta_of
from .namings import (
    Naming,
    Weights,
    find_naming,
    mmpretrain,
    timm,
    timm_vit,
)
from .placing import CLASS_TOKENS, LORA, RELAY, TOKENS, TWIN
from .pretrained import share, summary
from .reading import read_checkpoint
from .unwrapping import Unwrapped, split, unwrap
from .writing import write_checkpoint

TARGETS = ('mmpretrain', 'timm', 'relay', 'plain')
PLAIN: dict[str, dict[str | None, Naming]] = {
    'mmpretrain': {'ViT': mmpretrain.VIT, 'SwinV2': mmpretrain.SWINV2},
    'timm': {'ViT': timm.VIT, 'SwinV2': timm.SWINV2,
             timm_vit.FAMILY: timm_vit.PLAIN},
}
#: Parts of our segmentors beside the backbone.
SEGMENTOR = ('neck.', 'decode_head.', 'auxiliary_head.')


def convert_checkpoint(source: str, out: str | Path, target: str, *,
                       num_views: int = 2, prefix: str | None = None,
                       trust: bool = False) -> str:
    """Turn a checkpoint into one of another naming or kind.

    ``mmpretrain`` and ``timm`` give a bare plain backbone, with what LoRA
    learned added to its weights. ``relay`` and
    ``plain`` give a segmentor if the file holds one, and a bare backbone
    otherwise: ``plain`` leaves out what relay adds, ``relay`` gives the
    global views copies of the local stem where they have none. Relay tokens
    of a file without any are not invented: a relay model starts them.

    Args:
        source: Path or URL of any file that relay_seg can load.
        out: File to write, ``.pth``.
        target: One of :data:`TARGETS`.
        num_views: Views of ``relay``, the local one included.
        prefix: Of the backbone's weights in the file; found out by default.
        trust: See :func:`relay_seg.checkpoints.read_checkpoint`.

    Returns:
        A report of what was kept, copied and dropped.
    """
    if target not in TARGETS:
        raise ValueError(f'to={target!r}; use one of {TARGETS}.')
    check_out(source, out)
    if Path(out).exists():
        raise ValueError(f'{out} is there already; remove it, or give another '
                         'OUT.')
    content = read_checkpoint(source, trust=trust)
    weights = unwrap(content, str(source))
    parts = split(weights, str(source), prefix)
    naming = find_naming(parts.backbone, str(source))
    ours, unknown = naming.to_ours(parts.backbone)
    if unknown or parts.strange:
        raise ValueError(
            f'{source} has weights that {naming.family} of {naming.name} do '
            f'not have: {", ".join(unknown + parts.strange)}')

    kept, copied, dropped = _backbone(ours, naming, target, num_views)
    head = _heads(parts) if target in ('relay', 'plain') else {}
    dropped += [k for k in parts.others if k not in head
                and our_head(k) not in head]
    numel = sum(v.numel() for k, v in (kept | head).items()
                if not TABLES.search(k))
    state = kept | copied
    if head:
        state = {f'backbone.{k}': v for k, v in state.items()} | head
    # A view would be written with all that it is a view of.
    state = {k: v.detach().clone() for k, v in state.items()}

    meta = dict(converted=dict(file=Path(str(source)).name, to=target,
                               named_as_by=naming.name))
    before = meta_of(content)
    if 'dataset_meta' in before:
        meta['dataset_meta'] = before['dataset_meta']
    write_checkpoint(dict(meta=meta, state_dict=state), out)

    total = sum(v.numel() for k, v in weights.items() if not TABLES.search(k))
    lines = [f'{share(numel, total)} from {source}, named as by '
             f'{naming.name}, in {out}']
    if dropped:
        lines.append(f'dropped: {summary(dropped)}')
    if copied:
        lines.append(f'copies of the local stem: {summary(copied)}')
    if target == 'relay' and not any(RELAY.search(k) for k in kept):
        lines.append('no relay tokens in the file: a relay model starts them')
    return '\n  '.join(lines)


def check_out(source: str, out: str | Path) -> None:
    """Refuse to write where it would do harm."""
    out = Path(out)
    if out.exists() and Path(str(source)).exists() and out.samefile(source):
        raise ValueError(f'{out} is the file to read; give another OUT.')
    if out.suffix != '.pth':
        raise ValueError(f'{out} does not end in .pth, which is what is '
                         'written; give such a name.')
    if not out.parent.is_dir():
        raise FileNotFoundError(f'{out.parent} is no folder; make it first.')


def _backbone(ours: Weights, naming: Naming, target: str,
              num_views: int) -> tuple[Weights, Weights, list[str]]:
    """Weights kept, copies of stems, and names dropped."""
    copied = {}
    if target == 'relay':
        # RelayViT has no place for class tokens and their rows.
        dropped = [k for k in ours if k in TOKENS and naming.family == 'ViT']
        tokens = sum(k in CLASS_TOKENS for k in dropped)
        kept = {k: v for k, v in ours.items() if k not in dropped}
        if tokens and _has_rows(ours, tokens):
            kept['pos_embed'] = ours['pos_embed'][:, tokens:]
        for view in range(num_views - 1):
            for (local, twins), key in product(naming.stems, kept):
                if key == local or key.startswith(f'{local}.'):
                    twin = f'{twins}.{view}{key[len(local):]}'
                    if twin not in kept:
                        copied[twin] = kept[key]
        return kept, copied, dropped

    if target in PLAIN and naming.family not in PLAIN[target]:
        raise ValueError(
            f'{target} has no {naming.family} whose names are known here; '
            'use --to plain for the names of MMSegmentation.')
    dropped = [k for k in ours if RELAY.search(k) or TWIN.match(k)]
    kept = {k: v for k, v in ours.items() if k not in dropped}
    if target == 'timm':
        dropped += [k for k in kept if TABLES.search(k)]
        kept = {k: v for k, v in kept.items() if not TABLES.search(k)}
    if target in PLAIN:
        kept = _without_lora(kept)
        kept, left = PLAIN[target][naming.family].from_ours(kept)
        dropped += left
    return kept, copied, dropped


def _without_lora(weights: Weights) -> Weights:
    """Weights with what LoRA learned beside them added: W + BA."""
    merged = {k: v for k, v in weights.items() if not LORA.search(k)}
    for layer in {LORA.sub('', k) for k in weights.keys() - merged.keys()}:
        names = [f'{layer}.{part}' for part in ('weight', 'lora_b', 'lora_a')]
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(f'the LoRA of {layer} lacks '
                             f'{", ".join(missing)}: the file is not whole.')
        plain, b, a = (weights[name] for name in names)
        merged[names[0]] = (plain.float() + b.float() @ a.float()).to(plain)
    return merged


def _has_rows(ours: Weights, tokens: int) -> bool:
    """Whether class tokens have rows, as in all models but DeiT-III."""
    rows = ours['pos_embed'].shape[1]
    return round((rows - tokens)**0.5)**2 == rows - tokens


def _heads(parts: Unwrapped) -> Weights:
    """Neck and heads of a segmentor under our names; none of classifiers."""
    renamed = {our_head(k): v for k, v in parts.others.items()}
    return {k: v for k, v in renamed.items() if k.startswith(SEGMENTOR)}
