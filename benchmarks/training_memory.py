"""Memory of a training step, and what each switch changes of it.

    python benchmarks/training_memory.py [CONFIG ...] [--frozen N ...]

Counts the bytes of all tensors that are alive, by their storages, while one
step of forward, backward and optimiser runs on random windows. That is what
`torch.cuda.max_memory_allocated` counts on a GPU, without workspaces of
kernels and rounding; kernels may keep other tensors on a GPU than on a CPU.
The decode head has 64 channels, to be done in minutes on a CPU.
"""
import argparse
import gc
import weakref
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS, OPTIM_WRAPPERS
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import relay_seg.registered  # noqa: F401
from relay_seg.structures import label_field

ROOT = Path(__file__).parents[1]
CONFIGS = ('configs/relay/rt_vit_s_dubai.py',
           'configs/relay/rt_swin2_t_dubai.py')
CHANNELS = 64  # of the decode head: the backbone matters, a CPU is slow
#: Row of the table: settings, batch, averages the weights over time.
SWITCHES = {
    'fp32': ({}, 2, False),
    'bf16': ({'optim_wrapper.precision': 'bf16'}, 2, False),
    'checkpointing': ({'model.backbone.with_cp': True}, 2, False),
    'bf16, checkpointing': (
        {'optim_wrapper.precision': 'bf16',
         'model.backbone.with_cp': True}, 2, False),
    'batch 1, accumulated twice': (
        {'optim_wrapper.accumulative_counts': 2}, 1, False),
    'EMA': ({}, 2, True),
}


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made by operators that are still alive.

    Args:
        known: Tensors that were there before and do not count.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet(x.untyped_storage() for x in known)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor):
                self.add(x.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        if storage in self.seen or not storage.nbytes():
            return
        self.seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        self.now -= size


def batch_of(cfg: Config, size: int) -> dict:
    """Random windows and labels, as the data preprocessor gives them."""
    side = cfg.model.backbone.img_size
    factors = (1, *cfg.model.get('context_factors', ()))
    views = tuple(torch.randn(size, 3, side, side) for _ in factors)
    samples = []
    for _ in range(size):
        sample = SegDataSample(metainfo=dict(img_path='random'))
        for i, k in enumerate(factors):
            label = torch.randint(5, (1, k * side, k * side))
            label = label if i == 0 else label.byte()
            sample.set_data({label_field(i): PixelData(data=label)})
        samples.append(sample)
    return dict(inputs=views, data_samples=samples)


def measure(path: str, changes: dict, size: int, ema: bool) -> dict[str, int]:
    """Bytes of parameters and state, and kept and peak beyond them."""
    cfg = Config.fromfile(ROOT / path)
    cfg.merge_from_dict(changes)
    cfg.model.decode_head.channels = CHANNELS
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    settings = cfg.optim_wrapper
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    for key in ('paramwise_cfg', 'optimizer'):
        settings.pop(key)
    wrapper = OPTIM_WRAPPERS.build(settings, default_args=dict(
        optimizer=optimizer))
    weights = sum(p.nbytes for p in model.parameters())
    averaged = None
    if ema:
        averaged = MODELS.build(dict(type='ExponentialMovingAverage'),
                                default_args=dict(model=model))

    def forward() -> torch.Tensor:
        with wrapper.optim_context(model):
            losses = model(**batch_of(cfg, size), mode='loss')
        return model.parse_losses(losses)[0]

    count = cfg.optim_wrapper.get('accumulative_counts', 1)
    for _ in range(count):  # makes the optimiser's state
        wrapper.update_params(forward())
    gc.collect()
    known = [*model.parameters(), *model.buffers()]
    known += [x for state in optimizer.state.values()
              for x in state.values() if isinstance(x, torch.Tensor)]
    with LiveBytes(known) as live:
        loss = forward()
        kept = live.now
        wrapper.update_params(loss)
        for _ in range(count - 1):
            wrapper.update_params(forward())
    # Parameters, and two moments of those that learn.
    state = weights + 2 * sum(p.nbytes for p in learning)
    if averaged is not None:
        state += sum(p.nbytes for p in averaged.module.parameters())
    return dict(state=state, kept=kept, peak=state + live.peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='*', default=CONFIGS)
    parser.add_argument(
        '--frozen', nargs='+', type=int, help='in place of the switches, '
        'values of frozen_stages of the backbone')
    args = parser.parse_args()
    switches = SWITCHES if args.frozen is None else {
        f'`frozen_stages={n}`': ({'model.backbone.frozen_stages': n}, 2, False)
        for n in args.frozen}
    init_default_scope('mmseg')
    names = 'parameters and state', 'kept for backward', 'peak of a step'
    print('| config | switch |', *(f'{name} (MB) |' for name in names))
    print('|---|---|' + '---|' * len(names))
    for config in args.configs:
        for title, switch in switches.items():
            found = measure(config, *switch)
            cells = ' | '.join(f'{x / 1e6:.0f}' for x in found.values())
            print(f'| `{Path(config).stem}` | {title} | {cells} |',
                  flush=True)
            gc.collect()


if __name__ == '__main__':
    main()
