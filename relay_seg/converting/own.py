"""Images and labels of one's own, as data_prep/custom.py is told of them."""
import argparse
import os
import re
import shlex
from functools import partial
from math import inf
from pathlib import Path

from .bands import look_at
from .command import Converter
from .legend import Legend
from .manifest import Manifest
from .own_configs import (
    FACTOR,
    Wanted,
    next_commands,
    window_size,
    write_configs,
)
from .own_plan import plan
from .own_truth import read_truth

#: Options that do not change the scenes.
BESIDES = ('raw', 'out', 'jobs', 'check', 'name', 'configs', 'model',
           'iterations', 'dry_run', 'yes', 'clean')
OPTION_OF = dict(areas='areas', lists='split-lists')


def finish(out: Path, manifest: Manifest, legend: Legend,
           args: argparse.Namespace) -> list[str]:
    """Write the configs, and say what to type next."""
    records = [manifest.scenes[path] for path in sorted(manifest.scenes)]
    found = look_at(args.raw / records[0]['sources'][0]['path'], args.bands,
                    None)
    colours = len(found.bands) == 3 and found.dtype == 'uint8'
    options = ['--bands', *map(str, found.bands)] if (
        args.bands or found.alpha) else []
    if args.pixel_size:
        options += ['--pixel-size', f'{args.pixel_size:g}']
    tested = next((r for r in records if r['split'] == 'test'), records[-1])
    wanted = Wanted(
        args.configs or out / 'configs', args.name, args.model,
        args.iterations, shlex.join([
            os.path.normpath(args.raw / tested['sources'][0]['path']),
            '-o', 'maps/', *options]),
        any(r['split'] == 'val' for r in records))
    (plain, relay), kept = write_configs(
        wanted, out, legend.names, legend.palette, records, colours)
    return [*(f'{path} was changed and is kept; delete it to have it written '
              'anew.' for path in kept),
            f'Written: {plain} and {relay}. Next:',
            *(f'  {command}' for command in next_commands(relay, wanted))]


def complete(args: argparse.Namespace) -> None:
    """Fill in what follows from other options.

    Raises:
        ValueError: Options contradict each other.
    """
    for way, given in (('areas', args.areas), ('lists', args.split_lists)):
        if (args.split or way) != way and given:
            raise ValueError(f'--{OPTION_OF[way]} says how to split, but '
                             f'--split is {args.split}; leave one out.')
        if args.split == way and not given:
            raise ValueError(f'--split {way} needs --{OPTION_OF[way]} FILE.')
    if args.areas and args.split_lists:
        raise ValueError('--areas and --split-lists both say how to split; '
                         'leave one out.')
    way = args.split or ('areas' if args.areas else
                         'lists' if args.split_lists else 'files')
    if (args.val or args.test) and way != 'files':
        raise ValueError(f'--val and --test name files, but the split is by '
                         f'{way}; leave one of them out.')
    if args.margin is None:
        args.margin = FACTOR * max(window_size(args.model))
    if args.block is None:
        args.block = max(2 * args.margin, 2 * max(window_size(args.model)))
    if args.pixel_size is not None and not 0 < args.pixel_size < inf:
        raise ValueError(f'--pixel-size {args.pixel_size} is no size.')
    for name, least in (('margin', 0), ('block', 1), ('iterations', 2)):
        value = getattr(args, name)
        if value is not None and (value < least or value != value):
            raise ValueError(f'--{name.replace("_", "-")} {value} is too '
                             'small.')
    args.name = re.sub(r'\W+', '_', args.name or args.out.resolve().name)


def describe(args: argparse.Namespace) -> Converter:
    """The converter that the command line asks for."""
    if args.check and not args.raw.is_dir():
        return Converter(args.name, (), (), plan)  # the result alone
    if not args.raw.is_dir():
        raise FileNotFoundError(f'{args.raw} is no folder; give that of the '
                                'images.')
    truth = read_truth(args)
    legend = truth.legend
    return Converter(
        args.name, legend.names, legend.palette,
        lambda raw, **options: plan(raw, truth, args, options),
        finish=partial(finish, legend=legend, args=args))


def options_of(args: argparse.Namespace) -> dict:
    """What changes the scenes, of types that JSON keeps."""
    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return str(value.resolve()) if isinstance(value, Path) else value

    return {key: plain(value) for key, value in vars(args).items()
            if key not in BESIDES}
