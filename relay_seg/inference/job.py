"""One scene on its way to its outputs, through parts on disk."""
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from torch import Tensor

import relay_seg
from relay_seg.class_ids import IGNORE
from relay_seg.rasters import (
    MARK,
    is_prediction,
    open_raster,
    refuse_overwriting,
)
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .aoi import Area, read_area
from .checks import check_pixel_size, check_scene
from .deciding import are_numbers, check_numbers, decide, quantise, to_cpu
from .forward import Forward
from .inputs import Scene
from .memory import WAITING, needed, warn_of_little
from .model import Classes, ModelBands, bands_of, classes_of
from .outputs import (
    chances_of_out,
    outputs_of,
    publish,
    refuse,
    refuse_full_disk,
    refuse_unwritable,
)
from .parts import PartRows, Parts
from .polygons import Measure, write_polygons
from .preview import write_preview
from .raster_source import RasterSource
from .settings import AMP, Progress, Report, Settings, plan_for
from .signature import Inputs, fingerprint, signature_of
from .stream import Timer, counting, stream
from .team import Team, share, together
from .writing import (
    PROBABILITIES,
    Grid,
    Growing,
    class_ids,
    name_categories,
    probabilities,
    sidecar,
)

#: A band costs a little even where it has no window to compute.
EMPTY_BAND = 0.01


