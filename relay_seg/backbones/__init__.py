from .relay_swinv2 import RelaySwinV2
from .relay_vit import RelayViT

__all__ = ['RelaySwinV2', 'RelayViT']
