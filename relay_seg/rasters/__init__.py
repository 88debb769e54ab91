"""The one place that knows files: pixels, places, polygons, and writing."""
import os

# Errors in threads of GDAL's own, which read large windows of virtual
# rasters, reach nobody: what could not be read would be zeros.
os.environ['VRT_NUM_THREADS'] = '1'

from .areas import equal_area, ground_pixel
from .files import remove_unfinished, replacing, write_text
from .grid import (
    Grid,
    grid_of,
    known_crs,
    pixel_metres,
    same_grid,
    transform_of,
)
from .identity import changed, files_of, identity
from .merging import Mosaic, mosaic_of
from .opening import (
    EXACT_OVERVIEWS,
    SUFFIXES,
    Handles,
    exact_overviews,
    open_raster,
    readable,
    reused_raster,
)
from .overwriting import MARK, is_prediction, refuse_overwriting
from .reading import (
    Content,
    check_bands,
    choose_bands,
    content_of,
    data_bands,
    raster_reader,
    read_data,
    read_region,
)
from .writing import copy_points, write_class_ids

__all__ = [
    'EXACT_OVERVIEWS', 'MARK', 'SUFFIXES', 'Content', 'Grid', 'Handles',
    'Mosaic', 'changed', 'check_bands', 'choose_bands', 'content_of',
    'copy_points',
    'data_bands', 'equal_area', 'exact_overviews', 'files_of', 'grid_of',
    'ground_pixel', 'identity', 'is_prediction', 'known_crs', 'mosaic_of',
    'open_raster',
    'pixel_metres', 'raster_reader', 'read_data', 'read_region', 'readable',
    'refuse_overwriting', 'remove_unfinished', 'replacing', 'reused_raster',
    'same_grid', 'transform_of', 'write_class_ids', 'write_text',
]
