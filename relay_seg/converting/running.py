"""Convert many scenes at a time; one that fails does not stop the others."""
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio
from rich.console import Console
from rich.progress import MofNCompleteColumn

from relay_seg.bars import rated_bars
from relay_seg.rasters.identity import files_of

from .manifest import file_record, fingerprint
from .scenes import RawScene, write_scene

#: Memory of GDAL's block cache in each process, in bytes.
CACHE = 128 * 2**20
SCRATCH = '.unfinished'
LOCK = '.lock'


@dataclass(frozen=True)
class Task:
    """One scene to convert.

    Args:
        name: Name of the output files without suffix.
        split: train, val or test.
        sources: Raw files; the first is the image.
        opening: Opens the scene from the raw files and ``options``; a
            function of a module, so that it travels between processes.
        options: Its keywords.
        part: What else tells which part of the raw files it is, for the
            manifest.
        seen: What a look at the raw files told, for the manifest.
    """

    name: str
    split: str
    sources: tuple[Path, ...]
    opening: Callable[..., AbstractContextManager[RawScene]]
    options: Mapping[str, object] = field(default_factory=dict)
    part: Mapping[str, object] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """Image, relative to the output folder."""
        return f'img_dir/{self.split}/{self.name}.tif'

    @property
    def label(self) -> str:
        """Label, relative to the output folder."""
        return f'ann_dir/{self.split}/{self.name}.tif'


def source_records(task: Task, raw: Path) -> list[dict]:
    """What tells that the raw files of a scene are still the same.

    And all that is read with them, such as sources of a VRT, world files and
    the attributes of a shapefile.
    """
    found = dict.fromkeys(task.sources) | dict.fromkeys(
        file for path in task.sources for file in files_of(path))
    return [fingerprint(path, raw) for path in found if path.exists()]


def convert_task(task: Task, raw: Path, out: Path,
                 options: Mapping[str, object],
                 palette: Sequence[Sequence[int]]) -> dict | str:
    """Convert a scene.

    Returns:
        Its record for the manifest, or what went wrong.
    """
    sources = source_records(task, raw)
    image, label = out / task.image, out / task.label
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), task.opening(
                *task.sources, **task.options) as scene:
            content = write_scene(scene, image, label, out / SCRATCH, palette)
        return dict(name=task.name, split=task.split, options=options,
                    sources=sources, image=file_record(image, out),
                    label=file_record(label, out), **content,
                    **({'part': dict(task.part)} if task.part else {}),
                    **({'seen': dict(task.seen)} if task.seen else {}))
    except Exception as error:  # one bad file does not stop the others
        return told_error(error, (*task.sources, image))


def told_error(error: Exception, files: Sequence[Path]) -> str:
    """An error in words that name a file, the first one if none."""
    text = str(error)
    if not isinstance(error, ValueError | OSError) or not text:
        text = f'{type(error).__name__}: {text}'
    if not any(str(path) in text for path in files):
        text = f'{files[0]}: {text}'
    return text


def results(work: Callable[[Task], dict | str], tasks: Sequence[Task],
            jobs: int, console: Console, title: str = 'Converting'
            ) -> Iterator[tuple[Task, dict | str]]:
    """Each task with its result, in the order of their ends."""
    ends = (((task, work(task)) for task in tasks) if jobs <= 1 else
            _in_processes(work, tasks, jobs))
    return progress(ends, len(tasks), title, console)


def _in_processes(work: Callable[[Task], dict | str], tasks: Sequence[Task],
                  jobs: int) -> Iterator[tuple]:
    """As the pool goes; a process that dies takes only its own task along."""
    pending = list(tasks)
    with _pool(min(jobs, len(pending) or 1)) as pool:
        futures: dict[Future, Task] = {pool.submit(work, task): task
                                       for task in pending}
        try:
            for future in as_completed(futures):
                result = future.result()
                pending.remove(futures[future])
                yield futures[future], result
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for task in pending:
        with _pool(1) as pool:
            try:
                yield task, pool.submit(work, task).result()
            except BrokenProcessPool:
                yield task, (f'{task.sources[0]}: its process was killed; '
                             'too little memory? Use fewer --jobs.')


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs, initializer=_follow, initargs=(os.getpid(), ))


def _follow(parent: int) -> None:
    """End with the parent when it is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(items: Iterable, total: int, title: str,
             console: Console) -> Iterator:
    """The items, with a bar that shows rate and time left."""
    start = time.monotonic()
    with rated_bars(MofNCompleteColumn(), console=console) as bars:
        bar = bars.add_task(title, total=total, rate='')
        for done, item in enumerate(items, 1):
            rate = done / (time.monotonic() - start)
            bars.update(bar, advance=1, rate=f'{rate:.2f} scenes/s')
            yield item
