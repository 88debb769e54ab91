import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision as float32; what is finer stays as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What autocast casts to on a device; None where it does not."""
    known = torch.amp.is_autocast_available(device_type)
    if known and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None
