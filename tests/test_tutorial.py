"""The notebook docs/tutorial.ipynb, run from its first cell to its last."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

ROOT = Path(__file__).parents[1]
CELLS = json.loads((ROOT / 'docs/tutorial.ipynb').read_text())['cells']
CODE = [''.join(cell['source']) for cell in CELLS
        if cell['cell_type'] == 'code']
#: Counts pictures in place of a notebook that shows them.
PICTURES = """
import matplotlib.pyplot as plt
shown = []
plt.show = lambda: (shown.append(plt.gcf().axes), plt.close())
"""


def test_no_output_is_stored():
    for cell in CELLS:
        assert not cell.get('outputs') and not cell.get('execution_count')


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    text = '\n'.join([PICTURES, *CODE, 'print(f"{len(shown)} pictures")'])
    assert text.count('ITERATIONS = 80') == 1
    done = subprocess.run(
        [sys.executable, '-c', text.replace('S = 80', 'S = 2')],
        cwd=tmp_path, text=True, capture_output=True, timeout=600,
        env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1',
                              MPLBACKEND='Agg'))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert '3 pictures' in done.stdout and 'town   IoU' in done.stdout
    with rasterio.open(tmp_path / 'map.tif') as raster:
        assert raster.crs.to_epsg() == 32631 and raster.shape == (640, 640)
        assert raster.colormap(1)[3][:3] == (0x3a, 0x78, 0xb5)  # water
