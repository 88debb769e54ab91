"""Checkpoints of PyTorch Lightning, of which only the weights are wanted.

Beside them such a file holds what the training was made of: settings of
omegaconf, optimisers under ``functools.partial``, paths. Reading these would
run code of whoever wrote the file. Here each name that a file asks for is
given a class of its own that does nothing, so that the weights can be read
and all else falls away.
"""
import pickletools
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

from mmengine.logging import print_log
from torch import Tensor

from .stand_ins import named

#: In every such file, and in no other.
MARK = 'pytorch-lightning_version'
#: Beside the weights, what is kept of a file.
FACTS = (MARK, 'epoch', 'global_step')
RECIPE = (
    'To keep its weights alone, run this where the file was made:\n'
    '  import torch\n'
    "  torch.save(dict(state_dict=torch.load('{}', map_location='cpu', "
    "weights_only=False)['state_dict']), 'weights.pth')")
#: Instructions of pickle that give an object items, and what takes such.
#: A reader of weights gives items to plain containers only.
ITEMS: dict[str, type] = dict(
    SETITEM=OrderedDict, SETITEMS=OrderedDict, APPEND=list, APPENDS=list)
#: Instructions after which the object, or what was called, is on the stack.
KEEPING = {*ITEMS, 'BUILD', 'NEWOBJ', 'REDUCE'}


class Inert:
    """In place of any class or function; takes anything, does nothing."""

    def __new__(cls, *args, **kwargs) -> 'Inert':
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def pickle_of(file: BinaryIO) -> bytes | None:
    """The pickle in a file of Lightning; None if it is no such file.

    Files as torch wrote them before 1.6 have no part of this kind; of these
    the first megabyte is given, to tell what they are.
    """
    file.seek(0)
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            names = [n for n in archive.namelist() if n.endswith('/data.pkl')]
            data = archive.read(names[0]) if names else b''
    else:
        file.seek(0)
        data = file.read(2**20)
    file.seek(0)
    return data if MARK.encode() in data else None


def inert(names: list[str], data: bytes) -> list[type]:
    """Classes that do nothing, under the names that a pickle asks for.

    Args:
        names: As :func:`torch.serialization.get_unsafe_globals_in_checkpoint`
            lists them.
        data: The pickle.
    """
    kinds = _containers(data)
    return [named(_container(kinds[name]) if name in kinds else
                  type('Inert', (Inert, ), {}), name) for name in names]


def _container(kind: type) -> type:
    """A class whose objects are plain containers."""
    return type('Inert', (Inert, ), dict(
        __new__=lambda cls, *args, **kwargs: kind()))


def _containers(data: bytes) -> dict[str, type]:
    """Names whose objects are given items: kinds of dicts and lists.

    Follows which name lies where on the stack of pickle; runs nothing.
    """
    kinds: dict[str, type] = {}
    memo: dict[Any, str | None] = {}
    stack: list[str | None] = []
    marks: list[int] = []
    for opcode, argument, _ in pickletools.genops(data):
        before = [kind.name for kind in opcode.stack_before]
        if opcode.name == 'MARK':
            marks.append(len(stack))
        elif opcode.name == 'GLOBAL':
            stack.append(str(argument).replace(' ', '.'))
        elif 'GET' in opcode.name:
            stack.append(memo.get(argument))
        elif 'PUT' in opcode.name:
            memo[argument] = stack[-1]
        else:
            if 'mark' in before:
                below = marks.pop() - before.index('mark')
            else:
                below = len(stack) - len(before)
            first = stack[below] if below < len(stack) else None
            del stack[below:]
            if opcode.name in ITEMS and first is not None:
                kinds[first] = ITEMS[opcode.name]
            keeps = first if opcode.name in KEEPING else None
            stack += [keeps for _ in opcode.stack_after]
    return kinds


def is_lightning(content: Any) -> bool:
    """Whether what was read is a file of Lightning, and holds weights."""
    if not isinstance(content, dict) or MARK not in content:
        return False
    weights = content.get('state_dict')
    return isinstance(weights, dict) and bool(weights) and all(
        isinstance(k, str) and isinstance(v, Tensor)
        for k, v in weights.items())


def weights_of(content: dict, source: str) -> dict:
    """Weights and plain facts of a file; logs what is left out unread."""
    kept = dict(state_dict=content['state_dict']) | {
        key: content[key] for key in FACTS
        if isinstance(content.get(key), (int, str))}
    others = [key for key in content if key not in kept]
    unread = [str(key) for key in others if _is_inert(content[key], set())]
    if unread:
        print_log(
            f'{source} is of PyTorch Lightning; what holds objects is left '
            f'out unread: {", ".join(unread)}.', logger='current')
    return kept


def _is_inert(value: Any, seen: set[int]) -> bool:
    """Whether there is something inert in a value; each is looked at once."""
    if isinstance(value, Inert):
        return True
    if isinstance(value, type):
        return issubclass(value, Inert)
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return isinstance(value, (list, tuple, set)) and any(
        _is_inert(each, seen) for each in value)
