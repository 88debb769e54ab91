"""Predict a list of scenes: progress, summary, exit code."""
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from relay_seg.segmentors.slide import SlideEncoderDecoder

from .inputs import Scene
from .outputs import refuse
from .predict import predict_raster
from .settings import Progress as Done
from .settings import Report, Settings
from .team import Team, current_team, together

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
#: With at least this many scenes for each rank, ranks take whole scenes.
SCENES_EACH = 2


def predict_scenes(model: SlideEncoderDecoder, scenes: Sequence[Scene],
                   settings: Settings, console: Console | None = None) -> int:
    """Predict scenes one after the other; one that fails stops no other.

    Args:
        model: Model of :func:`load_model`.
        scenes: Scenes and their outputs.
        settings: How to predict. With several scenes, ``polygons`` and
            ``preview`` name folders.
        console: Where progress and summary are shown, by rank 0.

    Returns:
        Exit code: 0 if all are predicted, 1 if some failed.

    Raises:
        ValueError: Something would be written over, see
            :func:`refuse_all`; nothing is done then.
    """
    team = current_team()
    # No rank begins before it is known what must not be written over.
    together(team, partial(
        refuse_all, () if team.rank else scenes, settings))
    console = console or Console(
        soft_wrap=True, highlight=False, stderr=True, quiet=team.rank > 0)
    if team.rank:
        MMLogger.get_current_instance().setLevel(logging.ERROR)
    apart = team.size > 1 and len(scenes) >= SCENES_EACH * team.size
    mine = scenes[team.rank::team.size] if apart else scenes
    results: dict[str, Report | str] = {}
    for i, scene in enumerate(mine):
        results[str(scene)] = _predict(
            model, scene, _for_scene(settings, scene, len(scenes)),
            Team() if apart else team, console, f'{i + 1}/{len(mine)}')
    if apart:
        every = team.gather(results)
        results = {k: v for part in every for k, v in part.items()}
        results = {str(scene): results[str(scene)] for scene in scenes}
    return _summarise(results, console)


def refuse_all(scenes: Sequence[Scene], settings: Settings) -> None:
    """Say before any work what must not be written.

    Raises:
        ValueError: See :func:`relay_seg.inference.outputs.refuse`.
    """
    for name in ('polygons', 'preview') if len(scenes) > 1 else ():
        folder = Path(getattr(settings, name) or '')
        if folder.suffix in ('.gpkg', '.png') and not folder.is_dir():
            raise ValueError(f'--{name} {folder} has the name of a file, but '
                             f'{len(scenes)} scenes are given; give a '
                             'folder.')
    refuse([(scene, _for_scene(settings, scene, len(scenes)))
            for scene in scenes])


def _for_scene(settings: Settings, scene: Scene, count: int) -> Settings:
    """The settings with the names of one scene's files."""
    if count == 1:
        return settings
    names = dict(polygons='.gpkg', preview='.png')
    own: dict[str, Any] = {
        name: Path(getattr(settings, name)) / f'{scene.out.stem}{suffix}'
        for name, suffix in names.items() if getattr(settings, name)}
    return replace(settings, **own)


def _predict(model: SlideEncoderDecoder, scene: Scene, settings: Settings,
             team: Team, console: Console, count: str) -> Report | str:
    """What became of a scene, or what went wrong."""
    with Progress(
            TextColumn('{task.description}'), BarColumn(),
            TaskProgressColumn(), TextColumn('{task.fields[rate]}'),
            TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(),
            console=console) as bars:
        task = bars.add_task(f'{scene.out.name} ({count})', total=None,
                             rate='')
        start = time.monotonic()

        def progress(done: Done) -> None:
            rate = done.done / 1e6 / max(time.monotonic() - start, 1e-9)
            bars.update(task, completed=done.done, total=done.total,
                        rate=f'{rate:.2f} MP/s')

        try:
            return predict_raster(
                model, scene.paths, scene.out, progress=progress, team=team,
                **asdict(settings))
        except Exception as error:  # one bad scene does not stop the others
            text = str(error)
            if not isinstance(error, ValueError | OSError) or not text:
                text = f'{type(error).__name__}: {text}'
            return text if str(scene.paths[0]) in text else f'{scene}: {text}'


def _summarise(results: dict[str, Report | str], console: Console) -> int:
    failures = [r for r in results.values() if isinstance(r, str)]
    for report in results.values():
        if isinstance(report, str):
            console.print('[red]failed[/] ', end='')
            console.print(report, markup=False)
            continue
        notes = []
        if report.kept:
            notes.append('was there already')
        if report.resumed:
            notes.append(f'{report.resumed} bands of an earlier run')
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
                      'same command again, finished scenes and bands are '
                      'kept.')
    return FAILED if failures else OK
