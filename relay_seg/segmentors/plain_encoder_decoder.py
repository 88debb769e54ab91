from mmseg.registry import MODELS
from torch import Tensor

from relay_seg.views import Views

from .head_losses import HeadLosses
from .slide import SlideEncoderDecoder


@MODELS.register_module()
class PlainEncoderDecoder(HeadLosses, SlideEncoderDecoder):
    """The host's segmentor on the data path of relay models.

    An ordinary backbone that sees the local view only, with the same
    training data and the same slide inference, for fair comparison.

    Args:
        kwargs: Those of the host's ``EncoderDecoder``.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(context_factors=(), **kwargs)

    def extract_feat(self, inputs: Views) -> list[Tensor]:
        """Feature maps of the local view, the only one."""
        if len(inputs) != 1:
            raise ValueError(f'a plain model takes one view, got '
                             f'{len(inputs)}; leave out context_factors.')
        return super().extract_feat(*self.finish(inputs))
