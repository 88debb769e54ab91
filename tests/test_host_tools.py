"""Which tools of the host work with our configs: docs/host_tools.md."""
import re
import runpy
import sys
import time
from pathlib import Path

import mmseg
import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from mmseg.apis import (
    MMSegInferencer,
    inference_model,
    init_model,
    show_result_pyplot,
)
from mmseg.registry import MODELS
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from relay_seg.checkpoints import UnsafeCheckpointError
from relay_seg.datasets import DubaiDataset
from relay_seg.inference.scene_inferencer import SceneInferencer

ROOT = Path(__file__).parents[1]
HOST = Path(mmseg.__file__).parent / '.mim/tools'
RELAY = 'configs/relay/rt_swin2_n_dubai.py'
PLAIN = 'configs/plain/swin2_n_dubai.py'


def call(tool, *arguments, folder=ROOT):
    for kind in (Visualizer, SegLocalVisualizer):  # of earlier runs
        kind._instance_dict.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, 'argv', [str(tool), *map(str, arguments)])
        runpy.run_path(str(tool), run_name='__main__')


@pytest.fixture(scope='module', params=[RELAY, PLAIN], ids=['relay', 'plain'])
def trained(request, tmp_path_factory):
    """A config and a checkpoint such as training writes."""
    config = ROOT / request.param
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    path = tmp_path_factory.mktemp('checkpoint') / 'iter_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(
        dataset_meta=DubaiDataset.METAINFO)), path)
    return str(config), str(path)


@pytest.fixture
def scene(tmp_path):
    """A photograph that is larger than a window."""
    with rasterio.open(
            ROOT / 'data_prep/sample/dubai/img_dir/test/scene1.tif') as file:
        image = file.read(window=((400, 550), (600, 770)))
    path = tmp_path / 'scene.png'
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return path


def ids_of(result):
    return result.pred_sem_seg.data[0].numpy()


def test_inference_model_segments_a_path(trained, scene, tmp_path):
    model = init_model(*trained, device='cpu')
    result = inference_model(model, str(scene))
    assert ids_of(result).shape == (150, 170)
    logits = result.seg_logits.data
    assert logits.flatten(1).std(1).min() > 0.01, 'the scene does not matter'
    both = inference_model(model, [str(scene), str(scene)])
    assert len(both) == 2
    for one in both:
        assert (ids_of(one) == ids_of(result)).all()
    drawn = show_result_pyplot(
        model, str(scene), result, show=False, with_labels=False,
        opacity=1, out_file=str(tmp_path / 'drawn.png'))
    palette = np.array(DubaiDataset.METAINFO['palette'])
    assert (drawn == palette[ids_of(result)]).all()


def test_init_model_runs_nothing_of_a_checkpoint(trained, tmp_path):
    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'touched', )

    torch.save(dict(state_dict={}, meta=Harmful()), tmp_path / 'bad.pth')
    with pytest.raises(UnsafeCheckpointError, match='bad.pth is refused'):
        init_model(trained[0], str(tmp_path / 'bad.pth'), device='cpu')
    assert not (tmp_path / 'touched').exists()


def test_inference_model_refuses_an_array(trained):
    model = init_model(*trained, device='cpu')
    with pytest.raises(TypeError, match='num_bands'):
        inference_model(model, np.zeros((150, 170, 3), np.uint8))


def test_scene_inferencer_gives_what_inference_model_gives(trained, scene,
                                                           tmp_path):
    expected = ids_of(inference_model(
        init_model(*trained, device='cpu'), str(scene)))
    infer = SceneInferencer(*trained, device='cpu', show_progress=False)
    found = infer(str(scene), out_dir=str(tmp_path / 'out'))
    assert (found['predictions'] == expected).all()
    array = np.asarray(Image.open(scene))
    assert (infer(array)['predictions'] == expected).all()

    def logits(scene):
        return infer(scene, return_datasamples=True).seg_logits.data

    torch.testing.assert_close(logits(array), logits(str(scene)))
    turned = np.ascontiguousarray(array[..., ::-1])
    assert (logits(turned) - logits(array)).abs().max() > 0.01
    written = np.asarray(Image.open(tmp_path / 'out/pred/00000000_pred.png'))
    assert (written == expected).all()
    assert (tmp_path / 'out/vis/scene.png').is_file()
    with pytest.raises(ValueError, match='4 bands'):
        infer(np.zeros((150, 170, 4), np.uint8))


def test_inferencer_of_the_host_wants_another_pipeline(trained, scene):
    with pytest.raises(ValueError, match='LoadImageFromFile'):
        MMSegInferencer(*trained, device='cpu')
    cfg = Config.fromfile(trained[0])
    cfg.test_dataloader.dataset.pipeline[0] = dict(type='LoadImageFromFile')
    with pytest.raises(ValueError, match='LoadImageFromFile'):
        SceneInferencer(cfg, trained[1], device='cpu')


def test_get_flops_counts_both_views(capsys):
    giga = {}
    for config in (RELAY, PLAIN):
        call(HOST / 'analysis_tools/get_flops.py', config, '--shape', 128)
        text = capsys.readouterr().out
        giga[config] = float(re.search(r'Flops: ([\d.]+)G', text)[1])
    # tools/describe.py counts multiplications and additions, so twice.
    assert giga[PLAIN] == pytest.approx(0.93 / 2, rel=0.05)
    assert giga[RELAY] == pytest.approx(1.57 / 2, rel=0.06)


def tool(name):
    """Folders of the host's tools differ between versions."""
    return next(HOST.rglob(name))


def test_browse_dataset_takes_no_views():
    with pytest.raises(AttributeError, match="no attribute 'permute'"):
        call(tool('browse_dataset.py'), RELAY, '--not-show')


def test_benchmark_takes_no_scenes(trained):
    with pytest.raises(ValueError, match='bands'):
        call(tool('benchmark.py'), *trained)


def test_print_config_and_publish_model(trained, tmp_path, capsys):
    call(tool('print_config.py'), trained[0], folder=tmp_path)
    assert 'relay_seg' in capsys.readouterr().out
    call(tool('publish_model.py'), trained[1], tmp_path / 'small.pth')
    for _ in range(100):  # the tool does not wait for the mv that it starts
        published = list(tmp_path.glob('small-*.pth'))
        if published:
            break
        time.sleep(0.1)
    published, = published
    init_model(trained[0], str(published), device='cpu')


def test_hook_of_the_host_draws(trained, module_scenes, tmp_path):
    call(HOST / 'test.py', *trained, '--work-dir', tmp_path / 'work',
         '--show-dir', tmp_path / 'drawn', '--cfg-options',
         'default_hooks.visualization.type=SegVisualizationHook',
         'test_dataloader.num_workers=0',
         'test_dataloader.persistent_workers=False',
         f'test_dataloader.dataset.data_root={module_scenes}')
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 2
