"""The one place that knows files: pixels, places, polygons, and writing."""
from .files import remove_unfinished, replacing, write_text
from .grid import (
    Grid,
    grid_of,
    known_crs,
    pixel_metres,
    same_grid,
    transform_of,
)
from .reading import (
    EXACT_OVERVIEWS,
    Content,
    choose_bands,
    content_of,
    data_bands,
    exact_overviews,
    open_raster,
    raster_reader,
    read_data,
    read_region,
    reused_raster,
)
from .writing import write_class_ids

__all__ = [
    'EXACT_OVERVIEWS', 'Content', 'Grid', 'choose_bands', 'content_of',
    'data_bands', 'exact_overviews', 'grid_of', 'known_crs', 'open_raster',
    'pixel_metres', 'raster_reader', 'read_data', 'read_region',
    'remove_unfinished', 'replacing', 'reused_raster', 'same_grid',
    'transform_of', 'write_class_ids', 'write_text',
]
