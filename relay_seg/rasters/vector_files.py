"""Polygons into files that GIS opens, a part at a time.

shapely, pyogrio and pyarrow are imported where they are used: what writes no
polygons does not need them.
"""
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rasterio.crs import CRS

from .files import naming, replacing
from .overwriting import MARK, SHAPEFILE

#: Packages that write each kind of file, and how to get them.
PACKAGES = {
    '.gpkg': ('pyogrio', 'shapely'), '.shp': ('pyogrio', 'shapely'),
    '.geojson': ('shapely', ), '.parquet': ('shapely', 'pyarrow')}
#: Indices that others made beside a shapefile: of the former one.
INDICES = '.qix', '.sbn', '.sbx'
#: GeoJSON is in degrees (RFC 7946), with a tenth of a millimetre.
DEGREES, DECIMALS = 'EPSG:4326', 9
#: Files of the same polygons are the same.
DATE = '2000-01-01'
CONTENT = 'classes as polygons'


def check_letters(path: Path) -> None:
    """Can pyogrio open a file of this name?

    Raises:
        ValueError: It would open another one: before ! stands an archive.
    """
    if found := set('!;') & set(str(path)):
        raise ValueError(
            f'{path} has {" and ".join(sorted(found))} in its name, which '
            'pyogrio takes for an archive; name file or folder otherwise.')


def check_name(path: Path, beside: Path | None = None) -> None:
    """Can such a file be written?

    Args:
        path: The file.
        beside: Output in the folder of whose blocks it is made.

    Raises:
        ValueError: The name has an ending that is not known, or letters
            that it cannot have.
        ImportError: A package is missing.
    """
    kinds = list(PACKAGES)
    if path.suffix.lower() == '.shp' != path.suffix:
        raise ValueError(f'{path}: GDAL writes the files of a shapefile in '
                         f'small letters; name it {path.with_suffix(".shp")}.')
    if path.suffix.lower() not in kinds:
        raise ValueError(
            f'{path}: polygons are written with the endings '
            f'{", ".join(kinds)}; name it {path.with_suffix(kinds[0])}.')
    if 'pyogrio' in PACKAGES[path.suffix.lower()]:
        for name in filter(None, (path, beside)):
            check_letters(name)
    for package in PACKAGES[path.suffix.lower()]:
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f'{path} needs {package}: pip install {package}, or write '
                f'{path.with_suffix(".gpkg")}.') from error


def files_of_vectors(path: Path) -> list[Path]:
    """All files that a name stands for; itself, by which it counts, last."""
    beside = SHAPEFILE if path.suffix.lower() == '.shp' else ()
    return [*(path.with_suffix(suffix) for suffix in beside), path]


def move_vectors(path: Path, target: Path) -> None:
    """Give what was written another name, all files of it."""
    for old in [target.with_suffix(x) for x in INDICES] if (
            target.suffix.lower() == '.shp') else []:
        old.unlink(missing_ok=True)
    for here, there in zip(files_of_vectors(path), files_of_vectors(target)):
        if not here.exists():  # such as .prj, without a CRS
            there.unlink(missing_ok=True)
            continue
        try:
            here.replace(there)
        except OSError:  # another disk
            with replacing(there) as near, naming(there):
                near.write_bytes(here.read_bytes())


class Writer(Protocol):
    """A file of polygons that grows."""

    def append(self, polygons: np.ndarray, columns: Sequence[np.ndarray]
               ) -> None:
        """Add polygons (N, ), and N values of each attribute."""

    def finish(self) -> None:
        """All is there."""

    def close(self) -> None:
        """Let go of the file."""


@contextmanager
def vector_writer(path: Path, fields: Mapping[str, type],
                  crs: CRS | None) -> Iterator[Writer]:
    """A file of polygons, by the ending of its name.

    Args:
        path: File to write; see :func:`check_name`.
        fields: Type of each attribute.
        crs: CRS of the polygons; for ``.geojson`` they are in
            :data:`DEGREES`.

    Raises:
        OSError: It cannot be written.
    """
    kinds: dict[str, Any] = {'.geojson': _GeoJson, '.parquet': _Parquet}
    with naming(path):
        writer = kinds.get(path.suffix.lower(), _Ogr)(path, fields, crs)
    try:
        yield writer
        with naming(path):
            writer.finish()
    finally:
        writer.close()


