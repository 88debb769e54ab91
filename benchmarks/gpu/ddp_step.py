"""One training step in each process that torchrun starts."""
import argparse
import json
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from gpu.setting import Setting
from gpu.trainings import short_training
from relay_seg.engine import build_runner, leave_processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--smoke', action='store_true')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    setting = Setting(device, args.smoke, args.out.parent)
    with tempfile.TemporaryDirectory() as folder:
        cfg = short_training(setting, Path(folder) / 'ddp', 1)
        cfg.launcher = 'pytorch'
        runner = build_runner(cfg)
        runner.train()
        mine = torch.cat([p.detach().flatten()
                          for p in runner.model.parameters()])
        first = mine.clone()
        dist.broadcast(first, 0)
        off = torch.stack([(mine != first).any(), ~mine.isfinite().all()])
        off = off.to(torch.int64)
        dist.all_reduce(off)
        found = dict(
            backend=dist.get_backend(), processes=dist.get_world_size(),
            wrapper=type(runner.model).__name__, spread=int(off[0]),
            bad=int(off[1]))
        if dist.get_rank() == 0:
            args.out.write_text(json.dumps(found))
        del runner
        leave_processes()


if __name__ == '__main__':
    main()
