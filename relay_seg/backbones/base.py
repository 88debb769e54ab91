"""What the relay backbones have in common: twins, relay tokens, freezing."""
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.utils.checkpoint as cp
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from relay_seg.init_cfg import load_files, without_pretrained
from relay_seg.relay import FUSIONS, Block
from relay_seg.views import Views


def find_arch(arch: str | Mapping, archs: Mapping[str, Mapping],
              keys: Sequence[str]) -> Mapping:
    """Settings of a named architecture, or of one given as a dict."""
    settings = archs.get(arch.lower()) if isinstance(arch, str) else arch
    if settings is None:
        raise ValueError(f'arch={arch!r} is unknown; use one of '
                         f'{sorted(archs)} or a dict with {sorted(keys)}.')
    missing = set(keys) - set(settings)
    if missing:
        raise ValueError(f'arch misses {sorted(missing)}.')
    return settings


def find_blocks(out_indices: int | Sequence[int],
                num_blocks: int) -> tuple[int, ...]:
    """Blocks that give a feature map; negative ones count from the last."""
    if isinstance(out_indices, int):
        out_indices = [out_indices]
    found = tuple(i % num_blocks for i in out_indices
                  if -num_blocks <= i < num_blocks)
    if len(found) != len(out_indices):
        raise ValueError(f'out_indices={list(out_indices)} names a block '
                         f'that is not among the {num_blocks}.')
    return found


