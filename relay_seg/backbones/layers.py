"""Layers of the host that the backbones are composed of.

The only place that imports them, so that a renamed host layer is mended here.
"""
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmpretrain.models.backbones.swin_transformer_v2 import (
    SwinBlockV2,
    SwinTransformerV2,
)
from mmpretrain.models.backbones.vision_transformer import (
    TransformerEncoderLayer,
    VisionTransformer,
)
from mmpretrain.models.utils import (
    MultiheadAttention,
    PatchMerging,
    ShiftWindowMSA,
    build_norm_layer,
    resize_pos_embed,
)
from mmseg.models.backbones import MixVisionTransformer
from mmseg.models.backbones.mit import MixFFN
from mmseg.models.backbones.mit import TransformerEncoderLayer as MixBlock
from mmseg.models.utils import nchw_to_nlc, nlc_to_nchw

VIT_ARCHS = VisionTransformer.arch_zoo
SWINV2_ARCHS = SwinTransformerV2.arch_zoo

#: The plain models of the relay backbones.
PLAIN_BACKBONES = (
    VisionTransformer, SwinTransformerV2, MixVisionTransformer)

__all__ = [
    'PLAIN_BACKBONES', 'SWINV2_ARCHS', 'VIT_ARCHS', 'MixBlock', 'MixFFN',
    'MixVisionTransformer', 'MultiheadAttention', 'PatchEmbed',
    'PatchMerging', 'ShiftWindowMSA', 'SwinBlockV2',
    'TransformerEncoderLayer', 'build_norm_layer', 'nchw_to_nlc',
    'nlc_to_nchw', 'resize_pos_embed'
]
