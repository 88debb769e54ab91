"""A small trained model, to try prediction with; README.md says on what."""
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def sample_model() -> tuple[Path, Path]:
    """Config and weights, as :func:`relay_seg.inference.load_model` takes."""
    return FOLDER / 'config.json', FOLDER / 'model.safetensors'


def with_sample(arguments: Sequence[str]) -> list[str]:
    """Arguments; the word sample at their front as config and weights."""
    if arguments[:1] == ['sample']:  # a config has a suffix
        return [*map(str, sample_model()), *arguments[1:]]
    return [*arguments]
