"""From blended logits to class ids and probabilities, as in the host."""
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder

ROWS = 32  # that are decided at once
#: uint8 probabilities count in these steps; 255 is no data.
STEPS = 254


def decide(model: SlideEncoderDecoder, logits: Tensor) -> Tensor:
    """Class ids (H, W) uint8 of logits (channels, H, W)."""
    if len(logits) > 1:
        # On a CPU this is ten times as quick as argmax over the first axis;
        # a few rows at a time, as it makes 12 bytes for each pixel.
        return torch.cat([rows.max(dim=0).indices.to(torch.uint8)
                          for rows in logits.split(ROWS, dim=1)])
    return (logits[0].sigmoid() > model.decode_head.threshold).to(torch.uint8)


def chances_of(logits: Tensor) -> Tensor:
    """Probability of each class; two of one logit."""
    if len(logits) > 1:
        return logits.softmax(dim=0)
    chance = logits.sigmoid()
    return torch.cat([1 - chance, chance])


def quantise(logits: Tensor, kind: str) -> Tensor:
    """Probabilities as they are stored: float16, or steps of uint8."""
    def some(rows: Tensor) -> Tensor:
        chances = chances_of(rows)
        return (chances.half() if kind == 'float16'
                else (chances * STEPS).round().to(torch.uint8))
    return torch.cat([some(rows) for rows in logits.split(ROWS, dim=1)], dim=1)


def confidence(logits: Tensor, kind: str) -> Tensor:
    """How sure a model is, as it is stored: steps of uint8.

    Args:
        logits: (channels, H, W).
        kind: ``maximum``, the largest probability; or ``entropy``, as a
            share of that of classes that are all as probable: 0 is sure.

    Returns:
        (1, H, W) uint8; 0 to 254 stand for 0 to 1.
    """
    def some(rows: Tensor) -> Tensor:
        chances = chances_of(rows)
        share = (chances.max(dim=0, keepdim=True).values
                 if kind == 'maximum' else torch.special.entr(chances).sum(
                     dim=0, keepdim=True) / math.log(len(chances)))
        return (share * STEPS).round().to(torch.uint8)
    return torch.cat([some(rows) for rows in logits.split(ROWS, dim=1)], dim=1)


def to_cpu(tensors: Sequence[Tensor]) -> tuple[
        list[Tensor], Callable[[], None]]:
    """Tensors on the CPU, and what waits until they are there.

    The copy from a GPU goes on behind whoever does not wait.
    """
    if not tensors[0].is_cuda:
        return list(tensors), _nothing
    moved = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
             for x in tensors]
    for there, here in zip(tensors, moved):
        here.copy_(there, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return moved, done.synchronize


def _nothing() -> None:
    """What is on the CPU is there."""


def are_numbers(logits: Tensor) -> Tensor:
    """Whether all logits are finite, on their device: nobody waits."""
    return logits.sum().isfinite()


def check_numbers(finite: bool | Tensor, name: str, top: int,
                  bottom: int) -> None:
    """Refuse logits that are not finite: any class would be wrong.

    Args:
        finite: Whether they are.
        name: The scene.
        top: First row of them.
        bottom: The row after the last one.

    Raises:
        ValueError: They are not.
    """
    if not finite:
        raise ValueError(
            f'{name}: the model gives no finite numbers in rows {top} to '
            f'{bottom}; with --amp fp16 use bf16 or no --amp, else look at '
            'the weights and at the values of the scene.')
