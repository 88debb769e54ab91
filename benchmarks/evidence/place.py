"""Where relay tokens listen and where they are heard, after training.

    python benchmarks/evidence/place.py docs/images/place.png

trains a small SwinV2 on four cues, one in each quarter of the surroundings
(a minute), and draws the bias by place of its relay tokens.
"""
import argparse
import logging
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from puzzle import Puzzle, Trial, train_and_test
from torch import Tensor

from relay_seg.backbones.place import PlaceBias, places

SHOWN = 4  # relay tokens
FINE = 48, 48  # places drawn


@torch.no_grad()
def maps(bias: PlaceBias) -> tuple[Tensor, Tensor]:
    """Where relay tokens listen and are heard, mean of heads: (R, h, w)."""
    where = places(FINE, torch.device('cpu'))
    logits = bias(where[:0], where), bias(where, where[:0])
    listens = logits[0].mean(0)[:, :-SHOWN]  # (R, N)
    heard = logits[1].mean(0)[:-SHOWN].mT  # (R, N)
    return tuple(x.unflatten(1, FINE) for x in (listens, heard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('--steps', type=int, default=300)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    model, result = train_and_test(Trial(
        'place', 'SwinV2', puzzle=Puzzle(label='cue', cells=2), passes=4.,
        options=dict(relay_place='bias', num_relay_tokens=SHOWN)), 0,
        args.steps, 'cpu')
    print(f'{result["bits"]:.2f} of 4 bits')
    block = model.backbone.stages[0].blocks[0]
    figure = Figure(figsize=(9, 4.6), layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, SHOWN)
    for row, words, drawn in zip(
            rows, ('listens', 'is heard'), maps(block.relay_place)):
        for i, (axes, image) in enumerate(zip(row, drawn)):
            axes.imshow(image - image.mean(), cmap='RdBu_r', vmin=-8, vmax=8,
                        extent=(-1, 1, 1, -1))
            axes.set(title=f'relay token {i + 1} {words}', xticks=(-1, 0, 1),
                     yticks=(-1, 0, 1))
    figure.savefig(args.out, dpi=90)


if __name__ == '__main__':
    main()
