"""Finished blocks of a scene: a file each, until the scene is whole."""
import fnmatch
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import rasterio
from affine import Affine

# Some functions of rasterio let these of GDAL through.
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from relay_seg.rasters import MARK, Grid, Mosaic
from relay_seg.rasters.files import naming, replacing, write_text
from relay_seg.rasters.writing import RowWriter
from relay_seg.views import Window

from .plan import Block
from .writing import Form, complete

STATE = 'state.json'
#: Whose file says that a block is finished: it comes last.
CLASSES = 'classes'
#: Blocks are compressed quickly, the output well.
QUICK = dict(compress='deflate', zlevel=1)


class BlockFiles:
    """The folder ``OUT.blocks`` beside an output file.

    Each finished block is a GeoTIFF, which appears under its name when it is
    whole: what is there is finished, whoever wrote it, and any number of
    processes may write any blocks. Those of one signature lie in a folder of
    their own.

    Args:
        out: The output file.
        fingerprint: Of the signature.
        forms: What is kept of each block, by kind.
        grid: Size and place of the scene.
    """

    def __init__(self, out: Path, fingerprint: str,
                 forms: Mapping[str, Form], grid: Grid) -> None:
        self.root = root_of(out)
        self.folder = self.root / fingerprint[:16]
        self.forms, self.grid = forms, grid

    @property
    def lock(self) -> Path:
        """Whoever writes the output, or what follows from it, holds it."""
        return self.root / 'lock'

    @property
    def run(self) -> Path:
        """Tells what who holds the lock is making."""
        return self.root / '.run'

    @property
    def output(self) -> Path:
        """Folder in which they are put together."""
        return self.root / '.output'

    def begin(self, signature: dict) -> bool:
        """Say what the blocks are of.

        Returns:
            Whether there are blocks of another signature: they stay until
            the output is whole.
        """
        while not self.known:
            with suppress(FileNotFoundError):  # others tidy up
                write_text(self.folder / STATE,
                           json.dumps(signature, indent=2) + '\n')
        return any(name.endswith('.tif') for path in map(
            self.root.joinpath, _names(self.root)) if path != self.folder
            for name in _names(path))

    @property
    def known(self) -> bool:
        """Whether the folder is there, and not yet put together."""
        return (self.folder / STATE).exists()

    def path(self, kind: str, block: Block) -> Path:
        """File of a block."""
        top, left, *_ = block.region
        return self.folder / f'{kind}_{top:07d}_{left:07d}.tif'

    def has(self, block: Block) -> bool:
        """Whether a block is finished."""
        return self.path(CLASSES, block).exists()

    def missing(self, blocks: Iterable[Block]) -> list[Block]:
        """Blocks that are not finished."""
        names = set(_names(self.folder))
        return [block for block in blocks
                if self.path(CLASSES, block).name not in names]

    def damage(self, blocks: Iterable[Block]) -> list[Window]:
        """Regions that could not be read in any block."""
        found = set[Window]()
        for block in blocks:
            with rasterio.open(self.path(CLASSES, block)) as raster:
                found.update(Window(*region) for region in json.loads(
                    raster.tags(ns=MARK).get('DAMAGED', '[]')))
        return sorted(found)

    def mosaic(self, kind: str, blocks: Iterable[Block]) -> Mosaic:
        """One kind of all blocks as one raster."""
        files = {self.path(kind, block): block.region for block in blocks}
        return Mosaic(files, self.grid, self.forms[kind].profile['nodata'])

    def forget(self, path: Path) -> None:
        """A block is not finished after all, if one of its files is given."""
        if path.parent == self.folder:
            place = path.name.partition('_')[2]
            (self.folder / f'{CLASSES}_{place}').unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove the blocks of this signature."""
        _discard(self.folder)
        with suppress(OSError):  # there is more
            self.root.rmdir()

    def remove(self, others: bool = False) -> None:
        """No blocks are left when the output is whole.

        Args:
            others: Only blocks of other signatures: these are the output.
        """
        for path in map(self.root.joinpath, _names(self.root, '*')):
            if path.is_dir() and not (others and path == self.folder):
                _discard(path)

    def tidy(self) -> None:
        """What only who holds the lock needs goes, and the lock at last."""
        shutil.rmtree(self.output, ignore_errors=True)
        self.run.unlink(missing_ok=True)
        if {*_names(self.root, '*')} <= {self.lock.name}:
            with suppress(OSError):  # others come, or it cannot go while open
                self.lock.unlink()
                self.root.rmdir()


class BlockWriter:
    """A block while it is written, from top to bottom.

    Args:
        files: Where it goes.
        block: The block.
        threads: Threads that compress.
        overviews: Whether it is to be looked at as it is.
    """

    def __init__(self, files: BlockFiles, block: Block, threads: int,
                 overviews: bool = False) -> None:
        self.block, self._files, self._overviews = block, files, overviews
        top, left, height, width, _ = block.region
        grid = Grid(height, width, files.grid.crs,
                    files.grid.transform @ Affine.translation(left, top))
        self._writers: dict[str, RowWriter] = {}
        self._stack = ExitStack()
        try:
            # The last one is named first.
            for kind, form in sorted(files.forms.items(), key=lambda item:
                                     item[0] != CLASSES):
                path = files.path(kind, block)
                self._stack.enter_context(naming(path))
                unfinished = self._stack.enter_context(replacing(path))
                writer = RowWriter(unfinished, grid, **QUICK, num_threads=str(
                    threads), **form.profile)
                self._writers[kind] = writer
                form.decorate(writer.raster)
        except BaseException:
            self.abandon()
            raise

    def write(self, kind: str, rows: np.ndarray) -> None:
        """Append rows (C, H, W)."""
        with naming(self._files.path(kind, self.block)):
            self._writers[kind].write(rows)

    def finish(self, damage: Sequence[Window]) -> None:
        """Give the files their names.

        Args:
            damage: Regions that could not be read, as far as known.
        """
        with self._stack:
            if damage:
                self._writers[CLASSES].raster.update_tags(
                    ns=MARK, DAMAGED=json.dumps([w[:4] for w in damage]))
            for kind, writer in self._writers.items():
                writer.close()
                if self._overviews:
                    complete(writer.path, self._files.forms[kind])

    def abandon(self) -> None:
        """Leave nothing behind."""
        for writer in self._writers.values():
            with suppress(RasterioError, CPLE_BaseError):
                writer.raster.close()
        with suppress(Abandoned), self._stack:
            raise Abandoned


class Abandoned(Exception):
    """A block that is not finished."""


def _names(folder: Path, pattern: str = '[!.]*') -> list[str]:
    """What is in a folder; nothing if it is gone, or none that can be read."""
    with suppress(OSError):  # whether one can write there is asked elsewhere
        return fnmatch.filter(os.listdir(folder), pattern)
    return []


def _discard(folder: Path) -> None:
    """Remove a folder of blocks: whole or gone, whenever that is ended."""
    hidden = folder.with_name(f'.{folder.name}.{uuid4().hex[:8]}')
    with suppress(OSError):  # gone, or in use where that forbids it
        folder.rename(hidden)
    for path in (folder, hidden):
        shutil.rmtree(path, ignore_errors=True)


def root_of(out: Path) -> Path:
    """Folder of the blocks of an output."""
    return out.with_name(f'{out.name}.blocks')


def refuse_foreign(out: Path) -> None:
    """Raise a ``ValueError`` if the folder is another's: it is emptied."""
    root = root_of(out)
    for name in sorted(_names(root)):
        held = _names(root / name)  # by one look
        if name != 'lock' and (
                (root / name).is_file() or held and STATE not in held):
            raise ValueError(
                f'{root} is where finished blocks go, but it holds other '
                f'files ({name}); move them or write elsewhere.')
