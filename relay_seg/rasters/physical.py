"""Pixel sizes of what has no place on the earth, such as pathology scans."""
import re

from rasterio.io import DatasetReader

from .grid import grid_of, pixel_metres

UM = 1e-6  # metres in a micrometre
#: Resolutions of TIFF, in pixels a metre, by their unit.
UNITS = {'2': 1 / 0.0254, '3': 100.}
#: Coarser resolutions in micrometres are for printers: 72 to 1200 dpi.
PRINTED = 20.
#: Sizes that differ by a smaller share are one.
PIXEL_SLACK = 0.01
#: Of OME-XML, in metres.
OME_UNITS = {'nm': 1e-9, 'µm': UM, 'um': UM, 'mm': 1e-3, 'cm': 1e-2, 'm': 1.}


class Micrometres(float):
    """A length in micrometres, where other numbers are in units of a CRS."""

    def __str__(self) -> str:
        return f'{float(self):g}um'

    __repr__ = __str__


def length(text: str | float) -> float:
    """What an option says: ``0.5`` or ``0.5um``."""
    if isinstance(text, float | int):
        return text
    found = re.fullmatch(r'([\d.eE+-]+)(um|µm|μm)?', text.strip())
    try:
        return (Micrometres if found and found[2] else float)(
            found[1] if found else text)
    except ValueError:
        raise ValueError(f'{text!r} is no length; give a number such as 0.5 '
                         'in units of the CRS, or 0.5um.') from None


def physical_pixel(raster: DatasetReader) -> float | None:
    """Side of a pixel in metres, by the tags of a file without a place.

    ``MPP`` of Aperio, ``PhysicalSizeX`` of OME-XML, else the resolution of
    TIFF, where it is finer than printers print.
    """
    if raster.crs is not None or not raster.transform.is_identity:
        return None
    tags = raster.tags()
    text = tags.get('TIFFTAG_IMAGEDESCRIPTION', '')
    if found := re.search(r'\bMPP\s*=\s*([\d.]+)', text):
        return float(found[1]) * UM or None
    sides = [_ome(text, f'PhysicalSize{axis}') or _resolution(tags, axis)
             for axis in 'XY']
    if None in sides:
        return None
    return (sides[0] * sides[1])**0.5  # type: ignore[operator]


def pixel_side(raster: DatasetReader) -> float | None:
    """Side of a pixel in metres, by place or tags; None if neither says."""
    return pixel_metres(grid_of(raster)) or physical_pixel(raster)


def _ome(text: str, name: str) -> float | None:
    found = re.search(rf'\b{name}="([\d.eE+-]+)"', text)
    unit = re.search(rf'\b{name}Unit="([^"]+)"', text)
    scale = OME_UNITS.get(unit[1] if unit else 'µm')
    return float(found[1]) * scale or None if found and scale else None


def _resolution(tags: dict[str, str], axis: str) -> float | None:
    unit = UNITS.get(tags.get('TIFFTAG_RESOLUTIONUNIT', '')[:1])
    number = float(tags.get(f'TIFFTAG_{axis}RESOLUTION', 0))
    if not unit or not number > 0:
        return None
    side = 1 / (number * unit)
    return side if side < PRINTED * UM else None
