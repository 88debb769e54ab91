"""Log of the library, and weights at random."""
import logging

import pytest
import torch
from mmengine.logging import MMLogger


@pytest.fixture
def log():
    """Messages of the library in this test, a list of str."""
    messages = []

    class Keep(logging.Handler):

        def emit(self, record):
            messages.append(record.getMessage())

    logger, keep = MMLogger.get_current_instance(), Keep()
    level = logger.level  # which another test may have raised
    logger.addHandler(keep)
    logger.setLevel('INFO')
    yield messages
    logger.removeHandler(keep)
    logger.setLevel(level)


@pytest.fixture
def randomise():
    """``randomise(model)``: no parameter stays at zero or one."""

    def add_noise(model):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return model.train(False) or model  # the host's train gives None

    return add_noise
