"""From views to logits, as prediction calls a model."""
from contextlib import nullcontext

import torch
from torch import Tensor

from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views


class Forward:
    """A model's way from views to logits of windows.

    Args:
        model: In evaluation mode, on its device.
        size: Height and width of the windows in native pixels.
        batch_size: Windows in a full batch.
        amp: Type to compute in, None for float32.
        compiled: Compile the model. All batches then have one size: a
            smaller one is filled up with copies of its last window.
    """

    def __init__(self, model: SlideEncoderDecoder, size: tuple[int, int],
                 batch_size: int, amp: torch.dtype | None = None,
                 compiled: bool = False) -> None:
        self._size, self._amp, self._batch_size = size, amp, batch_size
        self._compiled = compiled
        self._device = model.data_preprocessor.device
        self._call = model.window_logits
        if compiled:
            self._call = torch.compile(self._call)

    def __call__(self, views: Views) -> Tensor:
        """Logits of local views, (B, channels, *size) float32."""
        count = len(views[0])
        missing = self._batch_size - count
        if self._compiled and missing > 0:
            views = tuple(torch.cat((view, view[-1:].expand(
                missing, -1, -1, -1))) for view in views)
        with (torch.autocast(self._device.type, self._amp) if self._amp
              else nullcontext()):
            logits = self._call(views, self._size)
        return logits[:count].float()
