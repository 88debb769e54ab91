"""Scenes made up so that it is known what must pass between the views.

The window is divided into cells, and the scene around it into as many
blocks. A cell is striped, along or across; a block holds a cue somewhere
outside of the window, bright or dark. Stripes vanish in the area mean of the
global view, and the cue lies outside of the local one. The class of a cell is
that of its cue ('cue'), one of four made of stripes and cue ('both'), or
whether they agree ('agree'), which a sum of what each view knows tells in at
most three of four cases.
"""
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2

import torch
import torch.nn.functional as F
from ablations import offer_fusions
from mmseg.registry import MODELS
from torch import Tensor, nn

from relay_seg.analysis import counted_flops
from relay_seg.backbones import RelayViT
from relay_seg.views import (
    Context,
    Window,
    area_mean,
    center,
    contexts_of,
    cut_views,
    reader,
)

SIDE, CLASSES, TESTED = 32, 4, 512
LABELS = 'cue', 'both', 'agree'
BACKBONES = {
    'ViT': dict(
        type='RelayViT', in_channels=1, img_size=SIDE, patch_size=8,
        arch=dict(embed_dims=32, num_layers=3, num_heads=2,
                  feedforward_channels=64)),
    'SwinV2': dict(
        type='RelaySwinV2', in_channels=1, img_size=SIDE, patch_size=4,
        arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 2],
                  extra_norm_every_n_blocks=0),
        window_size=4, out_indices=[1], drop_path_rate=0.,
        pretrained_window_sizes=[0, 0]),
    'MiT': dict(
        type='RelayMiT', in_channels=1, embed_dims=16, num_stages=2,
        num_layers=[2, 2], num_heads=[1, 2], patch_sizes=[7, 3],
        strides=[4, 2], sr_ratios=[2, 1], out_indices=[1]),
}


