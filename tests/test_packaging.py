"""What is in a wheel, what its files say, and that it runs by itself."""
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import relay_seg

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(
    '.*', 'build', 'dist', '*.egg-info', '__pycache__', 'data', 'work_dirs',
    'sample', 'site', 'tests', 'images')
HOME = 'https://github.com/someone/relay_seg'
#: What needs a checkout around it.
ONLY_HERE = {'demo.py', 'demo.sh', 'setup_env.sh', 'run_tests.sh',
             'wheelhouse.sh', 'docker/Dockerfile'}


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    """An sdist of the checkout and a wheel of that, with what is here."""
    folder = tmp_path_factory.mktemp('built')
    source = shutil.copytree(ROOT, folder / 'source', ignore=NOT_COPIED)
    done = subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation',
         '--skip-dependency-check', '--outdir', folder / 'dist', source],
        text=True, capture_output=True,
        env=os.environ | dict(GITHUB_REPOSITORY='someone/relay_seg'))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / 'dist'


def test_an_index_takes_wheel_and_sdist(dist):
    pytest.importorskip('twine')
    built = sorted(dist.iterdir())
    assert [path.suffix for path in built] == ['.whl', '.gz']
    done = subprocess.run(
        [sys.executable, '-m', 'twine', 'check', '--strict', *built],
        text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope='module')
def installed(dist, tmp_path_factory):
    """Where the wheel is unpacked, which is nearly all that pip does."""
    folder = tmp_path_factory.mktemp('installed')
    wheel, = dist.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_an_index_finds_what_the_readme_shows(dist, installed):
    metadata, = installed.glob('*.dist-info/METADATA')
    text = metadata.read_text()
    at = f'v{relay_seg.__version__}'
    targets = re.findall(r'\]\(([^)]+)\)', text)
    assert all(target.startswith('https://') for target in targets)
    shown = re.findall(r'!\[[^]]*\]\(([^)]+)\)', text)
    assert shown == [f'{HOME}/raw/{at}/docs/images/scene_to_map.webp']
    linked = [target.removeprefix(f'{HOME}/blob/{at}/') for target in targets
              if target.startswith(f'{HOME}/blob')]
    assert 'docs/quick_start.md' in linked
    assert all((ROOT / path).exists() for path in linked)


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


def test_the_installed_command_runs_an_installed_config(installed, tmp_path):
    """Far from the checkout, whose package is not the one imported."""
    found, = (entry for own in distributions(path=[str(installed)])
              for entry in own.entry_points)
    assert (found.group, found.name) == ('console_scripts', 'relay-seg')
    script = f'import {found.module} as cli; cli.{found.attr}()'
    done = subprocess.run(
        [sys.executable, '-c', script, 'describe',
         'configs/relay/rt_swin2_n_dubai.py'],
        cwd=tmp_path, text=True, capture_output=True,
        env=os.environ | dict(PYTHONPATH=str(installed)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'relay adds 1.95 % to the backbone' in done.stdout
    assert f'{installed}/relay_seg/.mim/configs' in done.stderr, (
        'the checkout is imported')


def test_versions_and_licence_agree():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == relay_seg.__version__
    assert citation['license'] == 'Apache-2.0'
    assert re.search(
        rf'^## \[{relay_seg.__version__}\] - (20\d\d-\d\d-\d\d|unreleased)$',
        (ROOT / 'CHANGELOG.md').read_text(), re.M)
    licence = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in licence and 'END OF TERMS' in licence
    authors = citation['preferred-citation']['authors']
    assert [a['family-names'] for a in authors] == [
        'Perron', 'Sydorov', 'Pottier', 'Landrieu']


def test_a_release_is_what_ci_has_tried():
    release, ci = (
        yaml.safe_load((ROOT / f'.github/workflows/{name}.yml').read_text())
        for name in ('release', 'ci'))
    assert 'workflow_call' in ci[True]  # YAML takes "on" for true
    jobs = release['jobs']
    assert jobs['publish']['needs'] == 'ci'
    assert jobs['ci']['uses'] == './.github/workflows/ci.yml'
    assert jobs['publish']['permissions'] == {'id-token': 'write'}
    assert 'secrets' not in str(jobs)
    kept = ci['jobs']['package']['steps'][-1]
    taken, published = jobs['publish']['steps']
    assert kept['uses'].startswith('actions/upload-artifact')
    assert taken['with'] == kept['with']
    assert published['uses'].startswith('pypa/gh-action-pypi-publish@')


@pytest.mark.parametrize('tag, date, agree', [
    ('v7.8.9', '2031-01-02', True), ('v7.8.8', '2031-01-02', False),
    ('v7.8.9', 'unreleased', False)])
def test_a_tag_is_checked(tag, date, agree, tmp_path):
    (tmp_path / 'relay_seg').mkdir()
    init = (ROOT / 'relay_seg/__init__.py').read_text()
    (tmp_path / 'relay_seg/__init__.py').write_text(
        init.replace(relay_seg.__version__, '7.8.9'))
    log = (ROOT / 'CHANGELOG.md').read_text()
    (tmp_path / 'CHANGELOG.md').write_text(re.sub(
        rf'\[{relay_seg.__version__}\] - .*', f'[7.8.9] - {date}', log))
    release = yaml.safe_load(
        (ROOT / '.github/workflows/release.yml').read_text())
    done = subprocess.run(
        ['bash', '-e', '-c', release['jobs']['version']['steps'][1]['run']],
        cwd=tmp_path, env=os.environ | dict(GITHUB_REF_NAME=tag))
    assert (done.returncode == 0) == agree


def test_an_image_gets_what_a_wheel_is_made_of():
    lines = (ROOT / '.dockerignore').read_text().split()
    given = {line[1:] for line in lines if line.startswith('!')}
    assert given == {'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md',
                     'LICENSE', 'NOTICE', 'relay_seg', 'configs', 'tools',
                     'data_prep'}
    assert all((ROOT / name).exists() for name in given)


def test_an_image_has_versions_that_are_allowed():
    text = (ROOT / 'tools/docker/Dockerfile').read_text()
    setup = (ROOT / 'setup.py').read_text()
    for package in ('torch', 'torchvision'):
        pinned = Version(re.search(rf' {package}==(\S+)', text)[1])
        allowed = re.search(rf"'{package}(>=[^']+<[^']+)'", setup)[1]
        assert pinned in SpecifierSet(allowed)
    base, again = re.findall(r'^FROM (python:\S+)', text, re.M)
    assert base == again and re.match(r'python:\d+\.\d+\.\d+-', base)
    assert re.search(r'^USER (\S+)', text, re.M)[1] != '0'
