"""The model that comes with relay_seg: its file, its card, its map."""
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from doc_commands import blocks, commands_of
from safetensors import safe_open

from relay_seg.inference import load_model, sample_model
from relay_seg.sample_model import FOLDER

ROOT = Path(__file__).parents[1]
SCENES = ROOT / 'data_prep/sample/dubai'
CARD = (FOLDER / 'README.md').read_text()


def test_file_is_small_and_holds_half_precision_alone():
    path = sample_model()[1]
    assert path.stat().st_size <= 12e6
    with safe_open(path, 'pt') as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
    assert kinds == {'F16', 'I64'}  # the second counts batches


def test_the_map_of_the_readme_scores_what_the_card_says(tmp_path):
    (tmp_path / 'data_prep').symlink_to(ROOT / 'data_prep')
    (tmp_path / 'sample').mkdir()  # a folder of the name is not in the way
    command = next(c.words for c in commands_of(ROOT / 'README.md')
                   if 'sample' in c.words)
    assert command[0] == 'relay-seg'
    done = subprocess.run(
        [sys.executable, '-m', 'relay_seg', *command[1:]], cwd=tmp_path,
        text=True, capture_output=True, env=os.environ | dict(
            PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / 'map.tif') as raster:
        ids = raster.read(1)
    with rasterio.open(SCENES / 'ann_dir/test/scene1.tif') as raster:
        truth = raster.read(1)
    ious = []
    for i in range(5):
        both = (ids == i) & (truth == i)
        either = ((ids == i) | (truth == i)) & (truth != 255)
        ious.append(100 * both.sum() / either.sum())
    stated = dict(re.findall(r'^\| (\w+) \| ([\d.]+) \|$', CARD, re.M))
    assert list(stated) == [
        'building', 'land', 'road', 'vegetation', 'water']
    assert ious == pytest.approx([*map(float, stated.values())], abs=0.5)
    mean = float(re.search(r'([\d.]+) % mIoU on scene 1', CARD)[1])
    assert np.mean(ious) == pytest.approx(mean, abs=0.3)


def run(*words):
    return subprocess.run(
        [sys.executable, '-m', 'relay_seg', *words], cwd=ROOT, text=True,
        capture_output=True, check=True, env=os.environ | dict(
            PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')).stdout


@pytest.mark.slow
def test_sample_stands_for_it_wherever_a_model_is_given(tmp_path):
    assert '"parameters": 3' in run('describe', 'sample', '--json')
    run('export', 'sample', '-o', str(tmp_path / 'sample.onnx'))
    assert (tmp_path / 'sample.onnx').exists()


@pytest.mark.slow
def test_tested_it_scores_what_the_card_says(tmp_path):
    run('test', 'sample', '--work-dir', str(tmp_path))
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['metrics']['mIoU'] == pytest.approx(42, abs=0.3)


def test_python_of_the_readme_gives_a_map(tmp_path, monkeypatch,
                                          write_raster):
    monkeypatch.chdir(tmp_path)
    write_raster('scene.tif', np.full((3, 90, 80), 120, np.uint8))
    code = next(text for text in blocks(ROOT / 'README.md', 'python')
                if 'sample_model' in text)
    ast.parse(code)
    exec(code, {})
    with rasterio.open('map.tif') as raster:
        assert raster.shape == (90, 80)


def test_names_and_colours_are_in_the_model():
    model = load_model(*sample_model(), device='cpu')
    assert model.dataset_meta['classes'][0] == 'building'
    assert model.dataset_meta['palette'][4] == [72, 133, 196]
