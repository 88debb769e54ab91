"""Train and test RT-SegFormer and its plain twin on the sample scenes."""
import argparse
import json
import os
import shutil
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from prettytable import PrettyTable

from relay_seg.drawing import (
    colour_label,
    legend,
    panels,
    reduce_label,
    stack,
    thumbnail,
)
from relay_seg.evaluation.children import (
    Children,
    Interrupted,
    ending_children,
)
from relay_seg.evaluation.reproducing import Teller
from relay_seg.rasters import open_raster

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    'SegFormer (plain)': 'configs/plain/segformer_b0_dubai.py',
    'RT-SegFormer (relay)': 'configs/relay/rt_segformer_b0_dubai.py',
}
#: What stands below the table.
MEANING = ('Minutes of training from scratch on three scenes, one seed: this '
           'shows that\neverything works, not which model is better.')


class Steps:
    """Runs commands one after another and says how far they are.

    Args:
        children: Run them.
        names: Of all steps, in their order.
    """

    def __init__(self, children: Children, names: list[str]) -> None:
        self._children, self._names = children, names
        self._minute = time.monotonic() + 60

    def run(self, name: str, command: list[str], log: Path) -> None:
        """Run a command, show its progress, keep its output in a log."""
        tell = Teller(name, lambda text: print(text, flush=True))
        tell(f'{" ".join(command)}\n  log: {log}')
        last: deque[str] = deque(maxlen=30)

        def show(line: str) -> None:
            last.append(line)
            tell.show(line)
            if time.monotonic() > self._minute:
                self._minute = float('inf')
                tell(self.to_come(name))

        if self._children.run([sys.executable, *command], log, show=show):
            sys.exit(f'{"".join(last)}\n{name} failed; see {log}')

    def to_come(self, name: str) -> str:
        """What follows a step."""
        later = self._names[self._names.index(name) + 1:]
        return (f'A minute has passed. After this {name}: {", ".join(later)}. '
                'A relay model trains about twice as long.')


def train_and_test(steps: Steps, title: str, config: str,
                   folder: Path) -> dict:
    """Train unless that is done, test, and give the results."""
    trained = folder / 'train_seconds.txt'
    if not trained.exists():
        start = time.perf_counter()
        steps.run(f'training of {title}', [
            'tools/train.py', config, '--work-dir', str(folder), '--resume'],
            folder / 'train.log')
        trained.write_text(f'{time.perf_counter() - start:.0f}')
    else:
        print(f'\n[{title}] is trained already; --fresh trains it again')
    checkpoint = (folder / 'last_checkpoint').read_text().strip()
    steps.run(f'test of {title}', [
        'tools/test.py', config, checkpoint, '--work-dir', str(folder),
        '--out', str(folder / 'predictions')], folder / 'test.log')
    results = json.loads((folder / 'results.json').read_text())
    return results | dict(train_seconds=int(trained.read_text()))


def table(results: dict[str, dict]) -> PrettyTable:
    """One line for each model."""
    out = PrettyTable(['model', 'mIoU %', 'mF1 %', 'aAcc %', 'parameters',
                       'training s', 'test s'])
    out.align = 'r'
    out.align['model'] = 'l'
    for title, r in results.items():
        metrics = [f'{r["metrics"][k]:.1f}' for k in ('mIoU', 'mF1', 'aAcc')]
        out.add_row([
            title, *metrics, f'{r["parameters"]:,}', r['train_seconds'],
            f'{r["seconds"]:.0f}'
        ])
    return out


def read_ids(path: Path) -> np.ndarray:
    with open_raster(path) as raster:
        return raster.read(1)


def draw_overview(folders: dict[str, Path], out: Path) -> None:
    """Scene, truth and each prediction side by side."""
    cfg = Config.fromfile(ROOT / next(iter(MODELS.values())))
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    scene = dataset.get_data_info(0)
    palette = dataset.metainfo['palette']
    image = thumbnail(scene['img_path'], 560)
    labels = {'truth': read_ids(scene['seg_map_path'])}
    for title, folder in folders.items():
        name = f'{Path(scene["img_path"]).stem}.tif'
        labels[title] = read_ids(folder / 'predictions' / name)
    coloured = [colour_label(reduce_label(x, image.shape[:2]), palette)
                for x in labels.values()]
    row = panels([image, *coloured], ['scene', *labels])
    key = legend(dataset.metainfo['classes'], palette, row.width // 2)
    stack([row, key]).save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', default=ROOT / 'work_dirs/demo', type=Path,
        help='folder for checkpoints, table and picture')
    parser.add_argument(
        '--fresh', action='store_true', help='train again from the start')
    args = parser.parse_args()
    out = args.out.resolve()
    folders = {title: out / Path(config).stem
               for title, config in MODELS.items()}
    for folder in folders.values() if args.fresh else ():
        shutil.rmtree(folder, ignore_errors=True)
    names = [f'{step} of {title}' for title in MODELS
             for step in ('training', 'test')]
    os.chdir(ROOT)  # where configs look for the scenes
    try:
        with ending_children() as children:
            steps = Steps(children, [*names, 'table and picture'])
            results = {
                title: train_and_test(steps, title, config, folders[title])
                for title, config in MODELS.items()}
            children.check()
    except Interrupted as end:
        print(f'Ended by {end}; the same command goes on from here.')
        sys.exit(128 + end.number)
    text = f'{table(results)}\n{MEANING}'
    (out / 'table.txt').write_text(text + '\n')
    draw_overview(folders, out / 'overview.png')
    print(f'\n{text}\n\nTable: {out / "table.txt"}\n'
          f'Picture: {out / "overview.png"}')


if __name__ == '__main__':
    main()
