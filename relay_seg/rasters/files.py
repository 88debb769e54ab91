"""Files that appear under their name when they are whole, and locks."""
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

if sys.platform == 'win32':
    import msvcrt
else:
    import fcntl

UNFINISHED = '.unfinished'


@contextmanager
def locked(path: str | Path, inherited: bool = False) -> Iterator[int]:
    """Nobody else works where this file lies.

    The file stays when the lock goes.

    Args:
        path: Made where it is missing.
        inherited: Commands that are given the open file hold the lock, too,
            when this process has died (not on Windows). Else it is free as
            soon as this process ends, whatever its workers do.

    Gives:
        The open file's descriptor.

    Raises:
        BlockingIOError: Somebody does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            if sys.platform == 'win32':
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                lock = fcntl.flock if inherited else fcntl.lockf
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(
                f'{path.parent} is in use by another process; wait for it or '
                'end it.') from error
        yield file.fileno()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Path to write to; what is there afterwards takes the name ``path``.

    Until then, and if writing fails, the file of that name stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may write beside each other.
    unfinished = path.with_name(f'.{path.name}.{uuid4().hex}{UNFINISHED}')
    try:
        yield unfinished
        with unfinished.open('r+b') as file:  # Windows wants to write
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
