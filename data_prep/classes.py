"""Names and colours of the classes, as the package has them."""
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path


def metainfo(name: str) -> dict:
    """``classes`` and ``palette`` of a data set.

    They stand in relay_seg/datasets/classes.py. That file is run by itself,
    as importing the package takes seconds.

    Args:
        name: Its name there, such as URUR.

    Raises:
        ModuleNotFoundError: relay_seg is not installed.
    """
    package = find_spec('relay_seg')
    if package is None:
        raise ModuleNotFoundError(
            'relay_seg is not installed; run `pip install -e .` in the '
            'checkout.', name='relay_seg')
    file = Path(package.origin).parent / 'datasets' / 'classes.py'
    return run_path(str(file))[name]
