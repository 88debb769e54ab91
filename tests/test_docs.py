"""The documentation: its pages, its commands and its code.

No command stands there unchecked. Commands that train on data which nobody
may hand out, or on many GPUs, go through the real parser of the real script,
with their configs and settings; so do those that would serve a page or draw
on a screen. ``tools/*.sh`` are run, up to the process that they start. What is
quick is run, and what takes longer behind the marker ``slow``.
"""
import ast
import json
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from itertools import takewhile

import pytest
import yaml
from doc_commands import PAGES, ROOT, blocks, commands_of, parse, with_examples
from mmseg import registry

from relay_seg import cli
from relay_seg.config import load_config

COMMANDS = sorted(
    {command for page in PAGES for command in commands_of(page)}, key=str)
#: Of other programs: only there to prepare or to look, on the reader's side.
OTHERS = {'source', 'cd', 'ssh', 'git', 'rio', 'pre-commit', 'mim', 'export',
          'nvidia-smi', 'squeue', 'sbatch', 'kubectl', 'gdalinfo', 'qgis',
          'docker', 'grep'}
#: Scripts that set up .venv and go on there. .ci/run runs the first two.
SET_UP = {'tools/setup_env.sh', 'tools/run_tests.sh', 'tools/demo.sh',
          'tools/wheelhouse.sh'}
#: Modules run with ``python -m``, or as commands.
MODULES = {'pytest', 'ruff', 'codespell', 'mypy', 'mkdocs', 'build',
           'pre_commit', 'venv', 'pip', 'relay_seg'}
#: Of commands that are named otherwise than what they import.
LIBRARIES = {'codespell': 'codespell_lib'}
#: Quick enough to be run for real.
QUICK = (
    r'python tools/describe\.py configs/[^{}*\s]+$',
    r'python tools/results_table\.py$',
    r'python -c ',
)


def python_words(words):
    """Arguments of python, whichever one is named."""
    return words[1:] if re.fullmatch(
        r'(\.venv/bin/)?python3?', words[0]) else None


def check_script(script, arguments):
    path = ROOT / script
    assert path.is_file(), f'{script} does not exist'
    namespace = parse(path, arguments)
    for option in vars(namespace).items() if namespace else ():
        check_option(*option, getattr(namespace, 'cfg_options', None) or [])


def check_option(name, value, settings):
    """Configs of the checkout load, with settings that they know."""
    for text in map(str, value if isinstance(value, list) else [value]):
        if not re.fullmatch(r'configs/.*\.py', text):
            continue
        assert (ROOT / text).is_file(), f'{name}: {text} does not exist'
        load_config(ROOT / text, settings)


def check_shell_script(command, words, tmp_path):
    """Run it with commands that tell what they would start."""
    script = ROOT / words[0]
    assert os.access(script, os.X_OK), f'{script} cannot be executed'
    subprocess.run(['bash', '-n', script], check=True)
    if words[0] in SET_UP:
        if words[0] == 'tools/demo.sh':
            check_script('tools/demo.py', words[1:])
        return
    if len(words) == 1:  # only mentioned: all others need arguments
        return
    for name in ('python', 'srun'):
        stub = tmp_path / name
        stub.write_text(f'#!{sys.executable}\nimport json, sys\n'
                        'print(json.dumps(sys.argv[1:]))\n')
        stub.chmod(0o755)
    done = subprocess.run(
        words, cwd=ROOT, text=True, capture_output=True,
        env=os.environ | dict(command.env) | dict(
            PATH=f'{tmp_path}:{os.environ["PATH"]}'))
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout)
    at = next(i for i, word in enumerate(started)
              if re.search(r'tools/[^/]*\.py$', word))
    check_script(os.path.relpath(ROOT / started[at], ROOT), started[at + 1:])


def check_pip(words):
    """Extras that are named are ours; files are there."""
    extras = (ROOT / 'setup.py').read_text().split('extras_require')[1]
    for name in re.findall(r'\.\[([\w,]+)\]', ' '.join(words)):
        for extra in name.split(','):
            assert f"'{extra}': [" in extras, f'no extra {extra}'


def check_module(module, arguments):
    assert module in MODULES or module.startswith('torch.'), module
    if module != 'pre_commit':  # installed by who wants it
        library = LIBRARIES.get(module, module)
        assert find_spec(library), f'{module} is not installed'
    if module == 'relay_seg' and arguments:
        check_relay_seg(arguments)
    if module == 'pytest':
        paths = [a.split('::')[0] for a in arguments if a.startswith('tests')]
        for path in paths:
            assert (ROOT / path).exists(), f'{path} does not exist'


def check_relay_seg(words):
    command, arguments = cli.split(list(takewhile('>'.__ne__, words)))
    if arguments in (['--help'], ['--version']):
        return
    if command:
        check_script(cli.COMMANDS[command][0], arguments)
    else:
        cli.make_parser().parse_args(arguments)


def test_there_are_commands():
    assert len(COMMANDS) > 60
    assert any(c.env for c in COMMANDS)
    assert {'README.md', 'docs/context_puzzle.md', 'docs/datasets.md'} <= {
        c.page for c in COMMANDS}


