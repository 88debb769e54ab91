"""Choices that the library does not offer, to see what they would change.

Classes stand in MMSegmentation's registry, and fusions join those of
:data:`relay_seg.relay.FUSIONS` when a run asks for it, so that configs of the
experiments name them.
"""
from collections.abc import Sequence
from copy import deepcopy
from math import log

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.backbones import RelaySwinV2, RelayViT
from relay_seg.backbones.swin_block import RelaySwinBlock, Shape
from relay_seg.losses import AgreementLoss
from relay_seg.relay import FUSIONS, Block, Branches


def local_first(block: Block, branches: Branches,
                relay: Tensor) -> tuple[Branches, Tensor]:
    """Sequential the other way: what the global view adds comes a block late.
    """
    updated = []
    for x in branches:
        x, relay = block(x, relay)
        updated.append(x)
    return tuple(updated), relay


def apart(block: Block, branches: Branches,
          relay: Tensor) -> tuple[Branches, Tensor]:
    """Each view keeps relay tokens of its own: nothing passes between them."""
    n = len(branches)
    if len(relay) == len(branches[0]):  # before the first block
        relay = relay.repeat(n, 1, 1)
    x, relay = block(torch.cat(branches), relay)
    return x.unflatten(0, (n, -1)).unbind(), relay


class BlockOfEachView:
    """A block for each view, called in place of a shared one."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)


def per_view(block: BlockOfEachView, branches: Branches,
             relay: Tensor) -> tuple[Branches, Tensor]:
    """Sequential, each view through its own block."""
    updated = []
    for x, own in zip(reversed(branches), reversed(block.blocks)):
        x, relay = own(x, relay)
        updated.append(x)
    return tuple(reversed(updated)), relay


def offer_fusions() -> None:
    """Let configs of this process name the fusions above."""
    FUSIONS.update(local_first=local_first, apart=apart, per_view=per_view)


class SeparateBlocks:
    """Mixin: the global view has blocks of its own, copies at the start."""

    def __init__(self, **kwargs) -> None:
        super().__init__(fusion='per_view', **kwargs)
        for block in self.all_blocks():
            block.add_module('of_global_view', deepcopy(block))

    def init_weights(self) -> None:
        super().init_weights()
        for block in self.all_blocks():
            own = block.of_global_view.state_dict()
            block.of_global_view.load_state_dict(
                {k: v for k, v in block.state_dict().items() if k in own})

    def _prepare(self, block: nn.Module, *shape) -> BlockOfEachView:
        return BlockOfEachView(super(SeparateBlocks, self)._prepare(b, *shape)
                       for b in (block, block.of_global_view))


@MODELS.register_module()
class SeparateViT(SeparateBlocks, RelayViT):
    """RelayViT with blocks of its own for each view."""

    def all_blocks(self) -> list[nn.Module]:
        return list(self.layers)


@MODELS.register_module()
class SeparateSwinV2(SeparateBlocks, RelaySwinV2):
    """RelaySwinV2 with blocks of its own for each view."""

    def all_blocks(self) -> list[nn.Module]:
        return [block for stage in self.stages for block in stage.blocks]


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

    def bias_of_wide_view(self, shape: Shape) -> Tensor:
        msa = self.attn.w_msa
        near = msa.relative_coords_table
        # The table holds log2(1 + |d|) / 3 of scaled distances d.
        far = near.sign() * torch.log1p(
            self.wider * torch.expm1(near.abs() * log(8))) / log(8)
        msa.relative_coords_table = far
        try:
            return self._attention_bias(shape)
        finally:
            msa.relative_coords_table = near


@MODELS.register_module()
class ScaledBiasSwinV2(RelaySwinV2):
    """Coordinates of the global view's position bias are those on the ground.

    A step between its tokens counts ``wider`` steps between local ones.
    """

    def __init__(self, wider: int = 4, **kwargs) -> None:
        super().__init__(fusion='per_view', **kwargs)
        for stage in self.stages:
            for block in stage.blocks:
                block.__class__ = WideBlock
                block.wider = wider

    def _prepare(self, block: WideBlock, shape: Shape) -> BlockOfEachView:
        local = super()._prepare(block, shape)
        wide = block.bias_of_wide_view(shape)
        return BlockOfEachView((local, lambda x, relay: block(
            x, relay, shape=shape, bias=wide)))


@MODELS.register_module()
class DetachedAgreementLoss(AgreementLoss):
    """The local branch teaches the global one, and learns nothing from it."""

    def forward(self, local_logits: Tensor, *args) -> Tensor:
        return super().forward(local_logits.detach(), *args)