class _Ogr:
    """GeoPackage or shapefile."""

    def __init__(self, path: Path, fields: Mapping[str, type],
                 crs: CRS | None) -> None:
        self._path, self._fields, self._crs = path, fields, crs
        self._geo = path.suffix.lower() == '.gpkg'
        self._count: int | None = None
        for old in files_of_vectors(path):
            old.unlink(missing_ok=True)

    def append(self, polygons: np.ndarray, columns: Sequence[np.ndarray]
               ) -> None:
        import pyogrio.raw
        import shapely
        first = self._count is None
        options: dict[str, Any] = dict(
            driver='GPKG', layer='classes',
            layer_metadata={MARK: CONTENT} if first else None
        ) if self._geo else dict(driver='ESRI Shapefile', encoding='UTF-8')
        with naming(self._path), _dated():
            pyogrio.raw.write(
                self._path, shapely.to_wkb(polygons), list(columns),
                list(self._fields), geometry_type='Polygon',
                crs=self._crs.to_wkt() if self._crs else None,
                append=not first, **options)
        self._count = (self._count or 0) + len(polygons)

    def finish(self) -> None:
        import pyogrio
        if self._count is None:
            self.append(np.empty(0, object), [
                np.empty(0, kind) for kind in self._fields.values()])
        found = pyogrio.read_info(
            self._path, force_feature_count=True)['features']
        if found != self._count:
            raise OSError(f'{found} of {self._count} are there')
        if not self._geo:
            self._path.with_suffix('.shp.xml').write_text(
                f'<metadata><{MARK}>{CONTENT}</{MARK}></metadata>\n')
            with self._path.with_suffix('.dbf').open('r+b') as table:
                table.seek(1)  # the day of the last change
                table.write(bytes((100, 1, 1)))

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _dated() -> Iterator[None]:
    import pyogrio
    name = 'OGR_CURRENT_DATE'
    before = pyogrio.get_gdal_config_option(name)
    pyogrio.set_gdal_config_options({name: f'{DATE}T00:00:00.000Z'})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({name: before})


class _GeoJson:
    """A collection of features, one in a line.

    GDAL reads what is there into memory before it adds more.
    """

    def __init__(self, path: Path, fields: Mapping[str, type],
                 crs: CRS | None) -> None:
        self._path, self._fields, self._between = path, fields, '\n'
        self._file = path.open('w', encoding='utf-8')
        self._file.write(
            f'{{"type": "FeatureCollection", "{MARK}": "{CONTENT}", '
            '"features": [')

    def append(self, polygons: np.ndarray, columns: Sequence[np.ndarray]
               ) -> None:
        import shapely
        shapes = shapely.to_geojson(shapely.orient_polygons(polygons))
        with naming(self._path):
            for shape, *values in zip(shapes, *(x.tolist() for x in columns)):
                own = json.dumps(dict(zip(self._fields, values)))
                self._file.write(
                    f'{self._between}{{"type": "Feature", "properties": '
                    f'{own}, "geometry": {shape}}}')
                self._between = ',\n'

    def finish(self) -> None:
        self._file.write('\n]}\n')
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """GeoParquet 1.0; GDAL, as it comes with pyogrio, writes none."""

    def __init__(self, path: Path, fields: Mapping[str, type],
                 crs: CRS | None) -> None:
        import pyarrow
        import pyarrow.parquet
        geo = dict(version='1.0.0', primary_column='geometry', columns=dict(
            geometry=dict(
                encoding='WKB', geometry_types=['Polygon'],
                crs=crs.to_dict(projjson=True) if crs else None)))
        kinds = {str: pyarrow.string(), int: pyarrow.int32(),
                 float: pyarrow.float64()}
        self._path, self._schema = path, pyarrow.schema(
            [*((name, kinds[kind]) for name, kind in fields.items()),
             ('geometry', pyarrow.binary())],
            {'geo': json.dumps(geo), MARK: CONTENT})
        self._writer = pyarrow.parquet.ParquetWriter(
            path, self._schema, compression='zstd')

    def append(self, polygons: np.ndarray, columns: Sequence[np.ndarray]
               ) -> None:
        import pyarrow
        import shapely
        with naming(self._path):
            self._writer.write_table(pyarrow.table(
                [*columns, shapely.to_wkb(polygons)], schema=self._schema))

    def finish(self) -> None:
        """The last part is written as it is closed."""

    def close(self) -> None:
        with naming(self._path):
            self._writer.close()
