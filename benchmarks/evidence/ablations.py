"""Choices that the library does not offer, to see what they would change.

Classes stand in MMSegmentation's registry, and fusions join those of
:data:`relay_seg.relay.FUSIONS` when a run asks for it, so that configs of the
experiments name them.
"""
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from math import log

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.backbones.swin_block import RelaySwinBlock, Shape
from relay_seg.backbones.vit_block import vit_block
from relay_seg.losses import AgreementLoss
from relay_seg.relay import FUSIONS, Block, Branches


def local_first(blocks: Sequence[Block], branches: Branches, relay: Tensor,
                local_only: bool) -> tuple[Branches, Tensor]:
    """Sequential the other way: what the global view adds comes a block late.
    """
    updated = []
    for block, x in zip(blocks, branches):
        x, relay = block(x, relay)
        updated.append(x)
    return tuple(updated), relay


def apart(blocks: Sequence[Block], branches: Branches, relay: Tensor,
          local_only: bool) -> tuple[Branches, Tensor]:
    """Each view keeps relay tokens of its own: nothing passes between them."""
    n = len(branches)
    if len(relay) == len(branches[0]):  # before the first block
        relay = relay.repeat(n, 1, 1)
    x, relay = blocks[0](torch.cat(branches), relay)
    return x.unflatten(0, (n, -1)).unbind(), relay


def offer_fusions() -> None:
    """Let configs of this process name the fusions above."""
    FUSIONS.update(local_first=local_first, apart=apart)


class SeparateBlocks:
    """Mixin: the global view has blocks of its own, copies at the start."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        for block in self.all_blocks():
            block.add_module('of_global_view', deepcopy(block))

    def init_weights(self) -> None:
        super().init_weights()
        for block in self.all_blocks():
            own = block.of_global_view.state_dict()
            block.of_global_view.load_state_dict(
                {k: v for k, v in block.state_dict().items() if k in own})


@MODELS.register_module()
class SeparateViT(SeparateBlocks, RelayViT):
    """RelayViT with blocks of its own for each view."""

    def all_blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def _prepare(self, i: int, shapes: Sequence) -> list[Block]:
        own = self.layers[i].of_global_view
        return [self._step(i, shapes[0]),
                *(partial(vit_block, own, None) for _ in shapes[1:])]


class SparseRelay:
    """Mixin: relay tokens take part in some blocks only.

    Args:
        relay_blocks: Numbers of these blocks, counted through all stages.
        kwargs: Those of the backbone.
    """

    def __init__(self, relay_blocks: Sequence[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.relay_blocks = set(relay_blocks)

    def _prepare(self, block: nn.Module | int, shapes: Sequence
                 ) -> list[Block]:
        steps = super()._prepare(block, shapes)
        number = block if isinstance(block, int) else [
            b for stage in self.stages for b in stage.blocks].index(block)
        if number in self.relay_blocks:
            return steps
        return [self.without(block, shape) for shape in shapes]


@MODELS.register_module()
class SparseViT(SparseRelay, RelayViT):
    """RelayViT whose relay tokens take part in some layers."""

    def without(self, i: int, shape: Shape) -> Block:
        def step(x: Tensor, relay: Tensor, relay_only: bool = False):
            return x if relay_only else self.layers[i](x), relay
        return step


@MODELS.register_module()
class SparseSwinV2(SparseRelay, RelaySwinV2):
    """RelaySwinV2 whose relay tokens take part in some blocks."""

    def without(self, block: RelaySwinBlock, shape: Shape) -> Block:
        return partial(block.forward_plain, shape)


class SharedStem:
    """Mixin: the views share patch and position embedding."""

    def _build_relay(self, embed_dims: int) -> None:
        super()._build_relay(embed_dims)
        for local, twins in self.stem.items():
            getattr(self, twins)[0] = getattr(self, local)


@MODELS.register_module()
class SharedStemViT(SharedStem, RelayViT):
    """RelayViT with one patch and one position embedding."""


@MODELS.register_module()
class SharedStemSwinV2(SharedStem, RelaySwinV2):
    """RelaySwinV2 with one patch embedding."""


class WideBlock(RelaySwinBlock):
    """Position bias for tokens that lie ``wider`` times as far apart."""

    wider = 1

    def bias_of_wide_view(self, shape: Shape, size: int) -> Tensor:
        msa = self.attn.w_msa
        near = msa.relative_coords_table
        # The table holds log2(1 + |d|) / 3 of scaled distances d.
        far = near.sign() * torch.log1p(
            self.wider * torch.expm1(near.abs() * log(8))) / log(8)
        msa.relative_coords_table = far
        try:
            return self._attention_bias(shape, size)
        finally:
            msa.relative_coords_table = near


@MODELS.register_module()
class ScaledBiasSwinV2(RelaySwinV2):
    """Coordinates of the global view's position bias are those on the ground.

    A step between its tokens counts ``wider`` steps between local ones.
    """

    def __init__(self, wider: int = 4, **kwargs) -> None:
        super().__init__(**kwargs)
        for stage in self.stages:
            for block in stage.blocks:
                block.__class__ = WideBlock
                block.wider = wider

    def _prepare(self, block: WideBlock, shapes: Sequence) -> list[Block]:
        local, *others = super()._prepare(block, shapes)
        shape = shapes[0]
        size = block.window_size(shape, shape)
        wide = partial(
            block, shape, size, block.bias_of_wide_view(shape, size))
        return [local, *(wide for _ in others)]


@MODELS.register_module()
class DetachedAgreementLoss(AgreementLoss):
    """The local branch teaches the global one, and learns nothing from it."""

    def forward(self, local_logits: Tensor, *args) -> Tensor:
        return super().forward(local_logits.detach(), *args)
