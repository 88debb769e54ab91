"""The checkpoint to go on from."""
from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader

from .content import check_finite, meta_of, model_weights
from .errors import CheckpointError, UnsafeCheckpointError

#: What a run needs to go on as if it had never stopped.
TRAINING = 'state_dict', 'optimizer', 'message_hub', 'meta'


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
