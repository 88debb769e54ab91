"""Prediction from file to file, and where its time goes."""
import subprocess
import sys
import time
from pathlib import Path

import torch
from predict_raster import make_scene

from relay_seg.inference import load_model, predict_raster

from .records import Records
from .setting import ROOT, Setting, build, config

MODELS = 'RT-SwinV2-S', 'RT-ViT-S'
PRECISIONS = dict(bf16='bf16', fp32=None)


def predicting(setting: Setting, records: Records) -> None:
    """Megapixels a second of a generated GeoTIFF with random weights."""
    side = 256 if setting.smoke else 8192
    scene, small = (setting.scratch / f'{name}.tif'
                    for name in ('scene', 'small'))
    make_scene(scene, side)
    make_scene(small, 2 * setting.side)
    files = {name: written(setting, name) for name in MODELS}
    for precision, amp in PRECISIONS.items():
        for table, measure in (('predict_raster', in_process),
                               ('tools/predict.py', command)):
            for name in MODELS:
                with records.attempt(f'{name}, {precision}, {table}'):
                    found = measure(
                        setting, files[name], (small, scene),
                        setting.scratch / f'{name}_{precision}', amp)
                    records.row(table, model=name, precision=precision,
                                megapixels=side**2 / 1e6, **found)


def in_process(setting: Setting, files: tuple[Path, Path],
               scenes: tuple[Path, Path], out: Path, amp: str | None) -> dict:
    """Seconds of a prediction and of its stages, once all is loaded."""
    model = load_model(str(files[0]), files[1], device=setting.device)
    for scene in scenes:  # the first, a small one, starts the device
        start = time.perf_counter()
        report = predict_raster(
            model, scene, out.with_name(f'{out.name}_{scene.name}'), amp=amp)
        took = time.perf_counter() - start
    return dict(seconds=took, stages=dict(report.seconds),
                stride=model.test_cfg.stride[0])


def command(setting: Setting, files: tuple[Path, Path],
            scenes: tuple[Path, Path], out: Path, amp: str | None) -> dict:
    """Seconds of tools/predict.py, its start included."""
    words = [sys.executable, ROOT / 'tools/predict.py', *files, scenes[1],
             '-o',
             out.with_name(f'{out.name}_command.tif'), '--device',
             setting.device, *(['--amp', amp] if amp else [])]
    start = time.perf_counter()
    subprocess.run([*map(str, words)], check=True)
    return dict(seconds=time.perf_counter() - start)


def written(setting: Setting, name: str) -> tuple[Path, Path]:
    """Config and checkpoint of a model with random weights."""
    cfg = config(setting, name)
    files = tuple(setting.scratch / f'{name}{suffix}'
                  for suffix in ('.py', '.pth'))
    cfg.dump(files[0])
    torch.save(dict(state_dict=build(cfg).state_dict()), files[1])
    return files
