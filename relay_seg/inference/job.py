"""One scene on its way to its outputs, block by block."""
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from torch import Tensor

import relay_seg
from relay_seg.rasters import Grid, refuse_overwriting
from relay_seg.rasters.remote import file_name
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Window

from .aoi import Area, read_area
from .blocks import CLASSES, BlockFiles, BlockWriter
from .checks import check_pixel_size, check_scene
from .deciding import (
    are_numbers,
    check_numbers,
    confidence,
    decide,
    quantise,
    to_cpu,
)
from .forward import Forward
from .inputs import Scene
from .joining import Outputs, holding, joining
from .memory import WAITING, needed, warn_of_little
from .model import Classes, ModelBands, bands_of, classes_of
from .outputs import (
    outputs_of,
    publish_all,
    rasters_of,
    refuse,
    refuse_full_disk,
    refuse_unwritable,
    signature_in,
)
from .plan import Block, share
from .polygons import check_polygons, write_polygons
from .preview import write_preview
from .raster_source import RasterSource
from .settings import AMP, Progress, Report, Settings, plan_for
from .signature import Inputs, fingerprint, signature_of
from .stac import write_item
from .stream import Timer, counting, stream
from .writing import class_ids, probabilities
from .writing import confidence as confidence_form


class Job:
    """One scene on its way to its output, block by block.

    Any number of processes may have one of the same scene: each computes
    some blocks, and one that finds all of them puts them together.

    Args:
        model: Model of :func:`load_model`.
        scene: Aligned rasters.
        out: File to write.
        settings: How to predict.
    """

    def __init__(self, model: SlideEncoderDecoder, scene: Sequence,
                 out: Path, settings: Settings) -> None:
        self.model = model.eval()
        self.out, self.settings = out, settings
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
        self.plan = plan_for(model, self.source, settings)
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
            check_polygons(Path(settings.polygons), self.grid,
                           self.source.name, settings.min_area,
                           settings.simplify)
        self.signature = signature_of(
            model, self.inputs, bands, self.plan, self.classes, settings)
        forms = {CLASSES: class_ids(self.classes)}
        if settings.probabilities:
            forms['probabilities'] = probabilities(
                self.classes, settings.probabilities)
        if settings.confidence:
            forms['confidence'] = confidence_form(settings.confidence)
        self.files = BlockFiles(out, self.fingerprint, forms, self.grid)
        self.timer = Timer(model.data_preprocessor.device)
        refuse_unwritable([*outputs_of(out, settings).values()])

    @property
    def fingerprint(self) -> str:
        """What its rasters say of themselves, to be known again."""
        return fingerprint(self.signature, self.settings.output_format)

    @property
    def making(self) -> str:
        """What it makes, to be known by others: rasters, and what follows."""
        settings = self.settings
        return ' '.join(map(str, (
            self.fingerprint, settings.min_area, settings.simplify,
            *map(os.path.abspath, outputs_of(self.out, settings).values()))))

    def is_done(self) -> bool:
        """Whether the output is there, of just this job."""
        return all(signature_in(path) == self.fingerprint
                   for kind, path in rasters_of(self.out).items()
                   if kind in self.files.forms)

    def run(self, progress: Callable[[Progress], None],
            part: tuple[int, int] = (1, 1), turn: int = 0) -> Report:
        """Compute the blocks of a part; write the output if all are there.

        Args:
            progress: Called after each batch.
            part: Number of the part, from 1, and how many there are.
            turn: Number of the scene, see :func:`relay_seg.inference.plan.
                share`.
        """
        if self.is_done():
            return self.derive()
        mine = share(self.plan.blocks, part, turn)
        todo = self.begin(mine)
        # Whoever comes first writes what is there while it computes.
        with joining(self, wait=False) as outputs:
            self.compute(todo, progress, outputs)
            report = self._join(outputs) if outputs else None
        return replace(report or self.join(), resumed=len(mine) - len(todo))

    def begin(self, blocks: Sequence[Block]) -> list[Block]:
        """Those of some blocks that are to do; the place for them."""
        if self.files.begin(self.signature):
            MMLogger.get_current_instance().warning(
                f'{self.files.root} holds blocks of other inputs or settings, '
                'too; they go when the output is whole.')
        todo = self.files.missing(blocks)
        refuse_full_disk(
            self.out, self.source.shape,
            len(todo) / max(len(self.plan.blocks), 1), self._chances)
        if todo:
            warn_of_little(
                needed(todo, self.source, self.model.out_channels,
                       1 + self._chances), self.source.name)
        return todo

    def join(self) -> Report:
        """Put the blocks together, if all are there and nobody else does."""
        while not self.files.missing(self.plan.blocks):
            with joining(self) as outputs:
                if not outputs:  # somebody does, and looks again afterwards
                    return Report(self.out, elsewhere=True)
                if report := self._join(outputs):
                    return report
        if self.is_done():
            return self.derive()
        return Report(self.out, seconds=self.timer.seconds, missing=len(
            self.files.missing(self.plan.blocks)))

    def _join(self, outputs: Outputs) -> Report | None:
        """What came of it; None if blocks are missing."""
        if self.files.missing(self.plan.blocks):
            return None
        with self.timer('writing', on_device=False):
            damaged = self.files.damage(
                self.plan.blocks if self.source.skip_damaged else ())
            outputs.advance()
            *others, classes = outputs.finish()
            self._publish([*self._derive(outputs.classes), *others,
                           classes])  # the last one: all is there
        return Report(self.out, damaged=damaged, seconds=self.timer.seconds)

    @property
    def _chances(self) -> int:
        """Bytes of a pixel's probabilities and confidence."""
        kind = self.settings.probabilities
        return bool(self.settings.confidence) + (
            len(self.classes.names) * np.dtype(kind).itemsize if kind else 0)

    def compute(self, blocks: Sequence[Block],
                progress: Callable[[Progress], None],
                growing: Outputs | None = None) -> None:
        """Compute blocks, unless somebody else has meanwhile.

        Args:
            blocks: Blocks of the plan.
            progress: Called after each batch.
            growing: Outputs that grow with the blocks.
        """
        try:
            self._compute(blocks, progress, growing)
        except OSError:  # the folder goes when others have put all together
            if self.files.known and not self.is_done():
                raise
        self.check_inputs()
        self._check_place()

    def _check_place(self) -> None:
        """Another run may have removed what this one needs."""
        if not self.files.known and not self.is_done():
            raise ValueError(
                f'{self.out} was written meanwhile by another run, with other '
                'inputs or settings, and blocks of this one are gone; run '
                'one after the other, or write elsewhere.')

    def _compute(self, blocks: Sequence[Block],
                 progress: Callable[[Progress], None],
                 growing: Outputs | None) -> None:
        advance = counting(self.source.name, self.plan,
                           sum(map(len, blocks)), progress)
        forward = Forward(
            self.model, self.plan.size, self.plan.batch_size,
            AMP.get(self.settings.amp), self.settings.compiled,
            self.settings.cuda_graph)

        def wanted() -> Iterator[Block]:
            for block in blocks:
                if not self.files.known:
                    return  # others have put them together
                if self.files.has(block):
                    advance(len(block))
                else:
                    yield block

        # Bands are decided on the device, and written by a thread meanwhile.
        with (Kept(self, growing) as kept,
              ThreadPoolExecutor(1, 'write') as writer):
            writing: deque[Future] = deque()
            for band in stream(
                    self.model, self.source, wanted(),
                    threads=self.settings.threads, timer=self.timer,
                    forward=forward, advance=advance):
                with self.timer('deciding'):
                    found = self._decide(band.logits)
                writing.append(writer.submit(
                    kept.add, band.block, band.top, band.bottom, band.valid,
                    *found))
                del band, found  # the next ones need the memory
                while len(writing) > WAITING:
                    writing.popleft().result()
            while writing:
                writing.popleft().result()

    def _decide(self, logits: Tensor) -> tuple[
            Tensor, dict[str, Tensor], Callable[[], None]]:
        """On their way to the CPU: are logits numbers, and what is kept."""
        found = {CLASSES: decide(self.model, logits)[None]}
        if self.settings.probabilities:
            found['probabilities'] = quantise(
                logits, self.settings.probabilities)
        if self.settings.confidence:
            found['confidence'] = confidence(logits, self.settings.confidence)
        (finite, *moved), wait = to_cpu(
            [are_numbers(logits), *found.values()])
        return finite, dict(zip(found, moved)), wait

    def damaged(self, region: Window) -> list[Window]:
        """What could not be read of a region, as far as known."""
        top, left, height, width, _ = region
        return [w for w in self.source.damage.regions
                if w.top < top + height and w.top + w.height > top
                and w.left < left + width and w.left + w.width > left]

    def derive(self) -> Report:
        """What follows from an output that is there."""
        with holding(self) as mine:
            if mine:
                self._check_place()
                self._publish(self._derive(self.out))
        return Report(self.out, kept=True, elsewhere=not mine)

    def _publish(self, finished: Sequence[tuple[Path, Path]]) -> None:
        """Give files their names, if nothing changed meanwhile."""
        self.check_inputs()
        refuse_overwriting(
            {str(target): target for _, target in finished}, (),
            self.settings.overwrite)
        publish_all(finished)
        self.files.remove(others=self.settings.output_format == 'vrt')
        if self.settings.stac:  # tells the final names
            write_item(self.settings.stac, self.out, self.source.paths,
                       self.model)

    def check_inputs(self) -> None:
        """Did they change meanwhile? Then blocks are of before and after."""
        try:
            self.inputs.check()
        except ValueError:
            self.files.leave()
            raise

    def _derive(self, classes: Path) -> list[tuple[Path, Path]]:
        """What follows from the class ids: files and where they go."""
        settings, folder = self.settings, self.files.output
        folder.mkdir(parents=True, exist_ok=True)
        finished = []
        if settings.polygons:
            target = Path(settings.polygons)
            path = folder / f'classes{target.suffix}'
            path.unlink(missing_ok=True)
            write_polygons(classes, path, self.classes.names,
                           settings.min_area, settings.simplify)
            finished.append((path, target))
        if settings.preview:
            path = folder / 'preview.png'
            write_preview(self.source, classes, path,
                          self.classes.palette)
            finished.append((path, Path(settings.preview)))
        return finished

    def tags(self) -> dict[str, str]:
        """What an output says about its making."""
        cfg = getattr(self.model, 'cfg', None)
        bands: dict[str, list[int]] = {}  # that were read of each file
        for layer in self.source.layers:
            bands.setdefault(file_name(layer.path), []).extend(
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
            SIGNATURE=self.fingerprint)


