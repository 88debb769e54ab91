"""The files that a prediction writes, and where it must not write."""
import shutil
from collections.abc import Sequence
from pathlib import Path

from relay_seg.rasters import (
    MARK,
    is_prediction,
    open_raster,
    refuse_overwriting,
)
from relay_seg.rasters.files import replacing
from relay_seg.rasters.vector_files import (
    PACKAGES,
    check_name,
    files_of_vectors,
    move_vectors,
)

from .blocks import CLASSES, refuse_foreign
from .inputs import Scene
from .settings import Settings
from .writing import sidecar

#: How the names of outputs end.
OUT_SUFFIXES = ('.tif', '.tiff'), ('.vrt', )
SUFFIXES: dict[str, tuple[str, ...]] = {
    '--preview': ('.png', ), '--stac': ('.json', )}
#: Endings that are added to the name of a raster, for overviews and
#: statistics of it.
KEPT_BESIDE = '.ovr', '.aux.xml'
#: Share of their plain size that blocks and output take together, at most:
#: class ids compress well, probabilities little.
CLASSES_SHARE, PROBABILITIES_SHARE = 0.5, 2.


def rasters_of(out: Path) -> dict[str, Path]:
    """Where each kind of raster goes."""
    return {CLASSES: out} | {
        kind: out.with_name(f'{out.stem}_{kind}{out.suffix}')
        for kind in ('probabilities', 'confidence')}


def scores_of(classes: Path) -> Path:
    """Where the scores of a prediction go, with a table beside (.csv)."""
    return classes.with_name(f'{classes.stem}_scores.json')


def signature_in(path: Path) -> str:
    """What a raster was predicted with, as it says; else nothing."""
    if not is_prediction(path):
        return ''
    with open_raster(path) as raster:
        return raster.tags(ns=MARK).get('SIGNATURE', '')


def outputs_of(out: Path, settings: Settings) -> dict[str, Path]:
    """Files that are written for a scene, by the option that asks for it."""
    found = {'--out': out, 'class names': sidecar(out)}
    for kind, path in rasters_of(out).items():
        if getattr(settings, kind, None):
            found[f'--{kind}'] = path
    for name in ('preview', 'stac'):
        if getattr(settings, name):
            found[f'--{name}'] = Path(getattr(settings, name))
    if settings.truth:
        found['scores'] = scores_of(out)
        found['their table'] = scores_of(out).with_suffix('.csv')
    if settings.polygons:
        *others, polygons = files_of_vectors(Path(settings.polygons))
        found['--polygons'] = polygons
        found |= {f'--polygons ({x.suffix})': x for x in others}
    return found


def refuse(scenes: Sequence[tuple[Scene, Settings]]) -> None:
    """Say before any work what must not be written.

    Args:
        scenes: Scenes with the settings of each, the names of its files
            among them.

    Raises:
        ValueError: See :func:`refuse_overwriting`; or a file has a name of
            another format.
        ImportError: A package that writes polygons is missing.
    """
    outputs: dict[str, Path] = {}
    inputs: list[Path] = []
    for scene, settings in scenes:
        of = f' of {scene}' if len(scenes) > 1 else ''
        inputs += scene.paths
        inputs += [Path(x) for x in (settings.aoi, settings.truth) if x]
        if settings.polygons:
            check_name(Path(settings.polygons), scene.out)
        for what, path in outputs_of(scene.out, settings).items():
            suffixes = (OUT_SUFFIXES[settings.output_format == 'vrt']
                        if what == '--out'
                        else SUFFIXES.get(what, (path.suffix.lower(), )))
            if path.suffix.lower() not in suffixes:
                raise ValueError(f'{what} {path}: such a file is written '
                                 f'with the ending {suffixes[0]}; name it '
                                 f'{path.with_suffix(suffixes[0])}.')
            outputs[what + of] = path
        refuse_foreign(scene.out)
    refuse_overwriting(
        outputs, dict.fromkeys(inputs),
        overwrite=any(settings.overwrite for _, settings in scenes))


def refuse_unwritable(paths: Sequence[Path]) -> None:
    """Raise an ``OSError`` if a folder cannot be written to."""
    for path in paths:
        folder = path.absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f'.{path.name}.probe'
            probe.touch()
            probe.unlink(missing_ok=True)  # others may probe, too
        except OSError as error:
            raise OSError(f'{folder} cannot be written to ({error}); '
                          'choose another output folder.') from error


def refuse_full_disk(out: Path, shape: tuple[int, int], share: float,
                     chances: int) -> None:
    """Raise an ``OSError`` if blocks and output find no room.

    Args:
        out: File with the classes.
        shape: Its height and width.
        share: Share of the blocks that are still to be made.
        chances: Bytes of a pixel's probabilities.
    """
    wanted = shape[0] * shape[1] * (0.5 + 0.5 * share) * (
        CLASSES_SHARE + PROBABILITIES_SHARE * chances)
    free = shutil.disk_usage(out.absolute().parent).free
    if free < wanted:
        raise OSError(
            f'{out} needs about {wanted / 1e9:.2f} GB but '
            f'{free / 1e9:.2f} GB are free; make room or write elsewhere.')


def publish_all(finished: Sequence[tuple[Path, Path]]) -> None:
    """Give finished files their names, in their order.

    What GDAL and GIS keep beside one of before goes: it tells of that one.
    """
    for _, target in finished:
        for ending in KEPT_BESIDE:
            target.with_name(target.name + ending).unlink(missing_ok=True)
    for path, target in finished:
        publish(path, target)


def publish(path: Path, target: Path) -> None:
    """Give a finished file its name, also on another disk."""
    if target.suffix.lower() in PACKAGES:
        move_vectors(path, target)
        return
    try:
        path.replace(target)
    except OSError:
        with replacing(target) as near:
            shutil.copyfile(path, near)
