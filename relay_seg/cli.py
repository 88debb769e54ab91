"""The command ``relay-seg``: the scripts of tools/ and data_prep/ by name."""
import argparse
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from . import __version__

HERE = Path(__file__).resolve().parent
#: What holds configs/, tools/ and data_prep/: the checkout, or .mim, which
#: setup.py makes.
ROOT = HERE / '.mim' if (HERE / '.mim/tools').is_dir() else HERE.parent
#: Script and summary of each command.
COMMANDS = {
    'train': ('tools/train.py', 'train a model'),
    'test': ('tools/test.py', 'test a model'),
    'predict': ('tools/predict.py', 'predict rasters of any size'),
    'score': ('tools/score.py', 'score a prediction of any size'),
    'view': ('tools/view.py', 'look at a prediction in the browser'),
    'export': ('tools/export.py', 'export a model to ONNX'),
    'describe': ('tools/describe.py', 'parameters and costs of models'),
    'browse': ('tools/browse_views.py', 'draw samples of a training'),
    'results': ('tools/results_table.py', 'results beside published ones'),
    'reproduce': ('tools/reproduce.py', 'train and test a published row'),
    'convert': ('tools/convert_checkpoint.py', 'rename the weights of a file'),
    'publish': ('tools/publish_checkpoint.py', 'make a checkpoint ready for '
                'others'),
    'prepare custom': ('data_prep/custom.py', 'images and labels of your own'),
    'prepare archaeoscape': ('data_prep/archaeoscape.py', 'Archaeoscape'),
    'prepare urur': ('data_prep/urur.py', 'URUR'),
    'prepare gleason': ('data_prep/gleason.py', 'Gleason 2019'),
    'prepare cityscapes': ('data_prep/cityscapes.py', 'Cityscapes'),
    'prepare dubai': ('data_prep/dubai.py', 'aerial scenes of Dubai'),
}
SHELLS = 'bash', 'zsh', 'fish'


def main() -> None:
    """Run the script that the command line names, with what follows."""
    command, arguments = split(sys.argv[1:])
    if command:
        sys.argv = [f'relay-seg {command}', *map(with_config, arguments)]
        sys.exit(load(command).main())
    parser = make_parser()
    args = parser.parse_args()  # of all commands, completion remains
    try:
        print(completion(args.shell))
    except ModuleNotFoundError as error:
        parser.error(f'{error}; run pip install "relay-seg[completion]".')


def split(words: list[str]) -> tuple[str, list[str]]:
    """Command and arguments of a command line; '' for none of a script."""
    for command in COMMANDS:
        named = command.split()
        if words[:len(named)] == named:
            return command, words[len(named):]
    return '', words


def load(command: str) -> ModuleType:
    """The script of a command, as a module."""
    script = (ROOT / COMMANDS[command][0]).resolve()
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    spec = spec_from_file_location(f'relay_seg_{script.stem}', script)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_config(argument: str) -> str:
    """An argument; for configs/... that is not here, the one of relay_seg."""
    path, own = Path(argument), ROOT / argument
    if (path.parts[:1] != ('configs', ) or path.suffix != '.py'
            or path.exists() or not own.is_file()):
        return argument
    print(f'relay-seg: {argument} is not in this folder; taking {own}',
          file=sys.stderr)
    return str(own)


def make_parser(with_options: bool = False) -> argparse.ArgumentParser:
    """The command line.

    Args:
        with_options: With all that the scripts take, which means to load
            them; else with their names only.
    """
    parser = argparse.ArgumentParser(
        prog='relay-seg', description='Segment images that are too large for '
        'one forward pass, with relay tokens. relay-seg COMMAND --help says '
        'what a command takes.')
    parser.add_argument(
        '--version', action='version', version=f'relay-seg {__version__}')
    groups = {'': parser.add_subparsers(metavar='COMMAND', required=True)}
    for command, (_, summary) in COMMANDS.items():
        group, _, name = command.rpartition(' ')
        if group not in groups:
            inner = groups[''].add_parser(
                group, help='convert a data set to what training reads')
            groups[group] = inner.add_subparsers(
                metavar='DATASET', required=True)
        groups[group].add_parser(
            name, help=summary, add_help=False,
            parents=[parser_of(command)] if with_options else [])
    inner = groups[''].add_parser(
        'completion', help='print what makes a shell complete relay-seg')
    inner.add_argument('shell', choices=SHELLS)
    return parser


class Found(Exception):
    """The parser of a script, which was about to parse."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """What a script makes of a command line, without running it."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Found(parser)

    with patch.object(argparse.ArgumentParser, 'parse_args', stop):
        try:
            load(command).main()
        except Found as found:
            return found.args[0]
    raise AssertionError(f'{command} parses nothing')


def completion(shell: str) -> str:
    """A shell's own script that completes commands, options and files.

    Raises:
        ModuleNotFoundError: shtab is not installed.
    """
    import shtab
    parser = make_parser(with_options=True)
    _complete_files(parser, shtab.FILE)
    return shtab.complete(parser, shell)


def _complete_files(parser: argparse.ArgumentParser, how: object) -> None:
    """Name files wherever a parser does not know what may stand there."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner, how)
        elif not action.choices and action.nargs != 0:
            action.complete = how  # type: ignore[attr-defined]
