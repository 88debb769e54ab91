"""Parameters of backbones and what relay adds, as a table."""
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

ROOT = Path(__file__).parents[1]


def count(config: Path) -> int:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    return sum(p.numel() for p in backbone.parameters())


def main() -> None:
    for path in sorted(ROOT.glob('configs/relay/*_dubai.py')):
        plain = count(ROOT / 'configs/plain' / path.name.removeprefix('rt_'))
        relay = count(path)
        name = path.stem.removesuffix('_dubai')
        print(f'| `{name}_*.py` | {relay:,} | {relay - plain:,} '
              f'({100 * (relay - plain) / plain:.2f} %) |')


if __name__ == '__main__':
    main()
