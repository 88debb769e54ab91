from .plain_encoder_decoder import PlainEncoderDecoder
from .relay_encoder_decoder import RelayEncoderDecoder

__all__ = ['PlainEncoderDecoder', 'RelayEncoderDecoder']
