"""What a user reads when the host is missing, too old or broken."""
import subprocess
import sys

import pytest

from relay_seg._host import INSTALL, version_of


def import_with(tmp_path, name, text):
    """Import relay_seg where a package of the host is another one."""
    (tmp_path / f'{name}.py').write_text(text)
    return subprocess.run(
        [sys.executable, '-c', 'import relay_seg'], text=True,
        capture_output=True, cwd=tmp_path).stderr


@pytest.mark.parametrize('text, says', [
    ('raise ModuleNotFoundError("No module", name="ftfy")',
     'needs ftfy, which is not installed'),
    ('__version__ = "5.9"', 'needs ftfy 6.0 or newer, found 5.9'),
    ('raise AssertionError("MMCV==9 is used but incompatible")',
     'AssertionError: MMCV==9 is used but incompatible'),
], ids=['missing', 'old', 'broken'])
def test_message_says_what_to_install(tmp_path, text, says):
    error = import_with(tmp_path, 'ftfy', text)
    assert says in error
    assert INSTALL in error
    assert 'ImportError' in error.splitlines()[-1]


@pytest.mark.parametrize('text, version', [
    ('2.12.1+cu130', (2, 12)), ('1.4', (1, 4)), ('2.0.0rc4', (2, 0))])
def test_version_of(text, version):
    assert version_of(text) == version
