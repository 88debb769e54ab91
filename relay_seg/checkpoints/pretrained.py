"""``init_cfg=dict(type='Pretrained')`` that tells what it did."""
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmseg.registry import WEIGHT_INITIALIZERS
from torch import nn

from relay_seg.backbones import RelayTimmViT
from relay_seg.init_cfg import PRETRAINED

from .content import check_finite
from .downloading import URLS, fetch, local_file
from .fitting import BANDS, PATCHES
from .namings import Naming, find_naming, timm_vit
from .placing import assign, place
from .reading import read_checkpoint
from .unwrapping import split, unwrap

#: What to do without the file of a config.
OTHERWISE = (', or train from random weights (tools/train.py --pretrained '
             'none)')


@WEIGHT_INITIALIZERS.register_module()
def load_pretrained(model: nn.Module, checkpoint: str,
                    prefix: str | None = None, bands: str = 'error',
                    patches: str = 'error', trust: bool = False) -> str:
    """Load weights of any known naming into a backbone; log what was done.

    In a run of several processes all must call it: one downloads.

    Args:
        model: A relay backbone or its plain twin of the host; initialised.
        checkpoint: Local path or URL.
        prefix: Of the backbone's weights in the file; found out by default.
        bands: What to do if the file is for another number of bands, see
            :func:`relay_seg.checkpoints.fitting.fit_bands`.
        patches: What to do if the file is for patches of another size, see
            :func:`relay_seg.checkpoints.fitting.fit_patches`.
        trust: See :func:`relay_seg.checkpoints.read_checkpoint`.

    Returns:
        The report that was logged.

    Raises:
        ValueError: A weight has no place, or a place has no weight.
    """
    if bands not in BANDS:
        raise ValueError(f'bands={bands!r}; use one of {BANDS}.')
    if patches not in PATCHES:
        raise ValueError(f'patches={patches!r}; use one of {PATCHES}.')
    source = str(checkpoint)
    fetch(checkpoint, OTHERWISE)
    parts = split(unwrap(read_checkpoint(checkpoint, trust=trust), source),
                  source, prefix)
    family = family_of(model)
    naming = (find_naming(parts.backbone, source, family) if family
              else names_of(model))
    if naming.family != family:
        raise ValueError(
            f'{source} holds a {naming.family} (names of {naming.name}), this '
            f'model is a {type(model).__name__}: use a file of the same '
            'architecture.')
    weights, unknown = naming.to_ours(parts.backbone)
    unknown += parts.strange
    if unknown:
        raise ValueError(
            f'{source} has weights without a place ({len(unknown)}), that '
            f'{naming.family or type(model).__name__} of {naming.name} do '
            'not have: '
            f'{", ".join(unknown)}')

    placed = place(weights, model, bands, source, patches)
    check_finite(placed.loaded, source)
    assign(placed, model)
    lines = [
        f'{count(placed.loaded, model)} from {source}, named as by '
        f'{naming.name}', *placed.notes
    ]
    if parts.others:
        lines.append(f'dropped, not of a backbone: {summary(parts.others)}')
    if placed.copied:
        lines.append(f'{_size(placed.copied, model):,} start as copies of '
                     'the local stem: ' + summary(placed.copied))
    if placed.new:
        lines.append(f'{_size(placed.new, model):,} are new: '
                     + summary(placed.new))
    report = '\n  '.join(lines)
    MMLogger.get_current_instance().info(report)
    return report


def family_of(model: nn.Module) -> str | None:
    """Family of its namings, or None for a backbone of another kind."""
    names = dict(model.named_parameters())
    if 'layers.0.1.0.attn.attn.in_proj_weight' in names:
        return 'MiT'
    if 'stages.0.blocks.0.attn.w_msa.logit_scale' in names:
        return 'SwinV2'
    if isinstance(model, RelayTimmViT):
        return timm_vit.FAMILY
    return 'ViT' if 'layers.0.ln1.weight' in names else None


def names_of(model: nn.Module) -> Naming:
    """Naming of a backbone without a table: files must use its own names."""
    parts = {name.split('.')[0] for name in model.state_dict()}
    return Naming('the model itself', None, marks=(),
                  table=tuple((part, part) for part in sorted(parts)))


def count(names: Mapping, model: nn.Module) -> str:
    """'N of M parameters (P %)', those of a model that are named."""
    total = sum(p.numel() for p in model.parameters())
    return share(_size(names, model), total)


def share(part: int, total: int) -> str:
    """'N of M parameters (P %)'; 100 % only if it is all."""
    percent = int(1000 * part / total) / 10
    return f'{part:,} of {total:,} parameters ({percent:.1f} %)'


def summary(names: Iterable[str]) -> str:
    """Names on one line; those that differ in numbers only as one."""
    counts = Counter(re.sub(r'(?<=\.)\d+(?=\.)', '*', k) for k in names)
    return ', '.join(f'{name} ({n})' if n > 1 else name
                     for name, n in counts.items())


def _size(names: Mapping | list, model: nn.Module) -> int:
    return sum(p.numel() for k, p in model.named_parameters() if k in names)


def set_pretrained(cfg: Config, source: str) -> None:
    """Let a config's backbone start from other weights, or from none.

    Args:
        cfg: With ``model.backbone``, whose ``init_cfg`` changes: ``bands``
            and ``prefix`` stay, and what it says beside a file.
        source: Path or URL of a file of weights; 'none' for random weights.

    Raises:
        FileNotFoundError: There is no such file.
    """
    backbone = cfg.model.backbone
    cfgs = backbone.get('init_cfg') or []
    cfgs = cfgs if isinstance(cfgs, list) else [cfgs]
    files = [c for c in cfgs if c.get('type') in PRETRAINED]
    rest = [c for c in cfgs if c not in files]
    if source != 'none':
        if not source.startswith(URLS[:2]) and not local_file(
                source).is_file():
            raise FileNotFoundError(
                f'{source} is no file; give the path or URL of a file of '
                'weights, or none for random weights.')
        kept = {key: files[0][key] for key in ('bands', 'patches', 'prefix')
                if files and key in files[0]}
        rest.append(dict(type='Pretrained', checkpoint=source, **kept))
    backbone.init_cfg = rest if len(rest) > 1 else rest[0] if rest else None