@pytest.mark.parametrize('command', COMMANDS, ids=str)
def test_command(command, tmp_path):
    words = with_examples(command.words)
    arguments = python_words(words)
    if words[0] in OTHERS:
        return
    if arguments is None and words[0].endswith('.sh'):
        check_shell_script(command, words, tmp_path)
    elif arguments is None:
        program = words[0].removeprefix('.venv/bin/')
        if program == 'pip':
            check_pip(words)
        else:
            check_module(program.replace('-', '_'), words[1:])
    elif arguments[0] == '-m':
        check_module(arguments[1], arguments[2:])
    elif arguments[0] == '-c':
        ast.parse(arguments[1])
    else:
        check_script(arguments[0], arguments[1:])


def test_quick_commands_run(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    ran = 0
    for command in COMMANDS:
        text = ' '.join(command.words)
        if not any(re.match(pattern, text) for pattern in QUICK):
            continue
        words = with_examples(command.words)[1:]
        if words[0] == '-c':
            exec(compile(words[1], str(command), 'exec'), {})
        else:
            monkeypatch.setattr(sys, 'argv', words)
            runpy.run_path(words[0], run_name='__main__')
        assert capsys.readouterr().out.strip(), f'{command} says nothing'
        ran += 1
    assert ran >= 3


@pytest.mark.slow
def test_quick_start_step_by_step(tmp_path):
    """The commands of the page, one after the other, with less training."""
    for name in ('configs', 'tools', 'data_prep'):
        (tmp_path / name).symlink_to(ROOT / name)
    page = ROOT / 'docs/quick_start.md'
    steps = [c.words for c in commands_of(page)
             if re.match(r'python tools/(browse|train|test)',
                         ' '.join(c.words))
             and 'work_dirs/short' not in c.words]
    assert len(steps) == 3
    less = ['--cfg-options', 'train_dataloader.batch_size=2',
            'train_cfg.max_iters=2', 'train_cfg.val_interval=9',
            'default_hooks.checkpoint.interval=2', 'randomness.seed=1']
    for words in steps:
        words = [word.replace('iter_500', 'iter_2') for word in words]
        subprocess.run(
            [sys.executable, *words[1:], *less], cwd=tmp_path, check=True,
            capture_output=True, timeout=300, env=os.environ | dict(
                PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    assert (tmp_path / 'samples.png').is_file()
    assert (tmp_path / 'ids/scene1.tif').is_file()
    assert list((tmp_path / 'pictures').iterdir())


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_of_a_page_is_python(page):
    for text in blocks(page, 'python', 'py'):
        ast.parse(text)


def pages_of(nav):
    for entry in nav:
        if isinstance(entry, dict):
            entry, = entry.values()
        yield from pages_of(entry) if isinstance(entry, list) else [entry]


def test_every_page_is_in_the_navigation():
    # Tags of MkDocs are no plain YAML.
    text = (ROOT / 'mkdocs.yml').read_text()
    listed = list(pages_of(yaml.safe_load(text)['nav']))
    docs = ROOT / 'docs'
    pages = {str(p.relative_to(docs)) for p in docs.rglob('*.md')}
    assert len(listed) == len(set(listed))
    assert pages - set(listed) == set(), 'add them to nav in mkdocs.yml'
    assert set(listed) - pages == set(), 'in nav, but no such page'


def test_registered_classes_are_on_an_api_page():
    """What a config may name has a place in the site."""
    pages = ''.join(p.read_text() for p in (ROOT / 'docs/api').glob('*.md'))
    modules = {
        kind.__module__ for name in registry.__all__
        for kind in getattr(registry, name).module_dict.values()
        if kind.__module__.startswith('relay_seg.')}
    missing = {m for m in modules if f'::: {m}\n' not in pages}
    assert len(modules) > 10
    assert not missing, 'add them to a page in docs/api'


@pytest.mark.skipif(
    not find_spec('mkdocs') and 'RELAY_SEG_REQUIRE_DOCS' not in os.environ,
    reason="needs pip install -e '.[docs]'")
def test_the_site_builds_without_a_broken_link(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir',
         tmp_path], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | dict(NO_MKDOCS_2_WARNING='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    api = (tmp_path / 'api/models/index.html').read_text()
    assert 'RelaySwinV2' in api and 'num_relay_tokens' in api


def said_by(folder):
    """Texts in the code of a folder, a line break where values go."""
    for path in sorted(folder.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield ''.join(str(part.value) if isinstance(
                    part, ast.Constant) else '\n' for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(
                    node.value, str):
                yield node.value


def test_messages_that_are_explained_are_those_of_the_code():
    """Blocks without a language are of other packages."""
    said = '\0'.join(said_by(ROOT / 'relay_seg'))
    messages = blocks(ROOT / 'docs/troubleshooting.md', 'text')
    assert len(messages) > 30
    for message in messages:
        parts = [re.escape(part) for part in message.strip().split('...')]
        assert re.search('[^\0]*'.join(parts), said), f'nobody says {message}'


def links_of(text):
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    return [link.split('#')[0] for link in re.findall(r'\]\(([^)\s]+)\)', text)
            if not re.match(r'\w+:|#', link)]


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md'])
def test_links_of_pages_outside_of_the_site(page):
    for link in links_of((ROOT / page).read_text()):
        assert (ROOT / link).exists(), f'{page} links to {link}'


def test_spelling():
    done = subprocess.run(
        [sys.executable, '-m', 'codespell_lib'], cwd=ROOT, text=True,
        capture_output=True)
    assert done.returncode == 0, done.stdout
