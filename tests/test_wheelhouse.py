"""tools/wheelhouse.sh without a network: pip is played by a script."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tools/wheelhouse.sh'
TEXT = SCRIPT.read_text()
#: Makes an empty wheel of each package that pip is asked for; all else goes to
#: the real Python.
PIP = f"""#!{sys.executable}
import os, re, sys, zipfile
if sys.argv[1:3] != ['-m', 'pip']:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
words, taken = sys.argv[4:], dict()
while words:
    word = words.pop(0)
    if word in ('-w', '-d', '--python-version', '--implementation',
                '--platform'):
        taken[word] = words.pop(0)
    elif not word.startswith('-'):
        if os.path.isdir(word):
            assert os.path.isfile(word + '/relay_seg/__init__.py')
            word = 'relay_seg'
        name = word.split('==')[0].replace('-', '_')
        folder = taken.get('-w') or taken['-d']
        path = f'{{folder}}/{{name}}-1.0-py3-none-any.whl'
        with zipfile.ZipFile(path, 'w') as wheel:
            wheel.writestr(f'{{name}}-1.0.dist-info/METADATA', (
                f'Name: {{name}}\\nRequires-Dist: numpy>1\\n'
                'Requires-Dist: never; extra == "x"\\n'
                + os.environ.get('ASKS_' + name, '')))
"""


@pytest.fixture
def collect(tmp_path):
    """Runs the script; gives its exit code, what it says, and the folder."""
    pip = tmp_path / 'python'
    pip.write_text(PIP)
    pip.chmod(0o755)

    def collect(*arguments, **env):
        done = subprocess.run(
            [SCRIPT, *arguments], cwd=tmp_path, text=True,
            capture_output=True, env=os.environ | dict(PYTHON=str(pip)) | env)
        return done.returncode, done.stdout + done.stderr, tmp_path / 'wheels'
    return collect


def array(name):
    """The words of an array of the script."""
    return re.search(rf'^{name}=\((.*?)\)', TEXT, re.S | re.M)[1].split()


def test_it_is_shell():
    subprocess.run(['bash', '-n', SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_it_collects_and_tells_sizes(collect):
    code, said, folder = collect('wheels', '3.12', 'rich==13.9.4')
    assert code == 0, said
    names = {path.name.split('-')[0] for path in folder.iterdir()}
    assert {'relay_seg', 'onedl_mmcv', 'rasterio', 'rich'} <= names
    assert 'tomli' not in names
    assert f'{len(names)} wheels in wheels' in said
    assert '--target SITE wheels/*.whl' in said


def test_old_python_needs_more(collect):
    code, said, folder = collect('wheels', '3.10')
    assert code == 0 and list(folder.glob('tomli-*')), said


def test_it_says_what_is_missing(collect):
    asks = dict(ASKS_rich='Requires-Dist: Pygments>=2\n')
    code, said, _ = collect('wheels', '3.12', 'rich', **asks)
    assert code == 1 and 'rich needs Pygments' in said
    asks = dict(ASKS_yapf='Requires-Dist: tomli; python_version < "3.11"\n')
    assert collect('other', '3.12', **asks)[0] == 0


def test_a_folder_is_not_filled_twice(collect):
    assert collect('wheels', '3.12')[0] == 0
    code, said, _ = collect('wheels', '3.12')
    assert code == 1 and 'give an empty folder' in said
    code, said, _ = collect()
    assert code == 2 and 'usage' in said


def test_all_that_setup_py_asks_for_is_there_or_collected():
    asked = re.search(r'install_requires=\[(.*?)\]',
                      (ROOT / 'setup.py').read_text(), re.S)[1]
    asked = [Requirement(x) for x in re.findall(r"'([^']+)'", asked)]
    assert len(asked) > 12
    pins = {canonicalize_name(r.name): r for r in map(
        Requirement, array('built') + array('found'))}
    there = {canonicalize_name(x) for x in array('there')}
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        assert name in pins or name in there, name
        for pin in pins[name].specifier if name in pins else ():
            assert requirement.specifier.contains(pin.version), name


def test_the_page_says_how():
    page = (ROOT / 'docs/install.md').read_text()
    call, = re.findall(r'^tools/wheelhouse.sh (.*)$', page, re.M)
    folder, version = call.split()
    assert re.fullmatch(r'3\.\d+', version)
    assert f'--no-index --no-deps --target site {folder}/*.whl' in page
    words = page.lower()
    for name in array('there'):
        name = {'opencv-python': 'opencv'}.get(name, name)
        assert name in words, name
