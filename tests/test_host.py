"""What a user reads when the host is missing, too old or broken."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay_seg import _host
from relay_seg._host import INSTALL, version_of

ROOT = Path(__file__).parents[1]


def error_of(code, folder):
    """What Python says at the end of a program, run in a folder."""
    return subprocess.run(
        [sys.executable, '-c', code], text=True, capture_output=True,
        cwd=folder).stderr


@pytest.mark.parametrize('text, says', [
    ('raise ModuleNotFoundError("No module", name="ftfy")',
     'needs ftfy, which is not installed'),
    ('raise AssertionError("MMCV==9 is used but incompatible")',
     'AssertionError: MMCV==9 is used but incompatible'),
], ids=['missing', 'broken'])
def test_message_says_what_to_install(tmp_path, text, says):
    (tmp_path / 'ftfy.py').write_text(text)
    error = error_of('import relay_seg.registered', tmp_path)
    assert says in error
    assert INSTALL in error
    assert 'ImportError' in error.splitlines()[-1]


def test_old_package_is_named_at_once(tmp_path):
    info = tmp_path / 'ftfy-5.9.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Name: ftfy\nVersion: 5.9\n')
    error = error_of('import relay_seg', tmp_path)
    assert 'needs ftfy 6.0 or newer, found 5.9' in error
    assert INSTALL in error


def test_missing_package_is_named_at_once(monkeypatch):
    monkeypatch.setitem(_host.OLDEST, 'no_such_package', (1, 0))
    with pytest.raises(ImportError, match='no_such_package'):
        _host.check_versions()


def test_import_leaves_the_rest_for_later(tmp_path):
    """What takes seconds, and what is global, is left to those who ask."""
    error = error_of("""
import sys
import relay_seg
late = {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'rasterio'}
early = late & set(sys.modules)
assert not early, early
from mmseg.registry import MODELS
assert MODELS.get('RelayViT') is None
import relay_seg.registered
assert MODELS.get('RelayViT').__name__ == 'RelayViT'
assert relay_seg.backbones.RelayViT is MODELS.get('RelayViT')
sys.exit('all is well')
""", tmp_path)
    assert error.splitlines()[-1] == 'all is well'


@pytest.mark.parametrize('text, version', [
    ('2.12.1+cu130', (2, 12)), ('1.4', (1, 4)), ('2.0.0rc4', (2, 0))])
def test_version_of(text, version):
    assert version_of(text) == version


def test_what_the_host_prints_is_said_once_and_not_on_standard_output():
    done = subprocess.run(
        [sys.executable, '-c', 'import relay_seg.engine, relay_seg.registered'
         '; print("result")'], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert done.stdout == 'result\n'
    lines = [line for line in done.stderr.splitlines() if 'OneDL' in line]
    assert len(lines) <= 1
