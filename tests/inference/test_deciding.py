"""How sure a prediction is, as files hold it; and flips."""
import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from test_predict_raster import CONFIG, ROOT, call, read

from relay_seg.inference.deciding import chances_of, confidence
from relay_seg.inference.model import model_config
from relay_seg.inference.writing import CONFIDENCES
from relay_seg.inference.writing import confidence as confidence_form

SIDE = 64  # of windows


@pytest.mark.parametrize('kind', CONFIDENCES)
@pytest.mark.parametrize('channels', [1, 2, 7])
def test_confidence_is_that_of_the_probabilities(kind, channels):
    logits = 4 * torch.randn(
        channels, 70, 31, generator=torch.Generator().manual_seed(0))
    found = confidence(logits, kind)
    chances = chances_of(logits).double().numpy()
    share = chances.max(0) if kind == 'maximum' else (
        -(chances * np.log(chances)).sum(0) / np.log(max(channels, 2)))
    assert found.dtype == torch.uint8 and found.shape == (1, 70, 31)
    assert abs(found[0].numpy() - 254 * share).max() < 0.501
    # Bytes do not depend on what is decided together.
    for low, high in ((0, 3), (3, 40), (40, 70)):
        for left, right in ((0, 9), (9, 31)):
            part = logits[:, low:high, left:right].contiguous()
            assert confidence(part, kind).equal(
                found[:, low:high, left:right])


@pytest.mark.parametrize('channels', [1, 3])
def test_the_ends_of_confidence(channels):
    """Sure, also where nothing is left of a probability; and undecided."""
    sure = torch.full((channels, 1, 1), -1e4)
    sure[0] = 1e4
    unsure = torch.zeros(channels, 1, 1)
    undecided = round(254 / max(channels, 2))
    for logits, kind, steps in (
            (sure, 'maximum', 254), (unsure, 'maximum', undecided),
            (sure, 'entropy', 0), (unsure, 'entropy', 254)):
        assert confidence(logits, kind).item() == steps


@pytest.mark.parametrize('kind', CONFIDENCES)
def test_gis_reads_percent(tmp_path, kind):
    form = confidence_form(kind)
    with rasterio.open(tmp_path / 'a.tif', 'w', driver='GTiff', height=1,
                       width=2, compress='deflate', **form.profile) as raster:
        form.decorate(raster)
        raster.write(np.array([[[254, 255]]], np.uint8))
    with rasterio.open(tmp_path / 'a.tif') as raster:
        assert raster.descriptions == (CONFIDENCES[kind], )
        assert raster.units == ('%', ) and raster.nodata == 255
        assert raster.offsets == (0, )
        assert 254 * raster.scales[0] == pytest.approx(100)


@pytest.fixture
def small(tmp_path):
    """Config and checkpoint of a small model, whose weights are random."""
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.merge_from_dict({
        'model.decode_head.channels': 8, 'model.backbone.img_size': SIDE,
        'model.backbone.window_size': 2,
        'model.test_cfg.crop_size': (SIDE, SIDE),
        'model.test_cfg.stride': (SIDE, SIDE)})
    cfg.dump(tmp_path / 'config.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(model_config(cfg))
    with torch.no_grad():  # logits of some size
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    torch.save(dict(state_dict=model.state_dict(), meta={}),
               tmp_path / 'model.pth')
    return tmp_path / 'config.py', tmp_path / 'model.pth'


def test_flips_of_the_command(small, noise, scene_file, tmp_path):
    """A flipped scene has the flipped answer, which without it has not."""
    image = noise(2 * SIDE, 2 * SIDE)
    found = {}
    for flips in (False, True):
        for turn in (1, -1):
            path = scene_file(tmp_path / f'{turn}.tif',
                              image[:, ::turn, ::turn].copy())
            out = tmp_path / f'{turn}{flips}.tif'
            assert not call(*small, path, '-o', out,
                            '--probabilities', 'float16',
                            *['--tta'] * flips)
            found[turn, flips] = read(out.with_name(
                f'{out.stem}_probabilities.tif'))[:, ::turn, ::turn]
    assert abs(found[1, False] - found[-1, False]).max() > 0.02
    assert abs(found[1, True] - found[-1, True]).max() < 2e-3
    assert abs(found[1, True] - found[1, False]).max() > 0.02
