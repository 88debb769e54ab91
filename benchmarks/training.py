"""Training steps from file to optimiser, and what each switch does to them.

    python benchmarks/training.py

One step of a config on the sample scenes: waiting for the loader, forward
pass with losses, backward pass, optimiser. Each variant differs from the
config in one switch; all run in turns, each with a model of its own. The
loader's own rate is measured with nothing else running.
"""
import argparse
import copy
import time
from functools import partial
from statistics import median

import torch
from measure import Table, machine, peak_bytes, seconds
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401

#: Switches: settings of the config, as --cfg-options of tools/train.py.
SWITCHES = {
    'as configured': {},
    'bf16 autocast': {'optim_wrapper.precision': 'bf16'},
    'torch.compile': {'compile': True},
    'channels first': {'model.channels_last': False},
    'fused AdamW': {'optim_wrapper.optimizer.fused': True},
    'activation checkpointing': {'model.backbone.with_cp': True},
}
PHASES = 'loader', 'forward', 'backward', 'optimiser'


class Trained:
    """A model with its optimiser, stepped by hand to see the phases."""

    def __init__(self, cfg: Config, device: str) -> None:
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model).to(device)
        self.model.init_weights()
        self.model.train()
        self.optim = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.loss = self._loss
        if cfg.get('compile'):
            self.loss = torch.compile(self._loss)
        self.device = device

    def _loss(self, inputs, data_samples) -> torch.Tensor:
        losses = self.model.loss(inputs, data_samples)
        return self.model.parse_losses(losses)[0]

    def step(self, batches) -> dict[str, float]:
        """Seconds of each phase."""
        spent = {}

        def phase(name, call):
            out = []
            spent[name] = seconds(lambda: out.append(call()), self.device)
            return out[0]

        batch = phase('loader', partial(next, batches))

        def forward():
            with self.optim.optim_context(self.model):
                data = self.model.data_preprocessor(copy.copy(batch), True)
                return self.loss(**data)

        loss = phase('forward', forward)
        phase('backward', partial(self.optim.backward, loss))

        def update():
            self.optim.step()
            self.optim.zero_grad()

        phase('optimiser', update)
        return spent


def forever(loader):
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config',
                        default='configs/relay/rt_swin2_t_dubai.py')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--switches', nargs='+', choices=list(SWITCHES),
                        default=list(SWITCHES))
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    MMLogger.get_instance('benchmark', log_level='WARNING')
    cfg = Config.fromfile(args.config)
    cfg.train_dataloader.update(
        batch_size=args.batch, num_workers=args.workers)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = forever(loader)
    print(f'{machine()}; {args.config}, batch {args.batch}, '
          f'{args.workers} workers\n')
    next(batches)
    start = time.perf_counter()
    count = 40
    for _ in range(count):
        next(batches)
    rate = count * args.batch / (time.perf_counter() - start)
    print(f'The loader alone: {rate:.0f} samples / s\n')

    trained = {}
    for name in args.switches:
        variant = copy.deepcopy(cfg)
        variant.merge_from_dict(SWITCHES[name])
        trained[name] = Trained(variant, device)
    steps = {name: [] for name in trained}
    for i in range(args.rounds + 1):
        for name, one in trained.items():
            spent = one.step(batches)
            if i:  # the first compiles and warms up
                steps[name].append(spent)
    table = Table('variant', 'samples / s', 'of as configured',
                  *(f'{phase} %' for phase in PHASES), 'peak MiB')
    for name, one in trained.items():
        totals = [sum(spent.values()) for spent in steps[name]]
        base = [sum(spent.values()) for spent in steps[args.switches[0]]]
        relative = median(a / b for a, b in zip(base, totals))
        table.row(
            name, f'{args.batch / median(totals):.1f}', f'{relative:.2f}',
            *(f'{100 * sum(s[phase] for s in steps[name]) / sum(totals):.0f}'
              for phase in PHASES),
            f'{peak_bytes(partial(one.step, batches), device) / 2**20:.0f}'
            if device == 'cuda' else '')  # RAM: benchmarks/training_memory.py


if __name__ == '__main__':
    main()
