"""The command relay-seg: the scripts, by name, from any folder."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import relay_seg
from relay_seg import cli

ROOT = Path(__file__).parents[1]
#: Each of these takes a second or more.
HEAVY = {'torch', 'mmcv', 'mmengine', 'mmseg', 'mmpretrain', 'scipy'}


def relay_seg_command(*words, options=(), cwd=ROOT):
    return subprocess.run(
        [sys.executable, *options, '-m', 'relay_seg', *words], cwd=cwd,
        text=True, capture_output=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT), PYTHONSAFEPATH='1'))


@pytest.mark.parametrize('command', ['', *cli.COMMANDS, 'completion'])
def test_help_is_of_that_command_and_does_not_wait(command):
    done = relay_seg_command(
        *command.split(), '--help', options=['-X', 'importtime'])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f'usage: relay-seg {command}'.rstrip())
    assert not re.search(r'(tools|data_prep)/\w+\.py [A-Z]', done.stdout)
    lines = re.findall(r'^import time:.*\| +(\S+)$', done.stderr, re.M)
    assert 'argparse' in lines
    assert not {line.split('.')[0] for line in lines} & HEAVY


def test_every_script_for_users_is_a_command():
    scripts = {script for script, _ in cli.COMMANDS.values()}
    shown = {f'tools/{path.name}' for path in (ROOT / 'tools').glob('*.py')}
    assert shown - scripts == {'tools/demo.py'}
    assert all((ROOT / script).is_file() for script in scripts)


def test_version():
    done = relay_seg_command('--version')
    assert done.stdout.strip() == f'relay-seg {relay_seg.__version__}'


@pytest.mark.parametrize('words, says', [
    ((), 'COMMAND'), (('trian', ), "'train'"), (('prepare', ), 'DATASET'),
    (('prepare', 'urbu'), "'urur'")])
def test_what_is_no_command(words, says):
    done = relay_seg_command(*words)
    assert done.returncode == 2
    assert says in done.stderr and 'Traceback' not in done.stderr


def test_a_script_gets_its_arguments_and_its_name():
    done = relay_seg_command('test', 'config.py', 'no_such.pth')
    assert done.returncode == 2
    assert 'relay-seg test: error: no_such.pth' in done.stderr


CONFIG = 'configs/relay/rt_swin2_n_dubai.py'


def test_a_config_of_the_package_serves_any_folder(
        tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.with_config(CONFIG) == str(cli.ROOT / CONFIG)
    assert CONFIG in capsys.readouterr().err
    for other in ('configs/relay/no_such.py', 'configs', '--out', 'other/x.py',
                  str(ROOT / CONFIG)):
        assert cli.with_config(other) == other
    own = tmp_path / CONFIG
    own.parent.mkdir(parents=True)
    own.touch()
    assert cli.with_config(CONFIG) == CONFIG
    assert not capsys.readouterr().err


COMPLETED = [
    (['pre'], {'predict', 'prepare'}),
    (['prepare', 'c'], {'custom', 'cityscapes'}),
    (['predict', '--ble'], {'--blend'}),
    (['predict', '--blend', ''], {'mean', 'gaussian', 'center'}),
    (['describe', 'my_c'], {'my_config.py'}),
    (['completion', ''], set(cli.SHELLS)),
]


@pytest.mark.parametrize('words, found', COMPLETED)
def test_bash_completes(words, found, bash_script):
    typed = ' '.join(f"'{word}'" for word in ['relay-seg', *words])
    done = subprocess.run(
        ['bash', '-c', f'. {bash_script}; compopt() {{ :; }}; '
         f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; '
         '$(complete -p relay-seg | grep -o -- "-F [^ ]*" | cut -c4-); '
         'printf "%s\\n" "${COMPREPLY[@]}"'],
        cwd=bash_script.parent, text=True, capture_output=True)
    assert set(done.stdout.split()) == found, done.stderr


@pytest.fixture(scope='module')
def bash_script(tmp_path_factory):
    pytest.importorskip('shtab')
    script = tmp_path_factory.mktemp('bash') / 'completion.sh'
    script.write_text(cli.completion('bash'))
    (script.parent / 'my_config.py').touch()
    return script


@pytest.mark.skipif(not shutil.which('fish'), reason='no fish here')
@pytest.mark.parametrize('words, found', COMPLETED)
def test_fish_completes(words, found, bash_script):
    script = bash_script.with_name('completion.fish')
    script.write_text(cli.completion('fish'))
    typed = ' '.join(['relay-seg', *words])
    done = subprocess.run(
        ['fish', '-c', f'source {script}; complete -C "{typed}"'],
        cwd=script.parent, text=True, capture_output=True)
    offered = {line.split('\t')[0] for line in done.stdout.splitlines()}
    assert offered == found, done.stderr


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_other_shells_complete(shell):
    pytest.importorskip('shtab')
    text = cli.completion(shell)
    assert all(word in text for word in (
        'relay-seg', 'cityscapes', 'probabilities', 'gaussian'))


def test_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    monkeypatch.setattr(sys, 'argv', ['relay-seg', 'completion', 'bash'])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert 'relay-seg[completion]' in capsys.readouterr().err
