"""Areas of classes, counted block by block while the page is open."""
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from mmengine.logging import MMLogger
from rasterio.windows import Window as RasterWindow

from relay_seg.class_ids import IGNORE
from relay_seg.rasters import Handles, open_raster, readable

from .classes import as_shown
from .grids import square_metres
from .layers import Layer, Layers, open_over

#: Blocks of a file are read together up to about this many pixels.
CHUNK = 2**21


class Areas:
    """Counts pixels of each class in a thread of its own.

    Prediction and truth are counted on their own grids, what they agree on
    on the grid of the prediction. Memory does not grow with the rasters.

    Args:
        layers: What is on show.
    """

    def __init__(self, layers: Layers):
        self._layers = layers
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._counts = {name: np.zeros(256, np.int64) for name in layers.ids}
        self._compared = self._equal = 0
        self._seen = 0
        self._total = sum(layer.grid.height * layer.grid.width
                          for layer in layers.ids.values())
        if layers.truth:
            self._total += (layers.prediction.grid.height
                            * layers.prediction.grid.width)
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up what is not counted yet."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait(self) -> None:
        self._thread.join()

    def report(self) -> dict:
        """Counts up to now, for JSON.

        ``done`` is the share that was counted; ``layers`` holds for each
        layer ``counts`` of the ids 0 to 254, ``no_class``, and
        ``square_metres`` of a pixel; ``compared`` are the pixels with a class
        in both layers, ``equal`` those where it is the same.
        """
        with self._lock:
            layers = {}
            for name, layer in self._layers.ids.items():
                counts = self._counts[name].tolist()
                layers[name] = dict(
                    counts=counts[:IGNORE], no_class=counts[IGNORE],
                    square_metres=square_metres(layer.grid))
            return dict(
                done=self._seen / self._total, layers=layers,
                compared=self._compared, equal=self._equal,
                problem=self._problem)

    def _run(self) -> None:
        try:
            for name in self._layers.ids:
                self._count(name)
            if self._layers.truth:
                self._compare(self._layers.prediction, self._layers.truth)
        except (ValueError, OSError) as error:
            # The page stays useful: it shows what was counted, and why not
            # more was.
            problem = f'Areas are not complete: {error}'
            MMLogger.get_current_instance().error(problem)
            with self._lock:
                self._problem = problem

    def _count(self, name: str) -> None:
        layer = self._layers.ids[name]
        with open_raster(layer.path) as raster:
            for window in self._windows(raster):
                ids = _read(raster, layer.path, window)
                counts = np.bincount(ids.ravel(), minlength=256)
                with self._lock:
                    self._counts[name] += counts
                    self._seen += ids.size

    def _compare(self, prediction: Layer, truth: Layer) -> None:
        over = Handles(truth.path,
                       lambda: open_over(truth.path, prediction.grid))
        with open_raster(prediction.path) as a, over.lend() as b:
            for window in self._windows(a):
                ids = _read(a, prediction.path, window)
                true = _read(b, truth.path, window)
                both = (ids != IGNORE) & (true != IGNORE)
                with self._lock:
                    self._compared += int(both.sum())
                    self._equal += int((both & (ids == true)).sum())
                    self._seen += ids.size

    def _windows(
            self, raster: rasterio.DatasetReader) -> Iterator[RasterWindow]:
        for window in chunks(raster):
            if self._stop.is_set():
                return
            yield window


def _read(raster: rasterio.DatasetReader, path: Path,
          window: RasterWindow) -> np.ndarray:
    """Ids of a region; an error names this file, whatever else is open."""
    with readable(path):
        return as_shown(raster.read(1, window=window, masked=True))


def chunks(raster: rasterio.DatasetReader) -> Iterator[RasterWindow]:
    """Regions that cover a raster, each of whole blocks of the file."""
    height, width = raster.block_shapes[0]
    columns = min(max(CHUNK // (height * width), 1) * width, raster.width)
    rows = max(CHUNK // (height * columns), 1) * height
    for top in range(0, raster.height, rows):
        for left in range(0, raster.width, columns):
            yield RasterWindow(
                left, top, min(columns, raster.width - left),
                min(rows, raster.height - top))
