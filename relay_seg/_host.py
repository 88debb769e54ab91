"""Is the host here, new enough and whole? Said before anything else fails."""
import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from types import ModuleType

INSTALL = (
    'pip install "torch>=2.6,<2.15" "torchvision<0.30" '
    '"onedl-mmengine>=0.10.12" "onedl-mmcv>=2.3.6" '
    '"onedl-mmsegmentation>=1.4.2" "onedl-mmpretrain>=1.3.6" ftfy rasterio')

#: Oldest version of each package, of the original or of OneDL, that works.
OLDEST = {
    'ftfy': (6, 0),
    'rasterio': (1, 3),
    'torch': (2, 6),
    'torchvision': (0, 21),
    'mmengine': (0, 10),
    'mmcv': (2, 0),
    'mmseg': (1, 2),
    'mmpretrain': (1, 2),
}
#: Names under which a package is installed, if not its own.
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
#: What the host printed so far.
_SAID: list[str] = []
#: Parts of the host that import compiled operators or one another.
PARTS = ('ftfy', 'rasterio', 'mmseg.datasets', 'mmseg.models',
         'mmpretrain.models')


def check_versions() -> None:
    """Look for the packages this one stands on, without importing them.

    Raises:
        ImportError: One is missing or too old; the message says which, and
            what to install.
    """
    for name, oldest in OLDEST.items():
        found = _version(name)
        if version_of(found) < oldest:
            raise ImportError(
                f'relay_seg needs {name} {".".join(map(str, oldest))} or '
                f'newer, found {found}. Run: {INSTALL}')


def check_parts() -> None:
    """Import the parts of the host that this package builds on.

    Raises:
        ImportError: One fails to import; the message says why.
    """
    for name in PARTS:
        _import(name)


def _version(name: str) -> str:
    for distribution in DISTRIBUTIONS.get(name, (name, )):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise ImportError(f'relay_seg needs {name}, which is not installed. '
                      f'Run: {INSTALL}')


def _import(name: str) -> ModuleType:
    try:
        # The host prints while it is imported; what a tool prints may be
        # read by a program.
        with redirect_stdout(StringIO()) as said:
            module = import_module(name)
        for line in said.getvalue().splitlines():
            if line not in _SAID:  # each part of the host says it anew
                _SAID.append(line)
                print(line, file=sys.stderr)
        return module
    except ModuleNotFoundError as error:
        raise ImportError(f'relay_seg needs {error.name}, which is not '
                          f'installed. Run: {INSTALL}') from error
    except Exception as error:
        raise ImportError(
            f'relay_seg needs {name}, which is installed but does not '
            f'import ({type(error).__name__}: {error}). Versions may not '
            f'fit together. Run: {INSTALL}') from error


def version_of(text: str) -> tuple[int, ...]:
    """Leading numbers of a version: '2.12.1+cu130' gives (2, 12)."""
    numbers = []
    for part in text.split('+')[0].split('.')[:2]:
        digits = ''.join(c for c in part if c.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
