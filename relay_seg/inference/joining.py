"""From finished blocks to outputs: a join that costs little."""
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from relay_seg.rasters.files import locked

from .blocks import CLASSES
from .outputs import rasters_of
from .writing import Growing, name_categories, sidecar

if TYPE_CHECKING:
    from .job import Job

PAUSE = 0.2  # seconds between two looks at a lock


class Output(Protocol):
    """A raster that becomes whole."""
    path: Path

    def advance(self, until: int) -> None:
        """All rows above this one are there."""

    def finish(self) -> None:
        """All rows are there."""

    def close(self) -> None:
        """Let go of what is not finished."""


class Linked:
    """A virtual raster that refers to the blocks: nothing is written twice.

    Args:
        job: Whose it is.
        kind: What it shows.
        target: Its final name, beside which it lies at first.
        like: See :meth:`relay_seg.rasters.Mosaic.write_vrt`.
    """

    def __init__(self, job: 'Job', kind: str, target: Path,
                 like: Path | None) -> None:
        self._job, self._kind, self._like = job, kind, like
        self.path = target.with_name(f'.{target.name}.whole')

    def advance(self, until: int) -> None:
        """There is nothing to do before the end."""

    def finish(self) -> None:
        """Write it."""
        job = self._job
        names = job.classes.names if self._kind == CLASSES else ()
        job.files.mosaic(self._kind, job.plan.blocks).write_vrt(
            self.path, names=names, tags=job.tags(), like=self._like)

    def close(self) -> None:
        """Remove it, if it has not got its name."""
        self.path.unlink(missing_ok=True)


class Outputs:
    """The rasters of a whole scene, which grow with its blocks.

    Args:
        job: Whose they are; it holds the lock of the blocks.
    """

    def __init__(self, job: 'Job') -> None:
        self._job, self._there = job, 0  # first blocks that are there
        files, settings = job.files, job.settings
        shutil.rmtree(files.output, ignore_errors=True)  # of a killed one
        files.output.mkdir(parents=True)
        self.targets = rasters_of(job.out)
        like = None if settings.pixel_size else job.source.paths[0]
        self._outputs: dict[str, Output] = {
            kind: Linked(job, kind, self.targets[kind], like)
            if settings.output_format == 'vrt' else Growing(
                files.output / f'{kind}.tif', form,
                files.mosaic(kind, job.plan.blocks), job.tags(),
                settings.output_format, settings.threads, like)
            for kind, form in files.forms.items()}

    @property
    def classes(self) -> Path:
        """The class ids."""
        return self._outputs[CLASSES].path

    def advance(self) -> None:
        """Write the rows of which all blocks are there."""
        job, blocks = self._job, self._job.plan.blocks
        while (self._there < len(blocks)
               and job.files.has(blocks[self._there])):
            self._there += 1
        until = (blocks[self._there].region.top
                 if self._there < len(blocks) else job.grid.height)
        for output in self._outputs.values():
            output.advance(until)

    def finish(self) -> list[tuple[Path, Path]]:
        """Write what is left.

        Returns:
            Files and where they go, the class ids last.
        """
        for output in self._outputs.values():
            output.finish()
        found = [(output.path, self.targets[kind])
                 for kind, output in self._outputs.items()][::-1]
        if self._job.settings.output_format != 'vrt':
            name_categories(self.classes, self._job.classes.names)
            found.insert(-1, (sidecar(self.classes), sidecar(self._job.out)))
        return found

    def close(self) -> None:
        """Let go of what is not finished."""
        for output in self._outputs.values():
            output.close()


@contextmanager
def holding(job: 'Job', wait: bool = True) -> Iterator[bool]:
    """Nobody else writes the output, or what follows from it, meanwhile.

    Args:
        job: Whose it is.
        wait: For somebody who makes other files of the same class ids.

    Gives:
        False if somebody else makes the same, or is not waited for.

    Raises:
        ValueError: Somebody writes it with other inputs or settings.
    """
    files = job.files
    with ExitStack() as stack:
        while not _locked(stack, files.lock):
            other = _text(files.run)
            if other and not other.startswith(job.fingerprint):
                raise ValueError(
                    f'{job.out} is being written by another run, with other '
                    'inputs or settings; wait for its end, or write '
                    'elsewhere.')
            if other == job.making or other and not wait:
                yield False
                return
            time.sleep(PAUSE)
        files.run.write_text(job.making, encoding='utf-8')
        stack.callback(files.tidy)
        yield True


def _locked(stack: ExitStack, path: Path) -> bool:
    with suppress(BlockingIOError):
        stack.enter_context(locked(path))
        return True
    return False


def _text(path: Path) -> str:
    """Nothing as long as nobody has written it."""
    with suppress(OSError):
        return path.read_text(encoding='utf-8')
    return ''


@contextmanager
def joining(job: 'Job', wait: bool = True) -> Iterator[Outputs | None]:
    """Outputs for who puts blocks together; None if somebody else does.

    Args:
        job: Whose they are.
        wait: See :func:`holding`.
    """
    with holding(job, wait) as mine:
        if not mine:
            yield None
            return
        outputs = Outputs(job)
        try:
            yield outputs
        except OSError as error:
            if error.filename:
                job.files.forget(Path(error.filename))
            raise
        finally:
            outputs.close()
