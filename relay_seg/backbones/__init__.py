from .relay_mit import RelayMiT
from .relay_swinv2 import RelaySwinV2
from .relay_timm_vit import RelayTimmViT, TimmViT
from .relay_vit import RelayViT

__all__ = ['RelayMiT', 'RelaySwinV2', 'RelayTimmViT', 'RelayViT',
           'TimmViT']
