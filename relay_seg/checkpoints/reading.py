"""Checkpoint files, read without running code from them."""
import hashlib
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from re import search
from typing import BinaryIO

import torch
from torch import serialization

from . import lightning
from .downloading import local_file
from .errors import CheckpointError, UnsafeCheckpointError
from .host_types import plain
from .stand_ins import STAND_INS

ZIP, PICKLE = b'PK\x03\x04', b'\x80'
#: Torch compresses nothing: an archive unpacks to its own size. Other programs
#: pack weights to a tenth at best.
MOST_UNPACKED, SMALL = 10, 2**24  # times its size; bytes that do no harm


def read_checkpoint(source: str | Path, *, trust: bool = False) -> dict:
    """What a checkpoint file holds: tensors, numbers and text.

    Args:
        source: Local path or URL, ``.pth`` or ``.safetensors``.
        trust: Unpickle anything the file asks for, which may run its code.

    Returns:
        The file's content; tensors are on the CPU, history buffers of the
        host's message hub are dicts of tensors. Of a file of PyTorch
        Lightning the weights and how long they were trained.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafeCheckpointError: The file asks for more than weights.
        CheckpointError: The file is no checkpoint, or damaged.
    """
    path = local_file(source)
    _check_file(path, source)
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    with path.open('rb') as file:
        return read_file(file, str(source), trust=trust)


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_file(path: Path, source: str | Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob('*.pth'))
        hint = f'such as {inside[-1]}' if inside else 'a .pth'
        raise CheckpointError(
            f'{source} is a folder; give a checkpoint file in it, {hint}.')
    if not path.is_file():
        raise FileNotFoundError(f'{source} is no file; give a checkpoint.')
    if not path.stat().st_size:
        raise CheckpointError(
            f'{source} is empty; its copy or download did not finish. Get '
            'it again.')


def read_file(file: BinaryIO, source: str, *, trust: bool = False) -> dict:
    """As :func:`read_checkpoint`, from an open file.

    Args:
        file: Open for reading bytes, at its start.
        source: Its name, for messages.
        trust: As there.
    """
    kind = _check_format(file, source, trust)
    if kind and not trust:
        raise UnsafeCheckpointError(
            f'{source} is {kind}, which may run code. {_remedy()}')
    if trust:
        content = _load(file, source, weights_only=False)
    else:
        content = _read_strictly(file, source)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{source} holds a {type(content).__name__}, not a dict of '
            'weights; save model.state_dict() instead.')
    if lightning.is_lightning(content):
        return lightning.weights_of(content, source)
    return content


def _read_strictly(file: BinaryIO, source: str) -> dict:
    try:
        with only_stand_ins():
            return _load(file, source, weights_only=True)
    except UnsafeCheckpointError as refusal:
        data = lightning.pickle_of(file)
        if data is None:
            raise
        return _read_inertly(file, source, data, refusal)


def _read_inertly(file: BinaryIO, source: str, data: bytes,
                  refusal: UnsafeCheckpointError) -> dict:
    """Read a file of Lightning with nothing behind the names it asks for.

    Args:
        file: Open for reading bytes, at its start.
        source: Its name, for messages.
        data: Its pickle.
        refusal: Why it is not read as others are.
    """
    try:
        if file.read(len(ZIP)) != ZIP:
            raise UnpicklingError('it is in the format of torch before 1.6')
        file.seek(0)
        with only_stand_ins([]):
            names = serialization.get_unsafe_globals_in_checkpoint(file)
        file.seek(0)
        with only_stand_ins(lightning.inert(names, data)):
            content = plain(torch.load(
                file, map_location='cpu', weights_only=True))
        if not lightning.is_lightning(content):
            raise UnpicklingError(
                'its state_dict does not hold tensors alone')
    except MemoryError:
        raise
    except Exception as error:  # of a file that has just failed to load
        raise UnsafeCheckpointError(
            f'{refusal}\nThe file is of PyTorch Lightning, whose objects are '
            f'left out where that can be done, but: {_reason(error)}. '
            + lightning.RECIPE.format(Path(source).name)) from None
    return content


