"""The folder beside an output: whose bands are in it."""
import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger

from relay_seg.inference.parts import STATE, Parts

SIGNATURE = dict(input='a', window=[16, 16])


@pytest.fixture
def parts(tmp_path):
    """One band of a prediction, and the signature it is of."""
    parts = Parts(tmp_path / 'out.tif')
    parts.folder.mkdir()
    parts.begin(SIGNATURE)
    parts.write(0, np.ones((4, 4), np.uint8), None, [])
    return parts


def test_bands_of_a_signature_are_kept(parts):
    assert not parts.begin(SIGNATURE)
    assert parts.finished() == {0}
    assert parts.begin(SIGNATURE | dict(input='b'))
    assert parts.finished() == set()


@pytest.mark.parametrize('content', [
    b'', b'{"input": "a", "win', b'\xff\xfe\x00', b'[' * 100_000, b'"a"',
    None], ids=['empty', 'cut', 'no text', 'deep', 'other', 'folder'])
def test_state_that_is_damaged_starts_anew(parts, content):
    state = parts.folder / STATE
    state.unlink()
    state.mkdir() if content is None else state.write_bytes(content)
    said = []
    logger = MMLogger.get_current_instance()
    keep = logging.Handler()
    keep.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(keep)
    try:
        assert parts.begin(SIGNATURE)  # its bands are thrown away
    finally:
        logger.removeHandler(keep)
    assert parts.finished() == set()
    assert content == b'"a"' or (
        f'{state} is damaged' in said[0] and 'starts anew' in said[0])
    parts.write(0, np.ones((4, 4), np.uint8), None, [])
    assert not parts.begin(SIGNATURE) and parts.finished() == {0}
