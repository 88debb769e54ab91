"""From views to logits, as prediction calls a model."""
from collections.abc import Callable
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views

#: The graph that was last recorded of each model, with what it is of.
_GRAPHS: WeakKeyDictionary = WeakKeyDictionary()


class Graph:
    """A call on a GPU, recorded once as a CUDA graph and then played back.

    A transformer launches hundreds of small kernels; launched one by one, a
    fast GPU waits for the next.

    Args:
        call: From views to logits, without looking at numbers.
        views: What it is called with, later ones have their sizes.
    """

    def __init__(self, call: Callable[[Views], Tensor],
                 views: Views) -> None:
        self._views = tuple(view.clone() for view in views)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may read and write meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode='thread_local'):
            self._logits = call(self._views)

    def __call__(self, views: Views) -> Tensor:
        """Logits, which the next call overwrites."""
        for mine, given in zip(self._views, views):
            mine.copy_(given)
        self._graph.replay()
        return self._logits


class Forward:
    """A model's way from views to logits of windows.

    Args:
        model: In evaluation mode, on its device.
        size: Height and width of the windows in native pixels.
        batch_size: Windows in a full batch.
        amp: Type to compute in, None for float32.
        compiled: Compile the model. All batches then have one size: a
            smaller one is filled up with copies of its last window.
        cuda_graph: On a GPU, record the second full batch and play it back
            from then on; a compiled model is left alone.
    """

    def __init__(self, model: SlideEncoderDecoder, size: tuple[int, int],
                 batch_size: int, amp: torch.dtype | None = None,
                 compiled: bool = False, cuda_graph: bool = True) -> None:
        self._model, self._size, self._amp = model, size, amp
        self._batch_size = batch_size
        self._device = model.data_preprocessor.device
        self._call = model.window_logits
        if compiled:
            self._call = torch.compile(self._call)
        self._record = (cuda_graph and not compiled
                        and self._device.type == 'cuda')
        self._compiled = compiled
        self._graph: Graph | None = None
        self._warm = False

    def __call__(self, views: Views) -> Tensor:
        """Logits of local views, (B, channels, *size) float32.

        They are good until the next call.
        """
        count = len(views[0])
        missing = self._batch_size - count
        if missing > 0:
            if self._compiled:
                views = tuple(torch.cat((view, view[-1:].expand(
                    missing, -1, -1, -1))) for view in views)
            return self._logits(views)[:count]
        if self._record and self._graph is None:
            self._graph = self._recorded(views)
        self._warm = True
        return (self._graph or self._logits)(views)

    def _logits(self, views: Views) -> Tensor:
        with (torch.autocast(self._device.type, self._amp) if self._amp
              else nullcontext()):
            return self._call(views, self._size).float()

    def _recorded(self, views: Views) -> Graph | None:
        """The graph of this call: kept, or recorded once kernels are chosen.

        A model that cannot be recorded, as it looks at numbers, is called as
        ever.
        """
        what = (self._size, self._amp, [view.shape for view in views],
                _addresses(self._model))
        kept = _GRAPHS.get(self._model)
        if kept and kept[0] == what:
            return kept[1]
        if not self._warm:
            return None
        forget(self._model)
        try:
            graph = Graph(self._logits, views)
        except RuntimeError as error:
            self._record = False
            MMLogger.get_current_instance().warning(
                'The model cannot be recorded as a CUDA graph, so its '
                f'kernels are launched one by one: {error}')
            return None
        _GRAPHS[self._model] = what, graph
        return graph


def forget(model: nn.Module) -> None:
    """Give the memory of a model's graph back."""
    _GRAPHS.pop(model, None)


def _addresses(model: nn.Module) -> list[int]:
    """Where the weights lie: a graph reads them there."""
    return [x.data_ptr() for x in (*model.parameters(), *model.buffers())]
