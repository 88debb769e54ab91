"""Attention biases that evaluation computes once."""
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache, wraps

import torch
from torch import Tensor

from relay_seg.precision import autocast_dtype

#: Biases of a module that are kept: of the views of a window or two.
MOST = 8


#: Forgets what :func:`remembered` has kept.
FORGET: list[Callable[[], None]] = []


def remembered(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give back the tensor of before for the same arguments.

    Not while a model is traced: what that makes is of no use elsewhere.
    """
    cached = lru_cache(maxsize=64)(make)
    FORGET.append(cached.cache_clear)

    @wraps(make)
    def call(*args: Hashable) -> Tensor:
        if torch.compiler.is_compiling():
            return make(*args)
        with torch.inference_mode(False):  # training may ask for it next
            return cached(*args)

    return call


class KeptBias:
    """Mixin of modules whose weights make a bias that no input changes.

    Nothing tells of a write through ``.data``: call ``eval()`` after it, as a
    validation does after averaged weights are put in.
    """

    training: bool

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[Hashable, tuple[list, Tensor]] = {}

    # Whatever may change weights lets go of what is kept.
    # (The module that this is mixed into has these methods.)

    def train(self, mode: bool = True):
        self._kept.clear()
        return super().train(mode)  # type: ignore[misc]

    def init_weights(self) -> None:
        self._kept.clear()
        super().init_weights()  # type: ignore[misc]

    def _apply(self, *args, **kwargs):
        self._kept.clear()
        return super()._apply(*args, **kwargs)  # type: ignore[misc]

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]

    def keep(self, key: Hashable, weights: Iterable[Tensor],
             compute: Callable[[], Tensor]) -> Tensor:
        """A bias, from before where it can be.

        In evaluation it is computed once for each key and precision, until a
        weight changes; compiled models and CUDA graphs, which nothing would
        tell, compute it each time.

        Args:
            key: What it depends on beside the weights.
            weights: What it is made of.
            compute: Makes it.
        """
        if (self.training or torch.is_grad_enabled()
                or torch.compiler.is_compiling()):
            return compute()
        weights = list(weights)
        device = weights[0].device.type
        if device == 'cuda' and torch.cuda.is_current_stream_capturing():
            return compute()
        state = [autocast_dtype(device),
                 *((w.data_ptr(), w._version) for w in weights)]
        if key not in self._kept or self._kept[key][0] != state:
            self._kept.pop(key, None)
            while len(self._kept) >= MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = state, compute()
        return self._kept[key][1]
