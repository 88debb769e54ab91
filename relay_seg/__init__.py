"""Relay tokens for MMSegmentation: ultra-high-resolution segmentation."""
from ._host import check_host

__version__ = '0.1.0'

check_host()

from . import backbones  # noqa: E402, F401
from . import data_preprocessor  # noqa: E402, F401
from . import datasets  # noqa: E402, F401
from . import heads  # noqa: E402, F401
from . import losses  # noqa: E402, F401
from . import segmentors  # noqa: E402, F401
from . import transforms  # noqa: E402, F401
