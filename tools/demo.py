"""Train and test RT-SwinV2 and its plain twin on the sample scenes."""
import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from prettytable import PrettyTable

from relay_seg.drawing import colour_label, panels, reduce_label, thumbnail
from relay_seg.rasters import open_raster

ROOT = Path(__file__).parents[1]
MODELS = {
    'SwinV2 (plain)': 'configs/plain/swin2_n_dubai.py',
    'RT-SwinV2 (relay)': 'configs/relay/rt_swin2_n_dubai.py',
}
PROGRESS = re.compile(r'Iter\((train|test)\)\s+\[\s*(\d+)/(\d+)\].*')


def run(command: list[str], log: Path, title: str) -> None:
    """Run a command, show its progress, keep its output in a log."""
    print(f'\n[{title}] {" ".join(command)}\n[{title}] log: {log}', flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with log.open('w') as file, subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            found = PROGRESS.search(line)
            if found:
                print(f'[{title}] {short(found)}', flush=True)
    if process.returncode:
        sys.exit(f'{"".join(lines[-30:])}\n[{title}] failed; see {log}')


def short(progress: re.Match) -> str:
    """The part of a line of the host's log that tells how far it is."""
    task, done, total = progress.groups()
    fields = dict(re.findall(r'(\w+): +(\S+)', progress[0]))
    shown = ''.join(f'  {k} {fields[k]}' for k in ('eta', 'loss', 'mIoU')
                    if k in fields)
    return f'{task} {done}/{total}{shown}'


def train_and_test(title: str, config: str, folder: Path) -> dict:
    """Train unless that is done, test, and give the results."""
    trained = folder / 'train_seconds.txt'
    if not trained.exists():
        start = time.perf_counter()
        run(['tools/train.py', config, '--work-dir', str(folder), '--resume'],
            folder / 'train.log', title)
        trained.write_text(f'{time.perf_counter() - start:.0f}')
    else:
        print(f'\n[{title}] is trained already; --fresh trains it again')
    checkpoint = (folder / 'last_checkpoint').read_text().strip()
    run(['tools/test.py', config, checkpoint, '--work-dir', str(folder),
         '--out', str(folder / 'predictions')], folder / 'test.log', title)
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
    panels([image, *coloured], ['scene', *labels]).save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', default=ROOT / 'work_dirs/demo', type=Path,
        help='folder for checkpoints, table and picture')
    parser.add_argument(
        '--fresh', action='store_true', help='train again from the start')
    args = parser.parse_args()
    out = args.out.resolve()
    if args.fresh:
        shutil.rmtree(out, ignore_errors=True)
    folders = {title: out / Path(config).stem
               for title, config in MODELS.items()}
    results = {title: train_and_test(title, config, folders[title])
               for title, config in MODELS.items()}
    text = str(table(results))
    (out / 'table.txt').write_text(text + '\n')
    draw_overview(folders, out / 'overview.png')
    print(f'\n{text}\n\nTable: {out / "table.txt"}\n'
          f'Picture: {out / "overview.png"}')


if __name__ == '__main__':
    main()
