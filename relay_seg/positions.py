"""What weights say of positions, in models of another size."""
import re
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

#: Follow from the attention window or the architecture: never loaded.
TABLES = re.compile(
    r'(^|\.)(relative_position_index|relative_coords_table'
    r'|rope_embed\.periods|qkv\.bias_mask)$')


def fit_position(pos: Tensor, grid: tuple[int, int], mode: str, *,
                 class_tokens: int = 0, keep: int = 0,
                 antialias: bool = False,
                 name: str = 'pos_embed') -> Tensor:
    """Resize a position embedding, as that of a square map.

    Embeddings of this very length stay as they are.

    Args:
        pos: (1, rows, C), rows of class tokens first.
        grid: Height and width in patches that are wanted.
        mode: Interpolation, such as 'bicubic'.
        class_tokens: Class tokens of the file, which may have rows or not.
        keep: Class tokens of the model.
        antialias: Smooth before a map gets smaller, as timm does.
        name: For the error.

    Returns:
        (1, keep + height * width, C).
    """
    rows, length = pos.shape[1], grid[0] * grid[1]
    # A file may have lost its class token but not the row: 1.
    extras = [e for e in (class_tokens, 0, 1) if e <= rows]
    fits = [e for e in extras if rows - e == length]
    squares = [e for e in extras if isqrt(rows - e)**2 == rows - e]
    if not fits and not squares:
        raise ValueError(
            f'{name} has {rows} rows, which is no square map (with or '
            f'without a class token) and not the {length} of this '
            'model; use img_size of the checkpoint.')
    extra = (fits or squares)[0]
    first, pos = pos[:, :extra], pos[:, extra:]
    if pos.shape[1] != length:
        side = isqrt(pos.shape[1])
        image = pos.mT.unflatten(2, (side, side))  # (1, C, side, side)
        image = F.interpolate(
            image.float(), grid, mode=mode, align_corners=False,
            antialias=antialias)
        pos = image.flatten(2).mT.to(pos.dtype)
    return torch.cat((first[:, :keep], pos), dim=1)
