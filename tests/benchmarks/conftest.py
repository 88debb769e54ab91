"""The benchmarks, as modules."""
import sys
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))


@pytest.fixture(autouse=True)
def talkative_again():
    """What a benchmark silences talks in the tests after it."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    yield
    logger.setLevel(level)
