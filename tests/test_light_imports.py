"""What commands import before they answer, told by the interpreter."""
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from relay_seg.checkpoints.converting import TARGETS

ROOT = Path(__file__).parents[1]
COMMANDS = [f'{folder}/{name}.py' for folder, names in {
    'benchmarks': ['gpu_check'],
    'data_prep': ['archaeoscape', 'cityscapes', 'custom', 'dubai', 'example',
                  'gleason', 'urur'],
    'tools': ['convert_checkpoint', 'describe', 'export', 'predict',
              'publish_checkpoint', 'reproduce', 'results_table', 'score',
              'test',              'train', 'view'],
}.items() for name in names]
#: Each of these takes a second or more.
HEAVY = {'torch', 'mmcv', 'mmseg', 'mmpretrain', 'scipy'}


def imported(*command):
    """Top modules that a Python command imports, and what it prints."""
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', *command], cwd=ROOT, text=True,
        capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = re.findall(r'^import time:.*\| +(\S+)$', done.stderr, re.M)
    return {line.split('.')[0] for line in lines}, done.stdout


@pytest.mark.parametrize('command', COMMANDS)
def test_help_does_not_wait_for_imports(command):
    found, said = imported(command, '--help')
    assert 'usage:' in said and 'argparse' in found
    assert not found & HEAVY


def test_targets_of_the_command_are_those_of_the_library():
    assert runpy.run_path(
        str(ROOT / 'tools/convert_checkpoint.py'))['TARGETS'] == TARGETS


def test_polygons_are_not_needed_without_polygons():
    found, _ = imported(
        '-W', 'ignore', '-c',
        'import sys; sys.modules.update(shapely=None, pyogrio=None); '
        'import relay_seg.inference, relay_seg.export, relay_seg.registered')
    assert 'rasterio' in found and not found & {'shapely', 'pyogrio'}
