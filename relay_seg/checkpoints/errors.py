"""What is wrong with a checkpoint file."""


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or does not fit."""


class UnsafeCheckpointError(CheckpointError):
    """A file that asks for more than weights."""
