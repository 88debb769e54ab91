"""What a prediction says that it takes is what it takes."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger

from relay_seg.inference import memory, predict_raster

MEASURE = """
import json, resource, sys
import torch
import relay_seg.registered
from cheap_model import CheapEncoderDecoder
from mmengine.registry import init_default_scope
from relay_seg.inference import predict_raster
from relay_seg.inference.memory import needed
from relay_seg.inference.model import bands_of
from relay_seg.inference.raster_source import RasterSource
from relay_seg.inference.settings import Settings, plan_for

torch.set_num_threads(1)
init_default_scope('mmseg')
scene, probabilities = sys.argv[1], sys.argv[2] or None
model = CheapEncoderDecoder(test_cfg=dict(
    mode='slide', crop_size=(256, 256), stride=(128, 256), blend='gaussian',
    batch_size=8))
model.window_logits = lambda views, size=None: torch.zeros(
    len(views[0]), 4, 256, 256)
source = RasterSource([scene], bands_of(model))
wanted = needed(plan_for(model, source, Settings()).blocks, source, 4,
                1 + 4 * bool(probabilities))
now = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
predict_raster(model, scene, scene + '.out.tif', probabilities=probabilities)
# Of this program: the kernel's other count begins with who started it.
peak = 1024 * int(next(line.split()[1] for line in open('/proc/self/status')
                       if line.startswith('VmHWM')))
print(json.dumps((peak - now, wanted)))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'),
                    reason='units of peak memory')
@pytest.mark.slow
@pytest.mark.parametrize('probabilities', ('', 'uint8'))
def test_memory_is_what_is_said(tmp_path, scene_file, probabilities):
    """Within a fifth, where the scene is wide."""
    rows = np.random.default_rng(0).integers(0, 255, (3, 64, 256), np.uint8)
    scene = scene_file(
        tmp_path / 'a.tif', np.tile(rows, (1, 20, 160)), blockxsize=256,
        blockysize=256, compress='deflate', zlevel=1)
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(scene), probabilities],
        cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    taken, wanted = json.loads(done.stdout.splitlines()[-1])
    assert taken == pytest.approx(wanted, rel=0.2)


def test_too_little_memory_is_said_before(cheap, scene_file, noise, tmp_path,
                                          monkeypatch, caplog):
    monkeypatch.setattr(memory, 'MEMINFO', tmp_path / 'meminfo')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    for free, said in ((1_000_000, False), (100_000, True)):
        (tmp_path / 'meminfo').write_text(
            f'MemTotal: 9 kB\nMemAvailable: {free} kB\n')
        caplog.clear()
        predict_raster(cheap(), scene_file(tmp_path / 'a.tif', noise(48, 48)),
                       tmp_path / 'out.tif')
        told = [r.getMessage() for r in caplog.records]
        assert any('0.2 GB of memory' in text and 'a.tif' in text
                   for text in told) == said
        (tmp_path / 'out.tif').unlink()
    logger.removeHandler(caplog.handler)
