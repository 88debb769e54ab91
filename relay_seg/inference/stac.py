"""A prediction as a STAC item, for catalogues."""
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from math import floor, isfinite
from pathlib import Path
from typing import Any

import rasterio
import torch
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform_geom
from torch import nn

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import (
    MARK,
    is_prediction,
    known_crs,
    open_raster,
    transform_of,
    write_text,
)
from relay_seg.rasters.remote import is_remote, shown

from .outputs import rasters_of, signature_in

EXTENSIONS = [
    f'https://stac-extensions.github.io/{name}/schema.json' for name in (
        'projection/v2.0.0', 'classification/v2.0.0', 'mlm/v1.4.0',
        'processing/v1.2.0')]
EDGE = 16  # points on each side of the outline: it bends in degrees


def write_item(path: str | Path, out: str | Path,
               inputs: Sequence[str | Path], model: nn.Module) -> None:
    """Write a STAC item (1.1) that tells what a prediction is and is from.

    Args:
        path: JSON file to write; it appears when it is whole.
        out: GeoTIFF of class ids that a prediction wrote.
        inputs: Files that it was predicted from.
        model: Model that predicted it.

    Raises:
        ValueError: No prediction wrote ``out``.
    """
    path, out = Path(path), Path(out)
    if not is_prediction(out):
        raise ValueError(f'{out} is no prediction; give the raster of classes '
                         'that tools/predict.py wrote.')
    with open_raster(out) as raster:
        tags = raster.tags(ns=MARK)
        outline = _outline(raster)
        place = _place(raster)
    assets = {kind: file for kind, file in rasters_of(out).items()
              if file == out or signature_in(file) == tags['SIGNATURE']}
    classes = _classes(tags)
    written = datetime.fromtimestamp(
        out.stat().st_mtime, timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
    item: dict[str, Any] = {MARK: 'prediction'} | dict(
        type='Feature', stac_version='1.1.0', stac_extensions=EXTENSIONS,
        id=out.stem, geometry=outline and outline[1],
        properties=dict(
            datetime=written, created=written, **place,
            **_model(tags, model, classes),
            **{'processing:software': {MARK: tags['VERSION']}}),
        links=[dict(rel='derived_from', href=_address(file))
               for file in inputs],
        assets={name: _asset(file, path, classes if name == 'classes' else [])
                for name, file in assets.items()})
    if outline:
        item['bbox'] = outline[0]
    write_text(path, json.dumps(item, indent=2, allow_nan=False) + '\n')


def _outline(raster: rasterio.DatasetReader
             ) -> tuple[list[float], dict] | None:
    """Box and polygon in degrees; None without a place on the earth.

    Over the meridian of 180 degrees the polygon is cut, and the box begins
    in the east (RFC 7946).
    """
    if not known_crs(raster.crs) or transform_of(raster).is_identity:
        return None
    height, width = raster.shape
    steps = [i / EDGE for i in range(EDGE)]
    ring = [raster.transform @ (width * x, height * y) for x, y in (
        *((0, s) for s in steps), *((s, 1) for s in steps),
        *((1, 1 - s) for s in steps), *((1 - s, 0) for s in steps))]
    try:
        found = transform_geom(
            raster.crs, 'EPSG:4326',
            dict(type='Polygon', coordinates=[[*ring, ring[0]]]), precision=8)
    except (RasterioError, CPLE_BaseError):
        return None  # of the moon, or beyond what the CRS maps
    parts = found['coordinates']
    parts = [parts] if found['type'] == 'Polygon' else parts
    if not all(isfinite(x) for part in parts for point in part[0]
               for x in point):
        return None
    rings = [piece for part in parts for piece in _cut(part[0])]
    spans = [(min(x for x, _ in piece), max(x for x, _ in piece))
             for piece in rings]
    west, east = min(x for x, _ in spans), max(x for _, x in spans)
    starts = min((a for a, b in spans if b == 180), default=-180.)
    ends = max((b for a, b in spans if a == -180), default=180.)
    if len(rings) > 1 and starts > ends:
        west, east = starts, ends
    ys = [y for piece in rings for _, y in piece]
    return [west, min(ys), east, max(ys)], (
        dict(type='MultiPolygon', coordinates=[[piece] for piece in rings])
        if len(rings) > 1 else dict(type='Polygon', coordinates=rings))


def _cut(ring: Sequence[Sequence[float]]) -> list[list[tuple[float, float]]]:
    """A ring between -180 and 180 degrees; two if it reaches over them."""
    turn = 360 * floor((min(x for x, *_ in ring) + 180) / 360)
    points: list[tuple[float, float]] = []
    for x, y, *_ in ring:
        x -= turn
        if points and (points[-1][0] - 180) * (x - 180) < 0:
            x0, y0 = points[-1]
            points.append((180., y0 + (y - y0) * (180 - x0) / (x - x0)))
        points.append((x, y))
    found = []
    for back, side in ((0, [p for p in points if p[0] <= 180]),
                       (360, [p for p in points if p[0] >= 180])):
        piece = [(round(x - back, 8), round(y, 8)) for x, y in side]
        if len({x for x, _ in piece}) > 1:  # more than to touch it
            found.append(piece if piece[0] == piece[-1]
                         else [*piece, piece[0]])
    return found


def _place(raster: rasterio.DatasetReader) -> dict:
    place: dict[str, Any] = {
        'proj:shape': list(raster.shape),
        'proj:transform': list(transform_of(raster))[:6]}
    if raster.crs:
        authority = raster.crs.to_authority()
        place['proj:code'] = ':'.join(authority) if authority else None
        if not authority:
            place['proj:wkt2'] = raster.crs.to_wkt(version='WKT2_2019')
    return place


def _classes(tags: dict[str, str]) -> list[dict]:
    names, palette = json.loads(tags['CLASS_NAMES']), json.loads(
        tags['PALETTE'])
    found = [dict(value=i, name=re.sub(r'[^\w-]+', '_', name, flags=re.A),
                  title=name, color_hint=bytes(colour).hex().upper())
             for i, (name, colour) in enumerate(zip(names, palette))]
    return [*found, dict(value=IGNORE, name='no_data', nodata=True)]


def _model(tags: dict[str, str], model: nn.Module,
           classes: list[dict]) -> dict:
    """What made it, as the extension for models (MLM) has it."""
    height, width = json.loads(tags['INPUT_SIZE'])
    bands = [f'{file}#{band}' for file, chosen in json.loads(
        tags['BANDS']).items() for band in chosen]
    backbone = type(getattr(model, 'backbone', model)).__name__
    task = 'semantic-segmentation'
    settings = {key.lower(): json.loads(tags[key]) for key in (
        'WINDOW', 'STRIDE', 'CONTEXT_FACTORS', 'CONTEXT_REDUCTIONS')}
    return {
        'mlm:name': Path(tags.get('CONFIG', '')).stem or backbone,
        'mlm:architecture': backbone, 'mlm:tasks': [task],
        'mlm:framework': 'pytorch',
        'mlm:framework_version': torch.__version__,
        'mlm:total_parameters': sum(
            parameter.numel() for parameter in model.parameters()),
        'mlm:hyperparameters': settings | dict(
            blend=tags['BLEND'],
            checkpoint_sha256=tags.get('CHECKPOINT')),
        'mlm:input': [dict(name='window', bands=bands, input=dict(
            shape=[-1, len(bands), height, width], data_type='float32',
            dim_order=['batch', 'channel', 'height', 'width']))],
        'mlm:output': [{
            'name': 'class ids', 'tasks': [task], 'result': dict(
                shape=[-1, *json.loads(tags['WINDOW'])], data_type='uint8',
                dim_order=['batch', 'height', 'width']),
            'classification:classes': classes}]}


def _asset(file: Path, item: Path, classes: list[dict]) -> dict:
    with open_raster(file) as raster:
        layout = raster.tags(ns='IMAGE_STRUCTURE').get('LAYOUT')
        media = ('application/xml' if raster.driver == 'VRT' else
                 'image/tiff; application=geotiff'
                 + '; profile=cloud-optimized' * (layout == 'COG'))
        nodata = raster.nodata
        bands = [dict(name=name or f'band {i + 1}') for i, name in enumerate(
            raster.descriptions)]
        kind = raster.dtypes[0]
    beside = file.absolute().parent == item.absolute().parent
    asset = dict(
        href=f'./{file.name}' if beside else file.absolute().as_uri(),
        type=media, roles=['data'], data_type=kind, bands=bands,
        nodata='nan' if nodata != nodata else nodata)
    if classes:
        asset['classification:classes'] = classes
    return asset


def _address(path: str | Path) -> str:
    return shown(path) if is_remote(path) else Path(path).absolute().as_uri()
