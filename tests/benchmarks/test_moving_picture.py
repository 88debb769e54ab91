import numpy as np
from moving_picture import OUT, frames
from PIL import Image


def test_the_scene_becomes_its_map_from_the_left():
    scene, drawn = np.zeros((4, 640, 3), np.uint8), np.full((4, 640, 3), 9)
    first, *moving, last = frames(scene, drawn)
    assert (first == scene).all() and (last == drawn).all()
    shares = [(frame == 9).mean() for frame in moving]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] < 1


def test_the_picture_is_small():
    assert OUT.stat().st_size < 1e6
    with Image.open(OUT) as picture:
        assert picture.is_animated
