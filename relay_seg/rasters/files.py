"""Files that appear under their name when they are whole."""
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

UNFINISHED = '.unfinished'


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Path to write to; what is there afterwards takes the name ``path``.

    Until then, and if writing fails, the file of that name stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}{UNFINISHED}')
    try:
        yield unfinished
        with unfinished.open('rb') as file:
            os.fsync(file.fileno())  # whole on the disk, not only in memory
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name the file in what goes wrong with writing it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            yield
    except (OSError, RuntimeError, RasterioError,  # RuntimeError: pyogrio's
            CPLE_BaseError) as error:
        raise OSError(
            f'{path} cannot be written ({error}); is the disk full? Make '
            'room and run the same command again.') from error


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed processes left of files they were writing."""
    for path in Path(folder).glob(f'.*{UNFINISHED}'):
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as a whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)
