import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True)
def quiet():
    """The host logs a line for each parameter it initialises."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
