"""Nothing of a user's is written over."""
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .identity import files_of, inode
from .opening import open_raster

#: What files are marked with that a prediction wrote: a domain of metadata
#: (GeoTIFF), a text (PNG), metadata of the layer (GeoPackage) or of the file
#: (GeoParquet), a comment or a key (XML, JSON). They may be written over by
#: their like.
MARK = 'RELAY_SEG'
#: What belongs to a shapefile; the last one says who wrote it.
SHAPEFILE = '.shx', '.dbf', '.prj', '.cpg', '.shp.xml'
#: Files that cannot say it themselves, and those beside them that do.
SAID_BY = {'.csv': '.json'} | dict.fromkeys(
    ('.shp', *SHAPEFILE[:-1]), SHAPEFILE[-1])
PAM = '.aux.xml'  # what GDAL keeps beside a raster
HEAD = 200  # characters of a text within which it says so


def refuse_overwriting(outputs: Mapping[str, Path], inputs: Iterable[Path],
                       overwrite: bool = False) -> None:
    """Say before any work what would be lost by it.

    Args:
        outputs: Files to write, by what they are to the user.
        inputs: Files that are read, each with all that it depends on.
        overwrite: Write over files that no prediction wrote.

    Raises:
        ValueError: Two outputs are one file, an output is an input, also
            by a link, a folder, or a file that no prediction wrote.
    """
    names: dict[str, str] = {}
    for what, path in outputs.items():
        real = os.path.realpath(path)
        if real in names:
            raise ValueError(
                f'{path} would be written twice, as {names[real]} and as '
                f'{what}; give them different names or folders.')
        names[real] = what
    there = {what: path for what, path in outputs.items()
             if os.path.lexists(path)}
    if not there:
        return
    read = {inode(file): path for path in inputs for file in files_of(path)}
    for what, path in there.items():
        scene = read.get(inode(path))
        if scene is not None:
            raise ValueError(
                f'{path} is an input or belongs to one, {scene}: it cannot '
                f'be written as {what}; write elsewhere.')
        if path.is_dir():
            raise ValueError(f'{path} is a folder and no place for {what}; '
                             'give a file.')
        if not overwrite and not is_prediction(path):
            raise ValueError(
                f'{path} exists and is no prediction, so {what} is not '
                'written over it; remove it, write elsewhere or give '
                '--overwrite.')


def is_prediction(path: Path) -> bool:
    """Whether a file says that a prediction wrote it, and nothing else.

    What GDAL keeps beside a raster is judged by the raster, too.
    """
    try:
        if beside := SAID_BY.get(path.suffix.lower()):
            path = path.with_suffix(beside)
        suffix = path.suffix.lower()
        if suffix == '.xml' and MARK in path.read_text():
            return True
        if path.name.endswith(PAM):  # GDAL adds to it, and drops comments
            return path.exists() and is_prediction(
                path.with_name(path.name.removesuffix(PAM)))
        if suffix == '.xml':
            return False
        if suffix in ('.json', '.geojson'):
            with path.open(encoding='utf-8') as text:
                return f'"{MARK}":' in text.read(HEAD)
        if suffix == '.parquet':
            from pyarrow.parquet import read_schema
            return MARK.encode() in (read_schema(path).metadata or ())
        if suffix == '.gpkg':
            import pyogrio
            layers = pyogrio.list_layers(path)
            return len(layers) == 1 and MARK in (
                pyogrio.read_info(path)['layer_metadata'] or ())
        with open_raster(path) as raster:
            return bool(raster.tags(ns=MARK)) or MARK in raster.tags()
    except (ImportError, OSError, ValueError, RuntimeError):
        return False  # what cannot be read is another's
