"""Blocks as tasks of a Ray cluster, which gives them out."""
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from relay_seg.segmentors.slide import SlideEncoderDecoder

from .command import attempt, for_scene, refuse_all, summarise
from .inputs import Scene
from .job import Job
from .predict import CACHE
from .settings import Report, Settings

#: Processes at most: those for which there is no machine yet wait for one,
#: which tells a cluster that grows to grow.
MOST = 1000
#: A block is given up when so many processes died of it.
TRIES = 20
#: Number of a scene and number of one of its blocks.
Task = tuple[int, int]


class Worker:
    """A process of the cluster, with the model on its GPU.

    Args:
        build: Gives the model.
    """

    def __init__(self, build: Callable[[], SlideEncoderDecoder]) -> None:
        self._model = build()
        self._jobs: dict[Path, Job] = {}

    def ready(self) -> None:
        """It is, as soon as this returns."""

    def predict(self, scene: Scene, settings: Settings, block: int,
                signature: dict) -> None:
        """Compute a block, unless it is there.

        Args:
            scene: Scene and its output.
            settings: How to predict it.
            block: Number of the block.
            signature: What it is to follow from.

        Raises:
            ValueError: This machine sees other inputs, or another version.
        """
        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            if scene.out not in self._jobs:
                self._jobs[scene.out] = Job(
                    self._model, scene.paths, scene.out, settings)
            job = self._jobs[scene.out]
            if job.signature != signature:
                names = [k for k, v in signature.items()
                         if job.signature.get(k) != v]
                raise ValueError(
                    f'on this machine {", ".join(names)} of the prediction '
                    'differ; use the same software, files and paths on all.')
            job.compute([job.plan.blocks[block]], _ignore)


def predict_on_ray(build: Callable[[], SlideEncoderDecoder],
                   model: SlideEncoderDecoder, scenes: Sequence[Scene],
                   settings: Settings, *, address: str = 'local',
                   console: Console | None = None) -> int:
    """Predict scenes on a Ray cluster.

    Each process holds the model, on a GPU of its own where there are some.
    Ray starts processes again that die, also on other machines, and repeats
    what they were doing; machines may come and go. Outputs are put together
    here, while blocks of other scenes are computed.

    Args:
        build: Gives the model, in each process.
        model: The model, for what is to know of it here.
        scenes: Scenes and their outputs, in folders that all machines share.
        settings: How to predict.
        address: Of the cluster, as Ray takes it; ``local`` starts one.
        console: Where progress and summary are shown.

    Returns:
        Exit code: 0 if all are predicted, 1 if some failed.

    Raises:
        ImportError: Ray is missing.
        ConnectionError: There is no cluster at the address.
    """
    refuse_all(scenes, settings)
    console = console or Console(soft_wrap=True, highlight=False, stderr=True)
    every = [(scene, for_scene(settings, scene, len(scenes)))
             for scene in scenes]
    results: dict[str, Report | str] = {}
    jobs: dict[int, Job] = {}
    tasks: deque[Task] = deque()
    left: dict[int, int] = {}  # blocks of a scene

    def begin(number: int) -> Report:
        scene, own = every[number]
        job = Job(model, scene.paths, scene.out, own)
        if job.is_done():
            return job.derive()
        blocks = job.plan.blocks
        todo = {block.region for block in job.begin(blocks)}
        tasks.extend((number, i) for i, block in enumerate(blocks)
                     if block.region in todo)
        jobs[number], left[number] = job, len(todo)
        return Report(scene.out, resumed=len(blocks) - len(todo))

    with rasterio.Env(GDAL_CACHEMAX=CACHE), _cluster(address) as ray:
        for number, (scene, _) in enumerate(every):
            results[str(scene)] = attempt(
                scene, lambda: begin(number))  # noqa: B023
        with Progress(
                TextColumn('blocks'), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn('left'),
                TimeRemainingColumn(), console=console) as bar:
            row = bar.add_task('', total=len(tasks))
            for number in [n for n, count in left.items() if not count]:
                _join(jobs[number], every[number][0], results)
            for (number, block), error in _work(
                    ray, build, tasks, lambda task: (
                        *every[task[0]], task[1], jobs[task[0]].signature)):
                bar.advance(row)
                scene = every[number][0]
                if error:
                    region = jobs[number].plan.blocks[block].region
                    results[str(scene)] = (
                        f'{scene}: block at row {region.top}, column '
                        f'{region.left}: {error}')
                left[number] -= 1
                if not left[number]:
                    _join(jobs[number], scene, results)
    return summarise(results, console)


def _join(job: Job, scene: Scene, results: dict[str, Report | str]) -> None:
    """Put a scene together, if none of its blocks failed."""
    if not isinstance(results[str(scene)], str):
        results[str(scene)] = attempt(scene, job.join)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster or with one of its own."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs ray; install relay-seg[ray].'
                          ) from error
    ray.init(address=address, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def _work(ray: Any, build: Callable[[], SlideEncoderDecoder],
          tasks: deque[Task], arguments: Callable[[Task], tuple]
          ) -> Iterator[tuple[Task, str]]:
    """Tasks as they are done, and what went wrong with each.

    Args:
        ray: The package, connected to a cluster.
        build: Gives the model, in each process.
        tasks: To be done; they are taken from there.
        arguments: Of :meth:`Worker.predict`, for a task.
    """
    gpus = ray.cluster_resources().get('GPU', 0) > 0
    actor = ray.remote(Worker).options(
        num_gpus=int(gpus), num_cpus=1, max_restarts=-1,
        max_task_retries=TRIES)
    #: What is waited for: whose it is, and of which task.
    waiting: dict[Any, tuple[Any, Task | None]] = {}
    for _ in range(min(len(tasks), MOST)):
        worker = actor.remote(build)
        waiting[worker.ready.remote()] = worker, None
    try:
        while tasks or any(task for _, task in waiting.values()):
            if not waiting:
                raise OSError('no process of the cluster could start.')
            done, _ = ray.wait(list(waiting), num_returns=1)
            worker, task = waiting.pop(done[0])
            error = ''
            try:
                ray.get(done[0])
            except ray.exceptions.RayTaskError as raised:
                error = str(raised.cause)
            except ray.exceptions.RayError as raised:  # it died too often
                error = str(raised)
            if error and task is None:
                raise OSError(f'a process cannot start: {error}')
            if tasks:
                new = tasks.popleft()
                waiting[worker.predict.remote(*arguments(new))] = worker, new
            else:  # others may wait for its place
                ray.kill(worker)
            if task:
                yield task, error
    finally:
        for worker, _ in waiting.values():
            ray.kill(worker)


def _ignore(progress: object) -> None:
    """Blocks are counted, not windows."""
