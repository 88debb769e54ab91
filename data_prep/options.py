"""What the converters have in common on the command line.

Nothing of the package is imported here: that takes seconds, for which --help
need not wait.
"""
import argparse
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

COMMON = 'raw', 'out', 'jobs', 'check'


def make_parser(description: str | None, raw: str = 'folder as downloaded'
                ) -> argparse.ArgumentParser:
    """What every converter is told.

    Args:
        description: What it does.
        raw: What the first folder is.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('raw', type=Path, help=raw)
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--jobs', type=int, default=_processors(),
        help='processes at a time, up to 2 GB of memory each (%(default)s)')
    parser.add_argument(
        '--check', action='store_true',
        help='verify an existing result by its checksums, write nothing')
    return parser


def add_trim(parser: argparse.ArgumentParser) -> None:
    """The option of data sets whose labels may be a few pixels off."""
    parser.add_argument(
        '--trim', action='store_true',
        help='cut image and label to the size they share if they differ by a '
        'few pixels, instead of refusing them')


def convert(dataset: str, args: argparse.Namespace) -> int:
    """Convert a known data set, see relay_seg.converting.command.execute."""
    converter = library(dataset).CONVERTER
    options = {name: value for name, value in vars(args).items()
               if name not in COMMON}
    return library('command').execute(lambda: converter, args, options)


def library(name: str) -> ModuleType:
    """A module of relay_seg.converting, imported when it is needed.

    Raises:
        ModuleNotFoundError: relay_seg is not installed.
    """
    if find_spec('relay_seg') is None:
        raise ModuleNotFoundError(
            'relay_seg is not installed; run `pip install -e .` in the '
            'checkout.', name='relay_seg')
    return import_module(f'relay_seg.converting.{name}')


def _processors() -> int:
    """Processors that this process may use, where the system tells."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
