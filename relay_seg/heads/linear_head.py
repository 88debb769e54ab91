from collections.abc import Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """The authors' decoder: one transposed convolution of one feature map.

    Args:
        stride: Pixels of a view for each pixel of the feature map: 16 for
            ViT, 32 for the last stage of SwinV2.
        kwargs: Those of the host's ``BaseDecodeHead``; ``channels`` and
            ``dropout_ratio`` are of no use here.
    """

    def __init__(self, stride: int, **kwargs) -> None:
        super().__init__(
            **dict(channels=1, init_cfg=None, dropout_ratio=0.) | kwargs)
        del self.conv_seg
        self.upsample = nn.ConvTranspose2d(
            self.in_channels, self.out_channels, stride, stride)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, C, H, W) at the size of the view."""
        return self.upsample(self._transform_inputs(inputs))
