"""Names and colours of the classes of each data set."""
from typing import Any

ARCHAEOSCAPE: dict[str, Any] = dict(
    classes=('background', 'mound', 'water', 'temple_site'),
    palette=[[200, 200, 200], [190, 120, 60], [60, 130, 220], [220, 50, 50]])
#: Those of the host's ``CityscapesDataset``.
CITYSCAPES: dict[str, Any] = dict(
    classes=('road', 'sidewalk', 'building', 'wall', 'fence', 'pole',
             'traffic light', 'traffic sign', 'vegetation', 'terrain', 'sky',
             'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle',
             'bicycle'),
    palette=[[128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156],
             [190, 153, 153], [153, 153, 153], [250, 170, 30], [220, 220, 0],
             [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60],
             [255, 0, 0], [0, 0, 142], [0, 0, 70], [0, 60, 100],
             [0, 80, 100], [0, 0, 230], [119, 11, 32]])
DUBAI: dict[str, Any] = dict(
    classes=('building', 'land', 'road', 'vegetation', 'water'),
    palette=[[60, 16, 152], [132, 41, 246], [110, 193, 228], [254, 221, 58],
             [226, 169, 41]])
GLEASON: dict[str, Any] = dict(
    classes=('benign', 'gleason_3', 'gleason_4', 'gleason_5'),
    palette=[[190, 220, 190], [250, 210, 80], [240, 130, 50], [190, 30, 45]])
URUR: dict[str, Any] = dict(
    classes=('others', 'building', 'greenhouse', 'woodland', 'farmland',
             'bareland', 'water', 'road'),
    palette=[[0, 0, 0], [230, 230, 230], [100, 100, 100], [200, 230, 160],
             [95, 163, 7], [255, 255, 100], [150, 200, 250], [240, 100, 80]])
