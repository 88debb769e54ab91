"""One window of a config as the model is given it, for any segmentor."""
from dataclasses import dataclass

import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.structures import label_field
from relay_seg.views import LOCAL, Views, as_size, view_sizes


@dataclass(frozen=True)
class WindowInput:
    """Shape of a window.

    Args:
        bands: Bands of the image.
        size: Height and width of its local view in pixels.
        native: Height and width in native pixels.
        stride: Steps between windows in a test; the size where each scene is
            one window.
    """
    bands: int
    size: tuple[int, int]
    native: tuple[int, int]
    stride: tuple[int, int]

    def views(self, model: BaseSegmentor) -> Tensor | Views:
        """A window, as views where the model takes them."""
        if not isinstance(model, SlideEncoderDecoder):
            return torch.zeros(1, self.bands, *self.size)
        return tuple(torch.zeros(1, self.bands, *size)
                     for size in view_sizes(self.size, model.contexts))

    def logits(self, model: BaseSegmentor) -> Tensor:
        """Forward pass of a test."""
        meta = dict(img_shape=self.size, ori_shape=self.size,
                    pad_shape=self.size)
        return model.encode_decode(self.views(model), [meta])

    def losses(self, model: BaseSegmentor) -> dict:
        """Forward pass of a training step, all pixels of class 0."""
        sample = SegDataSample(
            metainfo=dict(img_shape=self.size, ori_shape=self.size,
                          pad_shape=self.size))
        for view, context in enumerate(
                (LOCAL, *getattr(model, 'contexts', ()))):
            shape = (1, *(context.factor * side for side in self.size))
            dtype = torch.uint8 if view else torch.int64
            label = PixelData(data=torch.zeros(shape, dtype=dtype))
            sample.set_data({label_field(view): label})
        return model.loss(self.views(model), [sample])


def window_input(cfg: Config,
                 size: tuple[int, int] | None = None) -> WindowInput:
    """What a config's model is tested on.

    Args:
        cfg: Config with a ``model``.
        size: Height and width of a window, where the config does not say.

    Raises:
        ValueError: The config does not say and ``size`` is not given.
    """
    test_cfg = cfg.model.get('test_cfg') or ConfigDict()
    slide = test_cfg.get('mode', 'whole') == 'slide'
    preprocessor = cfg.model.get('data_preprocessor') or {}
    size = size or (test_cfg.crop_size if slide else None) or (
        preprocessor.get('size') or cfg.get('crop_size'))
    if size is None:
        raise ValueError(
            'the config names no size of a window (test_cfg.crop_size, '
            'data_preprocessor.size or crop_size); give --size HEIGHT WIDTH.')
    native = _pair(size)
    given = _pair(test_cfg.get('input_size') or native)
    bands = cfg.model.backbone.get('in_channels') or len(
        preprocessor.get('mean') or (0, 0, 0))
    stride = _pair(test_cfg.stride) if slide else native
    return WindowInput(bands, given, native, stride)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else as_size(size)
