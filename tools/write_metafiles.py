"""Write configs/*/metafile.yml, the lists of models that mim reads."""
import argparse
from pathlib import Path

import yaml
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
PAPER = dict(
    Title='Adapting Vision Transformers to Ultra-High Resolution Semantic '
    'Segmentation with Relay Tokens',
    URL='https://arxiv.org/abs/2601.05927')
#: Folder of configs, name of its collection.
COLLECTIONS = dict(
    relay='Relay Tokens', plain='Plain twins', released='Released protocol')


def metafile(folder: Path) -> str:
    """YAML text that names all configs of a folder.

    Args:
        folder: ``configs/relay``, ``plain`` or ``released``.
    """
    collection = COLLECTIONS[folder.name]
    configs = {path: Config.fromfile(path)
               for path in sorted(folder.glob('*.py'))}
    data = sorted({data_of(cfg) for cfg in configs.values()})
    content = dict(
        Collections=[
            dict(Name=collection, License='Apache-2.0',
                 Metadata={'Training Data': data}, Paper=PAPER,
                 Frameworks=['PyTorch'])
        ],
        Models=[
            {
                'Name': name_of(path),
                'In Collection': collection,
                'Config': f'configs/{folder.name}/{path.name}',
                'Metadata': {
                    'Training Data': data_of(cfg),
                    'Architecture': [cfg.model.backbone.type,
                                     cfg.model.decode_head.type]
                },
            } for path, cfg in configs.items()
        ])
    # Without aliases (&id001), which people do not read.
    dumper = yaml.SafeDumper
    dumper.ignore_aliases = lambda self, value: True
    return ('# Written by tools/write_metafiles.py.\n'
            + yaml.dump(content, Dumper=dumper, sort_keys=False, width=78))


def name_of(path: Path) -> str:
    """Name of a model; the released ones have twins of one file name."""
    released = path.parent.name == 'released'
    return f'released_{path.stem}' if released else path.stem


def data_of(cfg: Config) -> str:
    name = cfg.train_dataloader.dataset.type
    return name.removesuffix('Dataset').removesuffix('Scene')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write the lists of models that mim reads, after configs '
        'were added.')
    parser.parse_args()
    for name in COLLECTIONS:
        folder = ROOT / 'configs' / name
        (folder / 'metafile.yml').write_text(metafile(folder))


if __name__ == '__main__':
    main()
