"""What is in a wheel, what its files say, and that it runs by itself."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import relay_seg

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(
    '.*', 'build', 'dist', '*.egg-info', '__pycache__', 'data', 'work_dirs',
    'sample', 'site', 'tests', 'images')
#: What needs a checkout around it.
ONLY_HERE = {'demo.py', 'demo.sh', 'setup_env.sh', 'run_tests.sh',
             'wheelhouse.sh', 'write_metafiles.py'}


def build(source, out):
    """A wheel of a checkout, with what is installed here."""
    done = subprocess.run(
        [sys.executable, '-m', 'build', '--wheel', '--no-isolation',
         '--skip-dependency-check', '--outdir', out, source],
        text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    wheel, = Path(out).glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    source = shutil.copytree(ROOT, folder / 'source', ignore=NOT_COPIED)
    return build(source, folder / 'dist')


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Where the wheel is unpacked, which is all that pip does with it."""
    folder = tmp_path_factory.mktemp('installed')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files(folder, pattern='**/*'):
    return {str(path.relative_to(folder)) for path in folder.glob(pattern)
            if path.is_file() and '__pycache__' not in path.parts}


def test_wheel_holds_the_package_and_nothing_else(installed):
    top = {path.name for path in installed.iterdir()}
    version = relay_seg.__version__
    assert top == {'relay_seg', f'relay_seg-{version}.dist-info'}
    ours = {name for name in files(ROOT / 'relay_seg')
            if not name.startswith('.mim')}
    theirs = files(installed / 'relay_seg')
    assert {name for name in theirs if not name.startswith('.mim')} == ours
    assert 'viewing/page/leaflet/LICENSE' in ours and 'py.typed' in ours
    info = installed / f'relay_seg-{version}.dist-info'
    assert {'LICENSE', 'NOTICE'} <= {path.name for path in info.rglob('*')}


def test_wheel_holds_configs_and_tools_where_mim_looks(installed):
    mim = installed / 'relay_seg/.mim'
    assert files(mim / 'configs') == files(ROOT / 'configs')
    assert files(mim / 'tools') == files(ROOT / 'tools') - ONLY_HERE
    assert files(mim / 'data_prep') == files(ROOT / 'data_prep', '*.py')
    assert (mim / 'model-index.yml').is_file()


def test_an_installed_tool_runs_an_installed_config(installed, tmp_path):
    """Far from the checkout, whose package is not the one imported."""
    mim = installed / 'relay_seg/.mim'
    script = ('import relay_seg, runpy, sys; print(relay_seg.__file__); '
              'del sys.argv[0]; runpy.run_path(sys.argv[0], None, "__main__")')
    done = subprocess.run(
        [sys.executable, '-c', script, mim / 'tools/describe.py',
         mim / 'configs/relay/rt_swin2_n_dubai.py'],
        cwd=tmp_path, text=True, capture_output=True,
        env=os.environ | dict(PYTHONPATH=str(installed)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'relay adds 1.95 % to the backbone' in done.stdout
    assert done.stdout.startswith(str(installed)), 'the checkout is imported'


def test_model_index_names_every_config():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    models = []
    for path in index['Import']:
        metafile = yaml.safe_load((ROOT / path).read_text())
        names = {part['Name'] for part in metafile['Collections']}
        assert {m['In Collection'] for m in metafile['Models']} == names
        models += metafile['Models']
    configs = {str(path.relative_to(ROOT)) for folder in (
        'relay', 'plain', 'released')
               for path in (ROOT / 'configs' / folder).glob('*.py')}
    listed = [model['Config'] for model in models]
    missing = configs - set(listed)
    assert not missing, f'{missing}: run python tools/write_metafiles.py'
    assert sorted(listed) == sorted(configs)
    assert len({model['Name'] for model in models}) == len(models)


def test_versions_and_licence_agree():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == relay_seg.__version__
    assert citation['license'] == 'Apache-2.0'
    assert f'## {relay_seg.__version__}' in (ROOT / 'CHANGELOG.md').read_text()
    licence = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in licence and 'END OF TERMS' in licence
    authors = citation['preferred-citation']['authors']
    assert [a['family-names'] for a in authors] == [
        'Perron', 'Sydorov', 'Pottier', 'Landrieu']
