"""Write docs/images/scene_to_map.webp: a scene that turns into its map.

    python tools/predict.py sample SCENE -o MAP.tif
    python benchmarks/moving_picture.py SCENE MAP.tif
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from relay_seg.drawing import (
    colour_label,
    legend,
    reduce_label,
    stack,
    thumbnail,
)
from relay_seg.rasters import open_raster
from relay_seg.viewing.classes import read_classes

OUT = Path(__file__).parents[1] / 'docs' / 'images' / 'scene_to_map.webp'
WIDTH = 640  # pixels of the picture
STEPS = 32  # of the line that moves over the scene
LINE = 2  # pixels
STEP, STILL = 60, 1800  # milliseconds


def frames(scene: np.ndarray, drawn: np.ndarray) -> list[np.ndarray]:
    """The scene, then more and more of its map from the left, then all.

    Args:
        scene: (H, W, 3) uint8.
        drawn: The map in colour, of the same shape.
    """
    found = [scene]
    for i in range(1, STEPS):
        at = i * scene.shape[1] // STEPS
        found.append(np.concatenate([drawn[:, :at], scene[:, at:]], axis=1))
        found[-1][:, at:at + LINE] = 255
    return [*found, drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('scene', type=Path)
    parser.add_argument('map', type=Path, help='a prediction of it')
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    classes = read_classes([args.map], None)
    scene = thumbnail(args.scene, WIDTH)
    with open_raster(args.map) as raster:
        ids = reduce_label(raster.read(1), scene.shape[:2])
    key = legend(classes.names, classes.colours, scene.shape[1])
    first, *others = (
        stack([Image.fromarray(frame), key])
        for frame in frames(scene, colour_label(ids, classes.colours)))
    first.save(
        args.out, save_all=True, append_images=others, loop=0, quality=90,
        minimize_size=True,
        duration=[STILL, *[STEP] * (len(others) - 1), STILL])


if __name__ == '__main__':
    main()