class Job:
    """One scene on its way to its output."""

    def __init__(self, model: SlideEncoderDecoder, scene: Sequence,
                 out: Path, settings: Settings, team: Team) -> None:
        self.model = model.eval()
        self.out, self.settings, self.team = out, settings, team
        if team.rank == 0:
            refuse([(Scene(tuple(map(Path, scene)), out), settings)])
        self.inputs = Inputs(filter(None, (*scene, settings.aoi)))
        self.classes: Classes = classes_of(model)
        bands: ModelBands = bands_of(model, settings.bands)
        self.source = RasterSource(
            scene, bands, pixel_size=settings.pixel_size,
            skip_damaged=settings.on_error == 'skip')
        if settings.pixel_size:
            check_pixel_size(scene[0], settings.pixel_size)
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
        if settings.polygons:
            Measure(self.grid.crs, self.grid.transform, self.source.shape
                    ).check(settings.min_area, self.source.name)
        warn_of_little(needed(self.plan, self.source, model.out_channels,
                              1 + self._chances), self.source.name)
        self.parts = Parts(out)
        self._whole = 0  # first bands that are there
        self._growing: dict[str, Growing] = {}
        self.timer = Timer(model.data_preprocessor.device)
        self.signature = signature_of(
            model, self.inputs, bands, self.plan, self.classes, settings)
        if team.rank == 0:
            refuse_unwritable([*outputs_of(out, settings).values()])

    def _fingerprint(self) -> str:
        return fingerprint(self.signature, self.settings.output_format)

    def _is_done(self) -> bool:
        if not is_prediction(self.out) or (
                self.settings.probabilities
                and not is_prediction(chances_of_out(self.out))):
            return False
        with open_raster(self.out) as raster:
            tags = raster.tags(ns=MARK)
        return tags.get('SIGNATURE') == self._fingerprint()

    def run(self, progress: Callable[[Progress], None]) -> Report:
        """Predict what is not there, then write the output."""
        team = self.team
        todo = team.broadcast(together(team, self._prepare))
        if todo is None:
            return Report(self.out, kept=True)
        try:
            together(team, partial(self._predict, todo, progress))
            damaged = team.broadcast(together(team, self._finish))
        except Exception:
            self._check_inputs()  # they may be why
            raise
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
            self._publish(self._derive(self.out))
            return None
        if self.parts.begin(self.signature):
            MMLogger.get_current_instance().warning(
                f'{self.parts.folder} was of other inputs or settings and '
                'starts anew.')
        there = self.parts.finished()
        todo = [i for i, (top, _) in enumerate(self.plan.bands)
                if top not in there]
        refuse_full_disk(self.out, self.source.shape,
                         len(todo) / len(self.plan.bands), self._chances)
        return todo

    @property
    def _chances(self) -> int:
        """Bytes of a pixel's probabilities."""
        kind = self.settings.probabilities
        return len(self.classes.names) * np.dtype(kind).itemsize if kind else 0

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
                    del band, found  # the next ones need the memory
                    while len(writing) > WAITING:
                        writing.popleft().result()
            while writing:
                writing.popleft().result()

    def _decide(self, logits: Tensor) -> tuple[
            Tensor, Tensor, Tensor | None, Callable[[], None]]:
        """On their way to the CPU: are logits numbers, ids, probabilities."""
        found = [are_numbers(logits), decide(self.model, logits)]
        if self.settings.probabilities:
            found.append(quantise(logits, self.settings.probabilities))
        moved, wait = to_cpu(found)
        return moved[0], moved[1], (*moved, None)[2], wait

    def _keep(self, index: int, valid: Tensor, finite: Tensor, ids: Tensor,
              chances: Tensor | None, wait: Callable[[], None]) -> None:
        """Write a band, in a thread of its own."""
        wait()
        with self.timer('writing', on_device=False):
            top, bottom = self.plan.bands[index]
            check_numbers(finite, self.source.name, top, bottom)
            shown = valid.numpy()
            if self.area is not None:
                shown = shown & self.area.mask(top, bottom, self.grid.width)
            kept = np.where(shown, ids.numpy(), np.uint8(IGNORE))
            shares = None
            if chances is not None:
                shares = chances.numpy()
                shares[:, ~shown] = PROBABILITIES[str(
                    self.settings.probabilities)]['nodata']
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
            like = None if self.settings.pixel_size else self.source.paths[0]
            kind = self.settings.probabilities
            forms = dict(classes=class_ids(self.classes))
            if kind:
                forms['probabilities'] = probabilities(self.classes, kind)
            for name, form in forms.items():
                self._growing[name] = Growing(
                    self.parts.folder / f'{name}.tif', form,
                    PartRows(self.parts, name, self.plan), self.grid,
                    self._tags(), self.settings.output_format,
                    self.settings.threads, like)
        for output in self._growing.values():
            output.advance(until)

    def _damage(self, top: int, bottom: int) -> list[Window]:
        return [w for w in list(self.source.damaged)
                if w.top < bottom and w.top + w.height > top]

    def _finish(self) -> list[Window]:
        """Put the bands together and give the output its name: rank 0."""
        if self.team.rank:
            return []
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
            finished.append((folder / 'probabilities.tif',
                             chances_of_out(self.out)))
        classes = folder / 'classes.tif'
        name_categories(classes, self.classes.names)
        finished += self._derive(classes)
        finished += [(sidecar(classes), sidecar(self.out)),
                     (classes, self.out)]  # the last one: all is there
        self._publish(finished)
        return damaged

    def _publish(self, finished: Sequence[tuple[Path, Path]]) -> None:
        """Give files their names, if nothing changed meanwhile."""
        self._check_inputs()
        refuse_overwriting(
            {str(target): target for _, target in finished}, (),
            self.settings.overwrite)
        for path, target in finished:
            publish(path, target)
        self.parts.remove()

    def _check_inputs(self) -> None:
        """Did they change meanwhile? Then rows are of before and after."""
        if self.team.rank:
            return
        try:
            self.inputs.check()
        except ValueError:
            self.parts.remove()
            raise

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
            write_preview(self.source, classes, path,
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
            CONTEXT_FACTORS=json.dumps(
                [context.factor for context in self.plan.contexts]),
            CONTEXT_REDUCTIONS=json.dumps(
                [context.reduction for context in self.plan.contexts]),
            CONFIG=str(getattr(cfg, 'filename', None) or ''),
            CHECKPOINT=getattr(self.model, 'checkpoint_sha256', ''),
            VERSION=relay_seg.__version__,
            SIGNATURE=self._fingerprint())
