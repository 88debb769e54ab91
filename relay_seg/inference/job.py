"""One scene on its way to its outputs, through parts on disk."""
import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import rasterio
from mmengine.logging import MMLogger
from torch import Tensor

import relay_seg
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .aoi import Area, read_area
from .checks import check_scene
from .deciding import chances_of, decide, to_cpu
from .forward import Forward
from .model import Bands, Classes, bands_of, classes_of, weights_digest
from .parts import PartRows, Parts
from .polygons import write_polygons
from .preview import write_preview
from .raster_source import RasterSource
from .settings import AMP, Progress, Report, Settings, plan_for
from .stream import Timer, counting, stream
from .team import Team, share, together
from .writing import (
    NAMESPACE,
    NODATA,
    Grid,
    Growing,
    class_ids,
    name_categories,
    probabilities,
    quantise,
    sidecar,
)

#: Share of their plain size that parts and output take together: parts are
#: plain, outputs compress well (class ids) or little (probabilities).
CLASSES_SHARE, PROBABILITIES_SHARE = 1.5, 2.
#: A band costs a little even where it has no window to compute.
EMPTY_BAND = 0.01
#: Finished bands that wait to be written.
WAITING = 4


class Job:
    """One scene on its way to its output."""

    def __init__(self, model: SlideEncoderDecoder, scene: Sequence,
                 out: Path, settings: Settings, team: Team) -> None:
        self.model = model.eval()
        self.out, self.settings, self.team = out, settings, team
        self.classes: Classes = classes_of(model)
        bands: Bands = bands_of(model, settings.bands)
        self.source = RasterSource(
            scene, bands, pixel_size=settings.pixel_size,
            skip_damaged=settings.on_error == 'skip')
        check_scene(self.source, model)
        self.area: Area | None = None
        self.plan = plan_for(model, self.source.shape, settings)
        if settings.aoi:
            self.area = read_area(settings.aoi, self.source)
            self.plan = replace(
                self.plan, touched=self.area.touched(self.plan))
            if not len(self.plan):
                MMLogger.get_current_instance().warning(
                    f'no polygon of {settings.aoi} touches '
                    f'{self.source.name}: all of it becomes no data.')
        self.grid = Grid(*self.source.shape, self.source.crs,
                         self.source.transform)
        self.parts = Parts(out)
        self._whole = 0  # first bands that are there
        self._growing: dict[str, Growing] = {}
        self.timer = Timer(model.data_preprocessor.device)
        # Nothing of it changes what an output is computed from.
        later = dict.fromkeys((
            'threads', 'output_format', 'polygons', 'min_area', 'preview',
            'cuda_graph'))
        self.signature = dict(
            relay_seg=relay_seg.__version__,
            inputs=[_identity(path) for path in self.source.paths],
            aoi=_identity(Path(settings.aoi)) if settings.aoi else None,
            weights=weights_digest(model),
            mean=bands.mean.flatten().tolist(),
            std=bands.std.flatten().tolist(),
            plan=[self.plan.size, self.plan.stride, self.plan.blend,
                  model.test_cfg.get('batch_size'), self.plan.factors,
                  self.plan.input_size],
            classes=asdict(self.classes),
            settings={k: v for k, v in asdict(settings).items()
                      if k not in later})
        # As it is read back.
        self.signature = json.loads(json.dumps(self.signature, default=str))
        if team.rank == 0:
            self._check_output()

    def _check_output(self) -> None:
        """Say before any work what cannot end well."""
        if self.settings.polygons:
            for package in ('pyogrio', 'shapely'):
                import_module(package)
        wanted = [self.out, self.settings.polygons, self.settings.preview]
        for path in filter(None, wanted):
            folder = Path(path).absolute().parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f'.{Path(path).name}.probe'
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise OSError(f'{folder} cannot be written to ({error}); '
                              'choose another output folder.') from error
        if any(self.out.absolute() == path.absolute()
               for path in self.source.paths):
            raise ValueError(f'{self.out} is an input; write elsewhere.')
        if self.out.exists() and self._tags_of(self.out) is None:
            raise ValueError(f'{self.out} exists and is no prediction; '
                             'remove it or write elsewhere.')

    @staticmethod
    def _tags_of(path: Path) -> dict | None:
        try:
            with rasterio.open(path) as raster:
                return raster.tags(ns=NAMESPACE) or None
        except rasterio.errors.RasterioIOError:
            return None

    @property
    def _chances_out(self) -> Path:
        return self.out.with_name(f'{self.out.stem}_probabilities.tif')

    def _fingerprint(self) -> str:
        """What an output says of itself, to be known again."""
        text = json.dumps(
            self.signature | dict(format=self.settings.output_format),
            sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _is_done(self) -> bool:
        if not self.out.exists() or (
                self.settings.probabilities
                and not self._chances_out.exists()):
            return False
        return self._tags_of(self.out).get('SIGNATURE') == self._fingerprint()

    def run(self, progress: Callable[[Progress], None]) -> Report:
        """Predict what is not there, then write the output."""
        team = self.team
        todo = team.broadcast(together(team, self._prepare))
        if todo is None:
            return Report(self.out, kept=True)
        try:
            together(team, partial(self._predict, todo, progress))
            damaged = team.broadcast(together(team, self._finish))
        finally:
            for output in self._growing.values():
                output.close()
        return Report(self.out, resumed=len(self.plan.bands) - len(todo),
                      damaged=damaged, seconds=self.timer.seconds)

    def _prepare(self) -> list[int] | None:
        """Bands to do; None if the output is there."""
        if self.team.rank:
            return None
        if self._is_done():
            for path, target in self._derive(self.out):
                _publish(path, target)
            self.parts.remove()
            return None
        if self.parts.begin(self.signature):
            MMLogger.get_current_instance().warning(
                f'{self.parts.folder} was of other inputs or settings and '
                'starts anew.')
        there = self.parts.finished()
        todo = [i for i, (top, _) in enumerate(self.plan.bands)
                if top not in there]
        self._check_room(len(todo) / len(self.plan.bands))
        return todo

    def _check_room(self, share_to_do: float) -> None:
        """Is there room for parts and output?"""
        pixels = self.grid.height * self.grid.width
        wanted = CLASSES_SHARE * pixels * (0.5 + 0.5 * share_to_do)
        kind = self.settings.probabilities
        if kind:
            size = 1 if kind == 'uint8' else 2
            wanted += (PROBABILITIES_SHARE * pixels * size
                       * len(self.classes.names) * (0.5 + 0.5 * share_to_do))
        free = shutil.disk_usage(self.out.absolute().parent).free
        if free < wanted:
            raise OSError(
                f'{self.out} needs about {wanted / 1e9:.2f} GB but '
                f'{free / 1e9:.2f} GB are free; make room or write elsewhere.')

    def _predict(self, todo: Sequence[int],
                 progress: Callable[[Progress], None]) -> None:
        """This rank's share of the bands."""
        costs = [self.plan.windows_of(i) + EMPTY_BAND for i in todo]
        runs = share(todo, costs, self.team)
        total = sum(len(group) for run in runs
                    for group in self.plan.batches(*run))
        advance = counting(self.source.name, self.plan, total, progress)
        forward = Forward(
            self.model, self.plan.size, self.plan.batch_size,
            AMP.get(self.settings.amp), self.settings.compiled,
            self.settings.cuda_graph)
        # Bands are decided on the device, and written by a thread meanwhile.
        with ThreadPoolExecutor(1, 'write') as writer:
            writing: deque[Future] = deque()
            for start, stop in runs:
                for band in stream(
                        self.model, self.source, self.plan, start, stop,
                        threads=self.settings.threads, timer=self.timer,
                        forward=forward, advance=advance):
                    with self.timer('deciding'):
                        found = self._decide(band.logits)
                    writing.append(writer.submit(
                        self._keep, band.index, band.valid, *found))
                    while len(writing) > WAITING:
                        writing.popleft().result()
            while writing:
                writing.popleft().result()

    def _decide(self, logits: Tensor) -> tuple[
            Tensor, Tensor | None, Callable[[], None]]:
        """Class ids and probabilities on their way to the CPU."""
        found = [decide(self.model, logits)]
        if self.settings.probabilities:
            found.append(chances_of(logits))
        moved, wait = to_cpu(found)
        return moved[0], (*moved, None)[1], wait

    def _keep(self, index: int, valid: Tensor, ids: Tensor,
              chances: Tensor | None, wait: Callable[[], None]) -> None:
        """Write a band, in a thread of its own."""
        wait()
        with self.timer('writing', on_device=False):
            top, bottom = self.plan.bands[index]
            valid = valid.numpy()
            if self.area is not None:
                valid = valid & self.area.mask(top, bottom, self.grid.width)
            kept = np.where(valid, ids.numpy(), np.uint8(NODATA))
            shares = None
            if chances is not None:
                shares = quantise(
                    chances.numpy(), self.settings.probabilities, valid)
            self.parts.write(top, kept, shares, self._damage(top, bottom))
            if self.team.rank == 0:
                self._grow()

    def _grow(self) -> None:
        """Put the first bands that are there into the outputs."""
        bands = self.plan.bands
        while (self._whole < len(bands)
               and self.parts.has(bands[self._whole][0])):
            self._whole += 1
        until = bands[self._whole - 1][1] if self._whole else 0
        if not self._growing:
            kind = self.settings.probabilities
            forms = dict(classes=class_ids(self.classes))
            if kind:
                forms['probabilities'] = probabilities(self.classes, kind)
            for name, form in forms.items():
                self._growing[name] = Growing(
                    self.parts.folder / f'{name}.tif', form,
                    PartRows(self.parts, name, self.plan), self.grid,
                    self._tags(), self.settings.output_format,
                    self.settings.threads)
        for output in self._growing.values():
            output.advance(until)

    def _damage(self, top: int, bottom: int) -> list[Window]:
        return [w for w in list(self.source.damaged)
                if w.top < bottom and w.top + w.height > top]

    def _finish(self) -> list[Window] | None:
        """Put the bands together and give the output its name: rank 0."""
        if self.team.rank:
            return None
        with self.timer('writing', on_device=False):
            return self._assemble()

    def _assemble(self) -> list[Window]:
        tops = [top for top, _ in self.plan.bands]
        damaged = self.parts.damage(tops)
        self._grow()
        for output in self._growing.values():
            output.finish()
        folder = self.parts.folder
        finished: list[tuple[Path, Path]] = []
        if self.settings.probabilities:
            finished.append((folder / 'probabilities.tif', self._chances_out))
        classes = folder / 'classes.tif'
        name_categories(classes, self.classes.names)
        finished += self._derive(classes)
        finished += [(sidecar(classes), sidecar(self.out)),
                     (classes, self.out)]  # the last one: all is there
        for path, target in finished:
            _publish(path, target)
        self.parts.remove()
        return damaged

    def _derive(self, classes: Path) -> list[tuple[Path, Path]]:
        """What follows from the class ids: files and where they go."""
        settings, folder = self.settings, self.parts.folder
        finished = []
        if settings.polygons:
            path = folder / 'classes.gpkg'
            path.unlink(missing_ok=True)
            write_polygons(classes, path, self.classes.names,
                           settings.min_area)
            finished.append((path, Path(settings.polygons)))
        if settings.preview:
            path = folder / 'preview.png'
            write_preview(self.source.paths[0], classes, path,
                          self.classes.palette)
            finished.append((path, Path(settings.preview)))
        return finished

    def _tags(self) -> dict[str, str]:
        """What an output says about its making."""
        cfg = getattr(self.model, 'cfg', None)
        bands: dict[str, list[int]] = {}  # that were read of each file
        for layer in self.source.layers:
            bands.setdefault(layer.path.name, []).extend(
                layer.content.bands)
        return dict(
            BANDS=json.dumps(bands),
            CLASS_NAMES=json.dumps(self.classes.names),
            PALETTE=json.dumps(self.classes.palette),
            WINDOW=json.dumps(self.plan.size),
            INPUT_SIZE=json.dumps(self.plan.input_size),
            STRIDE=json.dumps(self.plan.stride),
            BLEND=self.plan.blend,
            CONTEXT_FACTORS=json.dumps(self.plan.factors),
            CONFIG=str(getattr(cfg, 'filename', None) or ''),
            CHECKPOINT=getattr(self.model, 'checkpoint_sha256', ''),
            VERSION=relay_seg.__version__,
            SIGNATURE=self._fingerprint())


def _publish(path: Path, target: Path) -> None:
    """Give a finished file its name, also on another disk."""
    try:
        path.replace(target)
    except OSError:
        near = target.with_name(f'.{target.name}.unfinished')
        try:
            shutil.copyfile(path, near)
            near.replace(target)
        finally:
            near.unlink(missing_ok=True)


def _identity(path: Path) -> list:
    """What tells that a file is still the same."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
