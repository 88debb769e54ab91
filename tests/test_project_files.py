"""Files that only other programs read, and what imports what."""
import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / 'setup.py').read_text()
WORKFLOW = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
STEPS = [(job, step) for job, content in WORKFLOW['jobs'].items()
         for step in content['steps']]
RUN = [(job, step['run']) for job, step in STEPS if 'run' in step]


@pytest.mark.parametrize('job, text', RUN)
def test_shell_of_the_workflow_is_shell(job, text):
    plain = re.sub(r'\$\{\{.*?\}\}', 'value', text)
    done = subprocess.run(
        ['bash', '-n'], input=plain, text=True, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for path in re.findall(r'tests/\w+\.py', text):
        assert (ROOT / path).is_file(), path


def test_workflow_covers_what_setup_py_allows():
    matrix = WORKFLOW['jobs']['tests']['strategy']['matrix']
    assert matrix['python'] == ['3.10', '3.11', '3.12', '3.13']
    assert "python_requires='>=3.10'" in SETUP
    text = '\n'.join(run for _, run in RUN)
    for package in ('torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv',
                    'onedl-mmsegmentation', 'onedl-mmpretrain'):
        lowest = re.search(rf"'{package}>=([\d.]+)", SETUP)[1]
        tried = re.search(rf'^{package}==([\d.]+)$', text, re.M)[1]
        assert tried == lowest or tried == f'{lowest}.0', package


def test_lint_is_the_same_everywhere():
    version = re.search(r'ruff==([\d.]+)', SETUP)[1]
    assert f'ruff=={version}' in '\n'.join(run for _, run in RUN)
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    revisions = {repo['repo'].rsplit('/', 1)[-1]: repo['rev']
                 for repo in hooks['repos']}
    assert revisions['ruff-pre-commit'] == f'v{version}'
    assert 'codespell' in revisions


def test_documented_versions_of_the_original_host_are_those_tried():
    page = (ROOT / 'docs/install.md').read_text()
    text = '\n'.join(run for _, run in RUN)
    pins = re.findall(r'\b((?:mm\w+|torch|torchvision)==[\d.]+)', page)
    assert len(pins) > 4
    assert [pin for pin in pins if pin not in text] == []


@pytest.mark.parametrize('path', sorted(
    (ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml')), ids=lambda p: p.stem)
def test_issue_templates_have_what_a_forge_asks_for(path):
    template = yaml.safe_load(path.read_text())
    if path.stem == 'config':
        assert set(template) == {'blank_issues_enabled'}
        return
    assert {'name', 'description', 'body'} <= set(template)
    for field in template['body']:
        assert field['type'] == 'textarea' and field['attributes']['label']


# A module imports from those above its own, and from its own line.
LAYERS = (
    '_host views relay precision structures positions processes '
    'init_cfg class_ids schedules bars sample_model',
    'backbones heads losses data_preprocessor',
    'segmentors',
    'rasters drawing',
    'datasets transforms converting',
    'checkpoints',
    'training checking hooks optim scalars',
    'inference config',
    'evaluation analysis export viewing',
    'registered',
    'engine',
    'cli __main__',
)
LAYER_OF = {name: i for i, names in enumerate(LAYERS)
            for name in names.split()}
MODULES = sorted((ROOT / 'relay_seg').rglob('*.py'))


def imports_of(path):
    """Parts of this package that a module imports from others."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [x.name for x in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1]
            start = '.'.join(above if node.level else ())
            start = '.'.join(filter(None, (start, node.module)))
            names = [f'{start}.{x.name}' for x in node.names]
        else:
            continue
        yield from (name.split('.')[1] for name in names
                    if name.startswith('relay_seg.'))


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(
    p.relative_to(ROOT / 'relay_seg').with_suffix('')))
def test_imports_point_to_lower_layers(path):
    own = path.relative_to(ROOT / 'relay_seg').with_suffix('').parts[0]
    if own == '__init__':
        return
    assert own in LAYER_OF, f'give {own} a place in LAYERS'
    wrong = {name for name in imports_of(path) if name in LAYER_OF
             and LAYER_OF[name] > LAYER_OF[own]}
    assert not wrong


def test_imports_are_found():
    """The test above would pass if it saw none."""
    assert 'backbones' in set(imports_of(
        ROOT / 'relay_seg/segmentors/slide.py'))
    assert 'checkpoints' in set(imports_of(ROOT / 'relay_seg/registered.py'))


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(
    p.relative_to(ROOT / 'relay_seg').with_suffix('')))
def test_an_import_installs_nothing(path):
    """But what asks for it: classes in registries, and two modules."""
    if path.name == '__init__.py' and path.parent == ROOT / 'relay_seg' or (
            path.name == 'registered.py'):
        return
    for node in ast.parse(path.read_text()).body:
        assert not (isinstance(node, ast.Expr)
                    and isinstance(node.value, ast.Call)), node.lineno
        for decorator in getattr(node, 'decorator_list', ()):
            if isinstance(decorator, ast.Call):
                assert not ast.unparse(decorator.func).startswith(
                    'register_'), node.lineno
