"""A training checkpoint made ready for others."""
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .content import check_finite, meta_of
from .converting import check_out
from .reading import read_checkpoint, sha256
from .writing import write_checkpoint

#: Of a checkpoint's meta, what says how the weights came about.
META = ('cfg', 'dataset_meta', 'experiment_name', 'epoch', 'iter', 'seed',
        'mmengine_version', 'relay_seg_version')


def publish_checkpoint(source: str, out: str | Path, *,
                       config: str | Path | None = None,
                       trust: bool = False) -> Path:
    """Keep weights and config; leave out optimiser and history.

    Args:
        source: Path or URL of a checkpoint of training.
        out: File to write, ``.pth``; the first 8 digits of its SHA-256 are
            added to the name.
        config: Config of the model, for a checkpoint that holds none.
        trust: See :func:`relay_seg.checkpoints.read_checkpoint`.

    Returns:
        The file that was written.
    """
    check_out(source, out)
    content = read_checkpoint(source, trust=trust)
    state = content.get('state_dict')
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{source} has no 'state_dict' but {list(content)[:8]}; give a "
            'checkpoint of training, or run tools/convert_checkpoint.py '
            'first.')
    meta = meta_of(content)
    meta = {key: _plain(meta[key]) for key in META if key in meta}
    if config is not None:
        from mmengine.config import Config
        meta['cfg'] = Config.fromfile(config).pretty_text
    if not meta.get('cfg'):
        raise ValueError(f'{source} does not hold the config of its model; '
                         'give it with --config.')
    meta['torch_version'] = str(torch.__version__)
    weights = {key: value.detach().cpu().clone()
               for key, value in state.items() if isinstance(value, Tensor)}
    check_finite(weights, source)

    out = Path(out)
    unnamed = out.with_name(f'.{out.stem}.unnamed.pth')
    try:
        write_checkpoint(dict(meta=meta, state_dict=weights), unnamed)
        torch.load(unnamed, weights_only=True, mmap=True)  # as users will
        final = out.with_name(f'{out.stem}-{sha256(unnamed)[:8]}.pth')
        unnamed.replace(final)
    finally:
        unnamed.unlink(missing_ok=True)
    return final


def _plain(value):
    """What weights-only reading takes: no types of other libraries."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if hasattr(value, 'tolist'):  # numpy
        return _plain(value.tolist())
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)
