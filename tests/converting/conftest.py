import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'data_prep'))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A raw folder and a folder to write, both to be made."""
    return tmp_path / 'raw', tmp_path / 'out'