class Kept:
    """Bands on their way to the files of their blocks, one after the other.

    Args:
        job: Whose they are.
        growing: Outputs that grow with the blocks.
    """

    def __init__(self, job: Job, growing: Outputs | None) -> None:
        self._job, self._growing = job, growing
        self._writer: BlockWriter | None = None

    def __enter__(self) -> 'Kept':
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.abandon()

    def add(self, block: Block, top: int, bottom: int, valid: Tensor,
            finite: Tensor, found: dict[str, Tensor],
            wait: Callable[[], None]) -> None:
        """Write a band, in a thread of its own."""
        job = self._job
        wait()
        with job.timer('writing', on_device=False):
            check_numbers(finite, job.source.name, top, bottom)
            if self._writer is None:
                self._writer = BlockWriter(
                    job.files, block, job.settings.threads,
                    job.settings.output_format == 'vrt')
            shown = valid.numpy()
            if job.area is not None:
                shown = shown & job.area.mask(Window(
                    top, block.region.left, bottom - top, shown.shape[1]))
            for kind, values in found.items():
                rows = values.numpy()
                rows[:, ~shown] = job.files.forms[kind].profile['nodata']
                self._writer.write(kind, rows)
            if bottom == block.bands[-1][1]:
                self._writer.finish(job.damaged(block.region))
                self._writer = None
                if self._growing:
                    self._growing.advance()