@dataclass(frozen=True)
class Puzzle:
    """How hard the scenes are.

    Args:
        factor: Context factor k; the cue lies up to k / 2 windows away.
        cue: Side of a cue in native pixels.
        noise: Deviation of the noise; stripes and cues are 1 high.
        cells: Cells along a side; cells**2 bits must pass.
        label: What the class of a cell is made of, one of ``LABELS``.
    """

    factor: int = 4
    cue: int = 8
    noise: float = 0.5
    cells: int = 1
    label: str = 'both'

    def __post_init__(self) -> None:
        # A block must reach beyond the window, by a cue.
        inside = self.factor * SIDE // self.cells - self.cue
        edge = (self.factor - 1) * SIDE // 2
        middle = self.factor * SIDE // self.cells * (self.cells // 2)
        if self.cells > 1 and edge - (middle - inside - self.cue) < self.cue:
            raise ValueError(
                f'{self}: blocks in the middle lie inside of the window; use '
                'a larger factor or fewer cells.')

    @property
    def contexts(self) -> tuple[Context, ...]:
        """The global view."""
        return contexts_of((self.factor, ))

    def draw(self, count: int, generator: torch.Generator
             ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Views (B, 1, 32, 32) and labels (B, 32, 32)."""
        side = self.factor * SIDE
        scenes = self.noise * torch.randn(
            count, 1, side, side, generator=generator)
        shape = (count, self.cells, self.cells)
        cues = torch.randint(2, shape, generator=generator)
        stripes = torch.randint(2, shape, generator=generator)
        start = (side - SIDE) // 2
        window = Window(start, start, SIDE, SIDE)

        along = torch.tensor([1., -1.]).repeat(SIDE // 2).expand(SIDE, SIDE)
        striped = torch.where(self._grown(stripes, SIDE) == 1, along, along.mT)
        scenes[:, 0, start:start + SIDE, start:start + SIDE] += striped
        for scene, signs in zip(scenes, cues):
            for (i, j), sign in zip(self._places(generator), signs.flatten()):
                scene[0, i:i + self.cue, j:j + self.cue] += 2 * sign - 1
        label = dict(cue=cues, both=2 * stripes + cues,
                     agree=cues ^ stripes)[self.label]
        read = reader(scenes, 0.)
        views = cut_views(read, window, self.contexts)
        return views, self._grown(label, SIDE)

    def _grown(self, cells: Tensor, side: int) -> Tensor:
        """Cells (B, g, g) as pixels (B, side, side)."""
        size = side // self.cells
        return cells.repeat_interleave(size, 1).repeat_interleave(size, 2)

    def _places(self, generator: torch.Generator) -> list[tuple[int, int]]:
        """Where the cue of each block begins: outside of the window."""
        side = self.factor * SIDE
        block, low = side // self.cells, (side - SIDE) // 2
        places = []
        for cell in range(self.cells**2):
            origin = divmod(cell, self.cells)
            while True:
                y, x = (block * o + int(torch.randint(
                    block - self.cue + 1, (), generator=generator))
                    for o in origin)
                if not all(low - self.cue < at < low + SIDE for at in (y, x)):
                    break
            places.append((y, x))
        return places


class RelayModel(nn.Module):
    """Backbone and a linear head on the local view."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.backbone.init_weights()
        self.head = nn.LazyConv2d(CLASSES, 1)

    def forward(self, views: tuple[Tensor, ...], factor: int) -> Tensor:
        return enlarged(self.head(self.backbone(views)[0][-1]))


class PlainModel(RelayModel):
    """The local view alone."""

    def __init__(self, backbone: dict) -> None:
        super().__init__(backbone | dict(num_views=1, num_relay_tokens=0))

    def forward(self, views: tuple[Tensor, ...], factor: int) -> Tensor:
        return super().forward(views[:1], factor)


class GlobalModel(PlainModel):
    """The global view alone, its middle enlarged."""

    def forward(self, views: tuple[Tensor, ...], factor: int) -> Tensor:
        return enlarged(center(super().forward(views[1:], factor), factor))


class FusionModel(nn.Module):
    """Decision fusion: logits of two networks are added."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.local, self.wide = PlainModel(backbone), GlobalModel(backbone)

    def forward(self, views: tuple[Tensor, ...], factor: int) -> Tensor:
        return self.local(views, factor) + self.wide(views, factor)


KINDS = {'relay': RelayModel, 'plain': PlainModel,
         'global only': GlobalModel, 'decision fusion': FusionModel}


def enlarged(logits: Tensor) -> Tensor:
    return F.interpolate(logits, (SIDE, SIDE), mode='bilinear',
                         align_corners=False)


@dataclass(frozen=True)
class Trial:
    """A model on a puzzle.

    Args:
        name: What the table calls it.
        family: One of ``BACKBONES``.
        kind: One of ``KINDS``.
        puzzle: How hard the scenes are.
        options: Arguments of the backbone.
        passes: Steps, as a multiple of those of the others.
        positions: Deviation of ViT's position embeddings at the start.
    """

    name: str
    family: str
    kind: str = 'relay'
    puzzle: Puzzle = Puzzle()
    options: Mapping = field(default_factory=dict)
    passes: float = 1.
    positions: float = 0.02


def place(model: nn.Module, deviation: float) -> None:
    """Draw position embeddings; those of all views alike, as always."""
    for module in model.modules():
        if isinstance(module, RelayViT):
            nn.init.normal_(module.pos_embed, std=deviation)
            for other in module.global_pos_embed:
                other.data.copy_(module.pos_embed)


def solve(trial: Trial, seed: int, steps: int, device: str) -> dict:
    """Train ``steps`` times ``passes``, and test on new scenes.

    Returns:
        Accuracy of pixels; operations for a window, forward; and bits: what
        a channel passes that errs as often as the cells in the bit which
        only the cue tells, cell by cell.
    """
    return train_and_test(trial, seed, steps, device)[1]


def train_and_test(trial: Trial, seed: int, steps: int, device: str
                   ) -> tuple[nn.Module, dict]:
    """As :func:`solve`, with the model."""
    offer_fusions()
    torch.manual_seed(seed)
    puzzle, steps = trial.puzzle, round(steps * trial.passes)
    model = KINDS[trial.kind](
        BACKBONES[trial.family] | dict(trial.options))
    place(model, trial.positions)
    test_views, test_label = puzzle.draw(
        TESTED, torch.Generator().manual_seed(10**6 + seed))
    with torch.no_grad():  # makes the lazy head
        model(tuple(v[:2] for v in test_views), puzzle.factor)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        views, label = puzzle.draw(32, generator)
        logits = model.train()(tuple(v.to(device) for v in views),
                               puzzle.factor)
        loss = F.cross_entropy(logits, label.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logits = model.eval()(tuple(v.to(device) for v in test_views),
                              puzzle.factor)
    found = logits.argmax(1).cpu()
    accuracy = float((found == test_label).float().mean())
    with torch.no_grad():
        work = counted_flops(model, lambda: model(tuple(
            v[:1].to(device) for v in test_views), puzzle.factor))
    result = dict(accuracy=accuracy, steps=steps, flops=work)
    if puzzle.label != 'agree':  # where an error may lie in the stripes
        right = (found % 2 == test_label % 2).float()
        cell = SIDE // puzzle.cells
        by_cell = area_mean(right, cell).round().mean(0)  # majority of pixels
        result['bits'] = sum(map(passed, by_cell.flatten().tolist()))
    return model, result


def passed(accuracy: float) -> float:
    """Bits that a binary symmetric channel passes for each one sent."""
    p = min(max(accuracy, 0.5), 1.)
    return 1. if p == 1 else 1 + p * log2(p) + (1 - p) * log2(1 - p)
