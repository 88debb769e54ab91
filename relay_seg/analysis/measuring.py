"""Work and memory of a model, the same on every machine."""
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .window import WindowInput


def _attention_flops(query: tuple, key: tuple, value: tuple, *args,
                     out_shape: tuple | None = None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


#: PyTorch's counter knows the attention kernels of GPUs only.
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
    _attention_flops
}


class Flops(NamedTuple):
    """Floating-point operations of one window.

    Matrix products, convolutions and attention, where one multiplication and
    addition are two operations; norms, activations and interpolation are not
    counted.

    Args:
        test: Forward pass of a test.
        training: Forward pass of a training step, losses included.
        backbone_test: Of ``test`` what the backbone takes.
        backbone_training: Of ``training`` likewise.
    """
    test: int
    training: int
    backbone_test: int
    backbone_training: int


def forward_flops(model: nn.Module, window: WindowInput) -> Flops:
    """Work of a segmentor on the CPU on one window."""
    found = []
    for training, call in ((False, window.logits), (True, window.losses)):
        model.train(training)
        _use_running_statistics(model)
        counts = _counts(model, partial(call, model))
        of_backbone = counts[type(model.backbone).__name__]
        found.append((sum(counts['Global'].values()),
                      sum(of_backbone.values())))
    (test, of_test), (step, of_step) = found
    return Flops(test, step, of_test, of_step)


def counted_flops(model: nn.Module, call: Callable[[], object]) -> int:
    """Operations of any call of a model, as :class:`Flops` counts them."""
    return sum(_counts(model, call)['Global'].values())


def _counts(model: nn.Module, call: Callable[[], object]) -> dict:
    """Operations by module and kind."""
    counter = FlopCounterMode(
        display=False, custom_mapping=_ATTENTION_ON_CPU)
    # Not no_grad(): under it the counter fails on parameters that are given
    # to a module as inputs.
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        with counter:
            call()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return counter.get_flop_counts()


def activation_bytes(model: nn.Module, window: WindowInput) -> int:
    """Bytes that a training step keeps for its backward pass.

    Every tensor that the forward pass, losses included, saves for gradients
    counts once, except parameters and buffers. Batch norms use their running
    statistics, so that one window is enough. Not counted: what is gone when
    the forward pass ends, gradients, weights and the optimiser.

    Args:
        model: Segmentor on the CPU, float32.
        window: What it is given.
    """
    model.train()
    _use_running_statistics(model)
    return saved_bytes(model, lambda: window.losses(model))


def _use_running_statistics(model: nn.Module) -> None:
    """So that one window is enough for batch norms."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def saved_bytes(model: nn.Module, call: Callable[[], object]) -> int:
    """As :func:`activation_bytes`, of any forward pass of a model."""
    storages = (t.untyped_storage()
                for t in (*model.parameters(), *model.buffers()))
    own = {StorageWeakRef(storage).cdata for storage in storages}
    # The tensors themselves are let go, so that large models fit; a weak
    # reference keeps the identity of their memory from being used again.
    saved: dict[int, tuple[StorageWeakRef, int]] = {}

    def pack(x: Tensor) -> None:
        storage = x.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata not in own:
            saved[reference.cdata] = reference, storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(pack, _no_backward):
        call()
    return sum(size for _, size in saved.values())


def _no_backward(packed: None) -> Tensor:
    raise RuntimeError('what was saved was measured, not kept')
