from .augment import FlipViews, PhotoMetricViews
from .packing import PackViews
from .reading import ReadScene, ReadViews, SampleWindow

__all__ = [
    'FlipViews', 'PackViews', 'PhotoMetricViews', 'ReadScene', 'ReadViews',
    'SampleWindow'
]