class RelayBackbone(BaseModule):
    """Base of backbones that look at several views of one window.

    Each view has a stem of its own (patch and position embedding); those of
    the global views start as copies of the local ones. Everything after the
    stems is shared. A subclass builds its modules under the host's names and
    calls :meth:`_build_relay` at the end.

    Args:
        num_views: Views of a window, the local one included.
        num_relay_tokens: R; 0 cuts the views off from each other.
        fusion: How relay tokens meet the views, see
            :func:`relay_seg.relay.relay_step`.
        frozen_stages: Freezes the stems and what the host freezes with this
            number. What relay adds is never frozen, since no plain
            checkpoint holds it.
        init_cfg: As in the host; ``dict(type='Pretrained', checkpoint=...)``
            takes also ``prefix`` and ``bands``, see
            :func:`relay_seg.checkpoints.pretrained.load_pretrained`.
    """

    #: Activation checkpointing.
    with_cp = False
    #: Local stem: path of the module -> attribute of the global views' copies.
    stem = {'patch_embed': 'global_patch_embed'}

    def __init__(self, num_views: int, num_relay_tokens: int, fusion: str,
                 frozen_stages: int,
                 init_cfg: dict | list | None) -> None:
        super().__init__(init_cfg)
        if fusion not in FUSIONS:
            raise ValueError(f'fusion={fusion!r}; use one of '
                             f'{list(FUSIONS)}.')
        if num_views < 1 or num_relay_tokens < 0:
            raise ValueError(
                f'num_views={num_views} and num_relay_tokens='
                f'{num_relay_tokens}; use at least 1 view and 0 tokens.')
        self.num_views = num_views
        self.num_relay_tokens = num_relay_tokens
        self.fusion = fusion
        self.frozen_stages = frozen_stages
        #: A PlaceBias for each block, where blocks do not hold theirs.
        self.relay_places: Any = None
        self._register_load_state_dict_pre_hook(self._twin_missing_keys)

    def _build_relay(self, embed_dims: int) -> None:
        if self.num_relay_tokens:
            self.relay_tokens = nn.Parameter(
                torch.zeros(1, self.num_relay_tokens, embed_dims))
            trunc_normal_(self.relay_tokens, std=0.02)
        for local, twins in self.stem.items():
            source = attrgetter(local)(self)
            copies = [deepcopy(source) for _ in range(self.num_views - 1)]
            is_parameter = isinstance(source, nn.Parameter)
            as_list = nn.ParameterList if is_parameter else nn.ModuleList
            setattr(self, twins, as_list(copies))
        self.train()  # freezes before anybody wraps the parameters

    def init_weights(self) -> None:
        """Initialise as the host does, make the stems alike, load files.

        Files of ``init_cfg`` may be named as timm, mmpretrain and others
        name their weights. Stems of global views that a file does not hold
        are copies of its local one.
        """
        if self.is_init:
            super().init_weights()  # warns
            return
        with without_pretrained(self) as files:
            super().init_weights()
        self._init_tokens()
        for local, twins in self.stem.items():
            for twin in getattr(self, twins):
                _copy(attrgetter(local)(self), twin)
        load_files(self, files)

    def _init_tokens(self) -> None:
        """Initialise parameters that no module of the host initialises."""
        if self.num_relay_tokens:
            trunc_normal_(self.relay_tokens, std=0.02)

    def _twin_missing_keys(self, state_dict: dict, prefix: str, *args) -> None:
        """Give global views the local stem if the file has only that."""
        for local, twins in self.stem.items():
            found = [k for k in state_dict if k == prefix + local
                     or k.startswith(f'{prefix}{local}.')]
            for key in found:
                rest = key[len(prefix + local):]
                for i in range(self.num_views - 1):
                    twin = f'{prefix}{twins}.{i}{rest}'
                    state_dict.setdefault(twin, state_dict[key])

    def get_layer_depth(self, param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, and the number of depths, as in the host.

        0 for stems, then one for each block; the last for what follows, and
        for what relay adds: it begins anew.

        Args:
            param_name: Name in the model.
            prefix: Of this backbone in the model.
        """
        blocks = self._block_names()
        last = len(blocks) + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or 'relay_' in name:
            return last, last + 1
        if name.startswith((*self.stem, *self.stem.values())):
            return 0, last + 1
        # What else a stage has counts as its first block.
        stage = '.'.join(name.split('.')[:2]) + '.'
        found = [i for i, block in enumerate(blocks, 1)
                 if name.startswith(block)] or [
                     i for i, block in enumerate(blocks, 1)
                     if block.startswith(stage)]
        return (found[0] if found else last), last + 1

    def _block_names(self) -> list[str]:
        """Names of the blocks, first to last, each with a dot behind it."""
        raise NotImplementedError

    def _initial_relay(self, x: Tensor) -> Tensor:
        """Relay tokens for a batch of image tokens (B, N, C): (B, R, C)."""
        if self.num_relay_tokens:
            return self.relay_tokens.expand(x.shape[0], -1, -1)
        return x.new_zeros(x.shape[0], 0, x.shape[2])

    def _checked(self, views: Views, multiple: int,
                 local_only: bool) -> Views:
        """The views that are looked at; all of them with relay tokens."""
        if len(views) != self.num_views:
            raise ValueError(
                f'{type(self).__name__} has num_views={self.num_views} but '
                f'got {len(views)} views; set num_views to 1 + the number of '
                'context_factors.')
        for i, view in enumerate(views):
            height, width = view.shape[-2:]
            if height % multiple or width % multiple:
                raise ValueError(
                    f'view {i} has {height} x {width} pixels, not a multiple '
                    f'of patch_size={multiple}; use '
                    f'{max(height // multiple, 1) * multiple} x '
                    f'{max(width // multiple, 1) * multiple}: of a local '
                    'view the window, of a global one by its reduction.')
        if any(view.shape[:2] != views[0].shape[:2] for view in views):
            raise ValueError('views differ in windows or bands: '
                             f'{[tuple(view.shape) for view in views]}.')
        alone = local_only and not self.num_relay_tokens
        return views[:1] if alone else views

    def _for_views(self, shapes: Sequence[Any],
                   step: Callable[[Any], Block]) -> list[Block]:
        """A block as each view passes it, one for views alike.

        Args:
            shapes: Of each view the height and width of its token map, or
                what else the block depends on.
            step: The block for one of these.
        """
        steps = {shape: step(shape) for shape in dict.fromkeys(shapes)}
        if self.with_cp and self.training:
            steps = {shape: partial(cp.checkpoint, block, use_reentrant=False)
                     for shape, block in steps.items()}
        return [steps[shape] for shape in shapes]

    @staticmethod
    def _pyramids(views: Views, local_only: bool) -> list[list[Tensor]]:
        """A place for the maps of each view that is asked for."""
        return [[] for _ in (views[:1] if local_only else views)]

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        """Parts that ``frozen_stages`` freezes."""
        return []

    def train(self, mode: bool = True) -> 'RelayBackbone':
        super().train(mode)
        for part in self._frozen():
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()
        return self


@torch.no_grad()
def _copy(source: Any, target: Any) -> None:
    """Give a module, or a parameter, the values of another one."""
    if isinstance(source, nn.Parameter):
        target.copy_(source)
    else:
        target.load_state_dict(source.state_dict())