@contextmanager
def only_stand_ins(stand_ins: Sequence = STAND_INS) -> Iterator[None]:
    """Allow the stand-ins and nothing that others allowed before.

    torch keeps one list for the whole process; any library may have put the
    real ``getattr`` on it.
    """
    others = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(list(stand_ins))
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(others)


def _check_format(file: BinaryIO, source: str, trust: bool) -> str | None:
    """Refuse what is no checkpoint, or not whole.

    Returns:
        What the file is, if torch would hand it to another reader than the
        strict one; None otherwise.
    """
    head = file.read(64)
    file.seek(0)
    if head.startswith(ZIP):
        return _check_archive(file, source)
    try:
        tarfile.open(fileobj=file, mode='r:').close()
        return 'a tar archive, as torch wrote them before 2017'
    except tarfile.TarError:
        pass
    finally:
        file.seek(0)
    if not trust and not head.startswith(PICKLE):
        raise CheckpointError(
            f'{source} is no checkpoint: it starts with {head[:24]!r}. If '
            'it is a page or a pointer that was downloaded in place of the '
            'file (git lfs, a login page), download the file itself.')
    return None


def _check_archive(file: BinaryIO, source: str) -> str | None:
    """Compare sizes and checksums of a zip archive, as torch does not."""
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            most = max(MOST_UNPACKED * size, SMALL)
            if unpacked <= most and (wrong := archive.testzip()):
                raise zipfile.BadZipFile(f'the checksum of {wrong} is wrong')
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive fails in any way
        raise _damaged(file, source, error) from error
    if unpacked > most:
        raise CheckpointError(
            f'{source} is refused: its {size:,} bytes unpack to {unpacked:,}, '
            'and weights do not. If you know who made it, unzip it and zip '
            'it again without compression (zip -0).')
    file.seek(0)
    if any(entry.filename.endswith('constants.pkl') for entry in entries):
        return 'a TorchScript program'
    return None


def _load(file: BinaryIO, source: str, weights_only: bool) -> dict:
    try:
        return plain(torch.load(
            file, map_location='cpu', weights_only=weights_only))
    except UnpicklingError as error:
        file.seek(0)
        raise UnsafeCheckpointError(
            f'{source} is refused: it asks for {_wanted(file, error)}, which '
            f'is no weights and may run code. {_remedy()}') from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in any way
        raise _damaged(file, source, error) from error


def _damaged(file: BinaryIO, source: str,
             error: Exception) -> CheckpointError:
    detail = str(error).split('\n')[0]
    return CheckpointError(
        f'{source} is damaged: reading its {file.seek(0, 2):,} bytes failed '
        f'({type(error).__name__}: {detail}). It was cut short or not copied '
        'whole; get it again, or take an earlier checkpoint.')


def _wanted(file: BinaryIO, error: UnpicklingError) -> str:
    """Names that the file asks for, all of them if it can be known."""
    names = []
    if not search(r'getattr\(', str(error)):
        try:
            names = serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception:  # of a file that has just failed to load
            names = []
    if not names:
        found = search(r'GLOBAL (.+?)( was not| whose|\n|$)', str(error))
        names = [found[1] if found else str(error).split('\n')[-1]]
    return ', '.join(sorted(map(str, names)))


def _reason(error: Exception) -> str:
    """What torch says of an error, without its advice."""
    lines = [line.strip() for line in str(error).splitlines()
             if line.strip() and not line.startswith('Check the doc')]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix('WeightsUnpickler error: ').rstrip('.')


def _remedy() -> str:
    return ('If you know who made the file, --trust-checkpoint (trust=True '
            'in Python) reads it all the same; otherwise ask for its weights '
            'alone, as torch.save(model.state_dict()) writes them.')


def _read_safetensors(path: Path) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # damaged; unknown type
        raise CheckpointError(
            f'{path} is damaged or no safetensors file ({error}); get it '
            'again.') from error
