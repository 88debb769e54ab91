"""A small trained model, to try prediction with; README.md says on what."""
from pathlib import Path

FOLDER = Path(__file__).parent


def sample_model() -> tuple[Path, Path]:
    """Config and weights, as :func:`relay_seg.inference.load_model` takes."""
    return FOLDER / 'config.json', FOLDER / 'model.safetensors'
