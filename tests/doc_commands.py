"""Commands that stand in the documentation, and what parses them."""
import argparse
import ast
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').rglob('*.md')),
    *sorted((ROOT / 'data_prep').rglob('*.md')),
    ROOT / 'relay_seg/sample_model/README.md'
]
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^\1```', re.M | re.S)
#: Code between backticks that is a whole command.
SPAN = re.compile(r'(?<!`)`((?:python3? |tools/\S+\.sh|mkdocs )[^`]*)`(?!`)')
#: Words that stand for something of the reader's, and an example of it.
EXAMPLES = {'NAME': 'gleason', 'DATASET': 'gleason'}


class Command(NamedTuple):
    """A command of a page.

    Args:
        page: Path of the page below the root of the checkout.
        words: Its words, without variables that are set for it.
        env: These variables.
    """

    page: str
    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f'{self.page}: {" ".join(self.words)}'


def blocks(page: Path, *languages: str) -> list[str]:
    """Texts of a page's fences in some languages."""
    return [textwrap.dedent(text)
            for _, language, text in FENCE.findall(page.read_text())
            if language in languages]


def commands_of(page: Path) -> list[Command]:
    """All shell commands of a page: fences, indented blocks and spans."""
    text = FENCE.sub('', page.read_text())
    lines = blocks(page, 'bash', 'sh', 'shell', 'console')
    lines += [re.sub(r'\s*\n\s*', ' ', span) for span in SPAN.findall(text)]
    lines += re.findall(r'(?<=\n\n) {4}((?:python|tools/|pip) ?\S.*)', text)
    name = str(page.relative_to(ROOT))
    return [command for line in lines for command in split(name, line)]


def split(page: str, text: str) -> list[Command]:
    """Commands of a piece of shell text."""
    commands = []
    for line in text.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars='&|;')
        lexer.whitespace_split, lexer.commenters = True, '#'
        words, env = [], []
        for word in [*lexer, ';']:
            if set(word) <= set('&|;'):
                if words:
                    commands.append(Command(page, tuple(words), tuple(env)))
                words, env = [], []
            elif not words and re.match(r'[A-Z_]+=', word):
                env.append(tuple(word.split('=', 1)))
            else:
                words.append(word)
    return commands


def with_examples(words: tuple[str, ...]) -> list[str]:
    """Words with examples for placeholders, without brackets of options.

    A pattern that fits files of the checkout becomes these files.
    """
    filled = []
    for word in words:
        for name, example in EXAMPLES.items():
            word = re.sub(rf'(?<![A-Z]){name}(?![A-Z_])', example, word)
        if re.fullmatch(r'\[[A-Z_]+\]', word):
            word = word[1:-1]
        if word in ('...', '[...]', '[options]'):
            continue
        found = [str(path.relative_to(ROOT)) for part in braces(word)
                 for path in sorted(ROOT.glob(part))] if '*' in word else []
        filled += found or [word]
    return filled


def braces(word: str) -> list[str]:
    """``a{b,c}`` as the shell expands it."""
    match = re.search(r'\{([^{}]*,[^{}]*)\}', word)
    if not match:
        return [word]
    return [rest for part in match[1].split(',')
            for rest in braces(word[:match.start()] + part
                               + word[match.end():])]


class Parsed(Exception):
    """The parser of a script was content."""

    def __init__(self, namespace: argparse.Namespace) -> None:
        self.namespace = namespace


def parse(script: Path, arguments: list[str]) -> argparse.Namespace | None:
    """Let a script parse arguments with its own parser, and stop it there.

    Returns:
        What it found. None for a script without a parser, which must not be
        given arguments, and is not run.
    """
    if 'parse_args(' not in script.read_text() and (
            script.parent.name != 'data_prep'):
        assert not arguments, f'{script} takes no arguments'
        ast.parse(script.read_text())
        return None
    original = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        raise Parsed(original(self, *args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        patch.setattr(sys, 'argv', [str(script), *arguments])
        patch.syspath_prepend(str(script.parent))
        try:
            runpy.run_path(str(script), run_name='__main__')
        except Parsed as parsed:
            return parsed.namespace
    raise AssertionError(f'{script} parses nothing')
