"""Predict a list of scenes: progress, summary, exit code."""
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TaskProgressColumn

from relay_seg.bars import rated_bars
from relay_seg.rasters.vector_files import PACKAGES
from relay_seg.segmentors.slide import SlideEncoderDecoder

from .inputs import Scene
from .job import Job
from .outputs import refuse
from .predict import predict_raster
from .settings import Progress as Done
from .settings import Report, Settings

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def predict_scenes(model: SlideEncoderDecoder, scenes: Sequence[Scene],
                   settings: Settings, console: Console | None = None,
                   part: tuple[int, int] = (1, 1),
                   quiet: bool = False) -> int:
    """Predict scenes one after the other; one that fails stops no other.

    Args:
        model: Model of :func:`load_model`.
        scenes: Scenes and their outputs.
        settings: How to predict. With several scenes, ``polygons`` and
            ``preview`` name folders.
        console: Where progress and summary are shown.
        part: Number of the part of all blocks to do, from 1, and how many
            there are.
        quiet: Show no progress.

    Returns:
        Exit code: 0 if all blocks of the part are predicted, 1 if some
        failed.

    Raises:
        ValueError: Something would be written over, see
            :func:`refuse_all`; nothing is done then.
    """
    refuse_all(scenes, settings)
    console = console or Console(soft_wrap=True, highlight=False, stderr=True)
    results = {}
    for i, scene in enumerate(scenes):
        own = for_scene(settings, scene, len(scenes))
        with progress_bar(console, scene, f'{i + 1}/{len(scenes)}',
                          quiet) as progress:
            results[str(scene)] = attempt(scene, partial(
                predict_raster, model, scene.paths, scene.out,
                progress=progress, part=part, turn=i, **asdict(own)))
    return summarise(results, console)


def join_scenes(model: SlideEncoderDecoder, scenes: Sequence[Scene],
                settings: Settings, console: Console | None = None) -> int:
    """Put finished blocks together and compute nothing.

    Args:
        model: As it predicted them.
        scenes: Scenes and their outputs.
        settings: How they were predicted.
        console: Where the summary is shown.

    Returns:
        Exit code: 0 if all outputs are there, 1 if not.
    """
    console = console or Console(soft_wrap=True, highlight=False, stderr=True)

    def join(scene: Scene) -> Report:
        report = Job(model, scene.paths, scene.out, for_scene(
            settings, scene, len(scenes))).join()
        if report.missing:
            raise ValueError(
                f'{scene.out}: {report.missing} blocks are not there yet; run '
                'the parts that make them.')
        return report

    return summarise({str(scene): attempt(scene, partial(join, scene))
                      for scene in scenes}, console)


def refuse_all(scenes: Sequence[Scene], settings: Settings) -> None:
    """Say before any work what must not be written.

    Raises:
        ValueError: See :func:`relay_seg.inference.outputs.refuse`.
    """
    for name in ('polygons', 'preview', 'stac') if len(scenes) > 1 else ():
        folder = Path(getattr(settings, name) or '')
        if folder.suffix.lower() in ('.png', '.json', *PACKAGES) and (
                not folder.is_dir()):
            raise ValueError(f'--{name} {folder} has the name of a file, but '
                             f'{len(scenes)} scenes are given; give a '
                             'folder.')
    if settings.truth and len(scenes) > 1:
        raise ValueError(f'--truth {settings.truth} is of one scene, but '
                         f'{len(scenes)} are given; score them one by one '
                         'with tools/score.py.')
    refuse([(scene, for_scene(settings, scene, len(scenes)))
            for scene in scenes])


def for_scene(settings: Settings, scene: Scene, count: int) -> Settings:
    """The settings with the names of one scene's files."""
    if count == 1:
        return settings
    names = dict(polygons='.gpkg', preview='.png', stac='.json')
    own: dict[str, Any] = {
        name: Path(getattr(settings, name)) / f'{scene.out.stem}{suffix}'
        for name, suffix in names.items() if getattr(settings, name)}
    return replace(settings, **own)


@contextmanager
def progress_bar(console: Console, scene: Scene, count: str,
                 quiet: bool = False) -> Iterator[Callable[[Done], None]]:
    """A bar with rate and time left, and what moves it."""
    with rated_bars(TaskProgressColumn(), console=console,
                    disable=quiet) as bars:
        task = bars.add_task(f'{scene.out.name} ({count})', total=None,
                             rate='')
        start = time.monotonic()

        def progress(done: Done) -> None:
            rate = done.done / 1e6 / max(time.monotonic() - start, 1e-9)
            bars.update(task, completed=done.done, total=done.total,
                        rate=f'{rate:.2f} MP/s')

        yield progress


def attempt(scene: Scene, work: Callable[[], Report]) -> Report | str:
    """What became of a scene, or what went wrong."""
    try:
        return work()
    except Exception as error:  # one bad scene does not stop the others
        text = str(error)
        if not isinstance(error, ValueError | OSError) or not text:
            text = f'{type(error).__name__}: {text}'
        return text if str(scene.paths[0]) in text else f'{scene}: {text}'


def summarise(results: Mapping[str, Report | str], console: Console) -> int:
    failures = [r for r in results.values() if isinstance(r, str)]
    for report in results.values():
        if isinstance(report, str):
            console.print('[red]failed[/] ', end='')
            console.print(report, markup=False)
            continue
        notes = []
        if report.kept:
            notes.append('was there already')
        if report.elsewhere:
            notes.append('another process is writing what was asked for')
        if report.resumed:
            notes.append(f'{report.resumed} blocks of an earlier run')
        if report.missing:
            notes.append(f'not whole yet, {report.missing} blocks of other '
                         'parts are missing')
        if report.damaged:
            pixels = sum(w.height * w.width for w in report.damaged)
            notes.append(f'{len(report.damaged)} regions ({pixels:,} pixels) '
                         'could not be read and are no data')
        console.print(f'{report.out}' + ''.join(f'; {n}' for n in notes),
                      markup=False)
    console.print(f'{len(results) - len(failures)} of {len(results)} scenes '
                  'predicted.')
    if failures:
        console.print(f'{len(failures)} failure(s); mend them and run the '
                      'same command again, finished scenes and blocks are '
                      'kept.')
    return FAILED if failures else OK
