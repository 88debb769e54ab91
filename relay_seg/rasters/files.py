"""Files that appear under their name when they are whole, and locks."""
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO
from uuid import uuid4

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

if sys.platform == 'win32':
    import msvcrt
else:
    import fcntl

UNFINISHED = '.unfinished'
#: How a system says that somebody else has a lock.
BUSY = errno.EACCES, errno.EAGAIN, errno.EDEADLK


@contextmanager
def locked(path: str | Path, inherited: bool = False) -> Iterator[int]:
    """Nobody else works where this file lies.

    The file stays when the lock goes, unless who holds it removes it.

    Args:
        path: Made where it is missing.
        inherited: Commands that are given the open file hold the lock, too,
            when this process has died (not on Windows). Else it is free as
            soon as this process ends, whatever its workers do.

    Gives:
        The open file's descriptor.

    Raises:
        BlockingIOError: Somebody does.
        OSError: There are no locks on this disk.
    """
    path = Path(path)
    while (file := _lock(path, inherited)) is None:
        pass  # it was that of a file which is gone
    with file:
        yield file.fileno()


def _lock(path: Path, inherited: bool) -> TextIO | None:
    """The open file, or nothing if somebody removed it meanwhile."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open('w'))
        except FileNotFoundError:
            return None
        try:
            if sys.platform == 'win32':
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                lock = fcntl.flock if inherited else fcntl.lockf
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                raise OSError(f'{path} cannot be locked ({error}); write to '
                              'another disk.') from error
            raise BlockingIOError(
                f'{path.parent} is in use by another process; wait for it or '
                'end it.') from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                stack.pop_all()
                return file
    return None


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
