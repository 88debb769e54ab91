"""What of a scene cannot be read: regions, and files of virtual rasters."""
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

from mmengine.logging import MMLogger

from relay_seg.rasters.mosaics import missing_parts
from relay_seg.rasters.opening import not_opened
from relay_seg.rasters.remote import shown
from relay_seg.views import Window


class Damage:
    """What is known not to be there, of a scene that is read all the same.

    Args:
        mosaics: Those of its files that are virtual rasters.
        shape: Height and width of these, in pixels.
        place: From a region of the files to the pixels of the scene that
            hold something of it.
    """

    def __init__(self, mosaics: Iterable[Path], shape: tuple[int, int],
                 place: Callable[[Window], Window]) -> None:
        self._lacking = {path: frozenset[str]() for path in mosaics}
        self._shape, self._place = shape, place
        self._regions: list[Window] = []
        self._noting, self._looking = Lock(), Lock()
        for path in self._lacking:
            self._look(path)

    @property
    def regions(self) -> list[Window]:
        """Pixels of the scene, as far as known."""
        return self._regions.copy()

    def note(self, region: Window, path: Path, error: str) -> None:
        """Remember, and say once, that a region cannot be read."""
        with self._noting:
            known = region in self._regions
            if not known:
                self._regions.append(region)
        if not known:
            MMLogger.get_current_instance().warning(
                f'{path}: {region.height} x {region.width} pixels from row '
                f'{region.top}, column {region.left} cannot be read '
                f'({error}); they become no data.')

    def lacking(self, path: Path) -> frozenset[str]:
        """Files that a virtual raster is to be read without."""
        return self._lacking.get(path, frozenset())

    def is_more(self, path: Path, known: frozenset[str],
                error: BaseException) -> bool:
        """Whether a file lacks more than was known when it was read.

        Args:
            path: File.
            known: What it was read without.
            error: What came of that; if a file could not be opened, each of
                them is looked at.
        """
        with self._looking:
            if (path in self._lacking and self._lacking[path] == known
                    and not_opened(error)):
                self._look(path, far=True)
            return self.lacking(path) != known

    def _look(self, path: Path, far: bool = False) -> None:
        found = missing_parts(path, self._shape, far)
        for file, window in found:
            self.note(self._place(window), path,
                      f'{shown(file)} is missing or damaged')
        self._lacking[path] |= {part.file for part in found}
