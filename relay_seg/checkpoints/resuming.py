"""The checkpoint to go on from."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from torch.optim import Optimizer

from .content import check_finite, meta_of, model_weights
from .errors import CheckpointError, UnsafeCheckpointError

#: What a run needs to go on as if it had never stopped.
TRAINING = 'state_dict', 'optimizer', 'message_hub', 'meta'
#: Settings of optimisers that say how, not what, is computed.
IMPLEMENTATION = 'foreach', 'fused', 'capturable', 'differentiable'


def last_loadable(work_dir: str | Path) -> str | None:
    """Newest checkpoint of a run that is whole, with weights that are numbers.

    The one that ``last_checkpoint`` names comes first, then all others in
    its folder and in the work dir, newest first. Files of weights alone,
    such as the best model, are no candidates.

    Args:
        work_dir: Of the run.

    Returns:
        Its path, or None if the run has not written any.

    Raises:
        CheckpointError: There are some, but none is whole.
        UnsafeCheckpointError: The one to go on from asks for more than
            weights.
    """
    logger = MMLogger.get_current_instance()
    work_dir = Path(work_dir)
    named, candidates = _candidates(work_dir)
    failed = []
    for path in candidates:
        try:
            checkpoint = CheckpointLoader.load_checkpoint(
                str(path), map_location='cpu')
            if not is_training_state(checkpoint):
                continue
            check_finite(model_weights(checkpoint, path), path)
        except UnsafeCheckpointError:
            raise
        except (CheckpointError, OSError) as error:
            logger.warning(f'{error}')
            failed.append(path)
            continue
        if path != named:
            why = f'{named} is missing or of no use' if named else (
                'there is no last_checkpoint')
            logger.warning(f'Going on from {path}: {why}, and this is the '
                           'newest checkpoint that loads.')
        return str(path)
    if failed:
        raise CheckpointError(
            f'no checkpoint in {work_dir} can be gone on from: tried '
            f'{", ".join(p.name for p in failed)}. Copy one from a backup, '
            'or start anew without --resume in another --work-dir.')
    return None


def is_training_state(checkpoint: dict) -> bool:
    """Does it hold all that resuming needs, not only weights?"""
    return all(isinstance(checkpoint.get(k), Mapping) for k in TRAINING) and (
        all(isinstance(meta_of(checkpoint).get(k), int)
            for k in ('epoch', 'iter')))


def check_optimizer(groups: Sequence[Mapping], optimizer: Optimizer,
                    source: str | Path, remedy: str) -> None:
    """Refuse the state of another optimiser; tell of settings that go on.

    Args:
        groups: Of parameters, of the checkpoint.
        optimizer: Of this run, with as many.
        source: Where the checkpoint comes from.
        remedy: How to train on with other settings.

    Raises:
        CheckpointError: Settings that this optimiser needs are not there.
    """
    kind = type(optimizer).__name__
    needed = [key for key, value in optimizer.defaults.items()
              if isinstance(value, int | float | tuple)
              and key not in IMPLEMENTATION]
    differing: dict[str, str] = {}
    for before, now in zip(groups, optimizer.param_groups):
        missing = [key for key in needed if key not in before
                   and not isinstance(now[key], bool)]
        if missing:
            raise CheckpointError(
                f'{source} holds the state of another optimiser than {kind}: '
                f'it has no {", ".join(missing)}. Resume with the config it '
                f'was written with. {remedy}')
        for key in needed:
            old, new = (group.get(f'initial_{key}', group.get(key))
                        for group in (before, now))
            if key in before and old != new:
                differing.setdefault(key, f'{key}={old} (not {new})')
    if differing:
        MMLogger.get_current_instance().warning(
            f'{source} goes on with the settings that its optimiser had, not '
            f'with those of this config: {", ".join(differing.values())}. '
            f'{remedy}')


def trained_weights(checkpoint: Mapping, weights: Mapping,
                    source: str | Path) -> Mapping:
    """The weights that the optimiser trained, not their running average.

    Args:
        checkpoint: With averaged weights as the model's where ``EMAHook``
            wrote it, which keeps those of training elsewhere.
        weights: Those of the model in it.
        source: Where it comes from.
    """
    kept = checkpoint.get('ema_state_dict')
    if not isinstance(kept, Mapping):
        return weights
    MMLogger.get_current_instance().warning(
        f'{source} was written with an EMAHook, this run has none: it goes '
        'on with the weights that were trained and averages them no longer. '
        'Add the hook to custom_hooks to go on averaging.')
    return {key: kept.get(f'module.{key}', value)
            for key, value in weights.items()}


def _candidates(work_dir: Path) -> tuple[Path | None, list[Path]]:
    """The file that last_checkpoint names, and all files in order."""
    pointer = work_dir / 'last_checkpoint'
    text = pointer.read_text(errors='replace').strip() if (
        pointer.is_file()) else ''
    named = Path(text) if text else None
    if named and not named.is_file():  # the work dir moved
        named = work_dir / named.name
    folders = {work_dir, named.parent} if named else {work_dir}
    files = {p for folder in folders for p in folder.glob('*.pth')
             if p.is_file()}
    newest = sorted(files - {named}, reverse=True,
                    key=lambda p: (p.stat().st_mtime_ns, p.name))
    first = [named] if named and named.is_file() else []
    return named, first + newest
