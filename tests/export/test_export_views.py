"""Exported relay models compute what the models compute."""
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch

from relay_seg.backbones.layers import ShiftWindowMSA
from relay_seg.export import (
    OnnxModel,
    export_deepness,
    export_onnx,
    graph,
    quantise_onnx,
    writing,
)
from relay_seg.export.checking import windows_of
from relay_seg.inference import load_model, predict_array, predict_raster
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import LOCAL, view_sizes

ROOT = Path(__file__).parents[2]
NAMES = {'vit': ['local', 'global'], 'swin': ['local', 'global'],
         'swin_mean': ['local', 'global'],
         'place': ['local', 'global'], 'swin_place': ['local', 'global'],
         'timm': ['local', 'global'], 'dinov2': ['local', 'global'],
         'linear': ['local', 'global', 'global_2']}
#: Much like another one; each takes seconds to be exported.
ALIKE = 'swin_mean', 'swin_place', 'place', 'dinov2'
EACH = pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name
    for name in NAMES])


def session_of(path):
    return onnxruntime.InferenceSession(
        path, providers=['CPUExecutionProvider'])


def call(tool, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(tool, run_name='__main__')


@pytest.fixture
def scene(write_raster, tmp_path):
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 220, (3, 7, 9)), np.ones((1, 12, 12)))
    return write_raster(tmp_path / 'scene.tif', image.astype(np.uint8))


# The graph ------------------------------------------------------------------


@EACH
@pytest.mark.parametrize('batch', [1, 2, 5])
def test_equals_pytorch_from_raw_pixels(exported, pixels, name, batch):
    model, path = exported(name)
    views = pixels(batch, model.contexts)
    with torch.no_grad():
        expected = model.window_logits(
            tuple(model.data_preprocessor.normalise(view) for view in views))
    found, = session_of(path).run(['logits'], {
        key: view.numpy() for key, view in zip(NAMES[name], views)})
    assert np.isfinite(found).all() and found.std() > 0.05
    assert np.abs(found - expected.numpy()).max() < 1e-4


@EACH
def test_inputs_outputs_and_version(exported, name):
    model, path = exported(name)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert {o.domain: o.version for o in file.opset_import}[''] >= 17
    inputs = session_of(path).get_inputs()
    assert [x.name for x in inputs] == NAMES[name]
    for entry, size in zip(inputs, view_sizes((32, 32), model.contexts),
                           strict=True):
        batch, *rest = entry.shape
        assert isinstance(batch, str) and rest == [3, *size]
    batch, *rest = session_of(path).get_outputs()[0].shape
    assert isinstance(batch, str) and rest == [3, 32, 32]


@pytest.mark.parametrize('name', ['swin', 'place'])
def test_exports_after_a_prediction(random_model, name, tmp_path):
    """With the masks and places that it kept."""
    export_onnx(random_model(name), tmp_path / 'model.onnx')


@EACH
def test_every_view_matters(exported, pixels, name):
    model = OnnxModel(exported(name)[1])
    views = [torch.randn(2, 3, *size)
             for size in view_sizes((32, 32), model.contexts)]
    before = model.window_logits(views)
    for i in range(len(views)):
        other = torch.randn_like(views[i]).abs()
        changed = [*views[:i], other, *views[i + 1:]]
        assert (model.window_logits(changed) - before).abs().max() > 1e-3


def test_relative_bands_ignore_their_level(exported, pixels):
    session = session_of(exported('linear')[1])
    views = [view.nan_to_num(5.).numpy() for view in pixels(
        2, exported('linear')[0].contexts)]
    higher = [view + np.float32([[[0]], [[0]], [[70]]]) for view in views]
    a, b = (session.run(None, dict(zip(NAMES['linear'], x)))[0]
            for x in (views, higher))
    assert np.abs(a - b).max() < 1e-3


def test_the_host_is_left_as_it_was(exported):
    exported('swin')
    assert ShiftWindowMSA.window_reverse is not graph._window_reverse
    x = torch.randn(2 * 3 * 2, 4, 4, 5)
    assert torch.equal(ShiftWindowMSA.window_reverse(x, 12, 8, 4),
                       graph._window_reverse(x, 12, 8, 4))


# What a file says, and the model that it makes ------------------------------


def test_metadata(exported):
    model, path = exported('linear')
    meta = session_of(path).get_modelmeta().custom_metadata_map
    facts = json.loads(meta['relay_seg'])
    expected = dict(
        window=[32, 32], stride=[16, 16], blend='gaussian', batch_size=3,
        context_factors=[2, 4], context_reductions=[2, 4],
        relative_bands=[2], mean=[100., 110., 5.], std=[30., 40., 2.],
        bands=[1, 2, 3], num_classes=3,
        classes=['field', 'house', 'wood'], palette=[
            [200, 200, 0], [200, 0, 0], [0, 100, 0]],
        checkpoint_sha256='abc', quantised='')
    assert {k: facts[k] for k in expected} == expected
    assert facts['config']['model']['backbone']['num_views'] == 3


@EACH
def test_predicts_as_the_model_does(exported, name):
    model, path = exported(name)
    rng = np.random.default_rng(3)
    image = np.kron(rng.integers(1, 220, (3, 9, 11)), np.ones((1, 9, 7)))
    image[:, 20:60, 10:50] = 0
    expected, found = (
        predict_array(m, image.astype(np.float32), nodata=0,
                      probabilities=True) for m in (model, OnnxModel(path)))
    assert len(np.unique(found.classes)) > 2 and (found.classes == 255).any()
    np.testing.assert_allclose(
        found.probabilities, expected.probabilities, atol=1e-4)
    assert (found.classes == expected.classes).mean() > 0.9999


def test_a_prediction_knows_its_file(exported, scene, tmp_path):
    model, path = exported('vit')
    out = tmp_path / 'out.tif'
    onnx_model = OnnxModel(path)
    predict_raster(onnx_model, scene, out)
    assert predict_raster(onnx_model, scene, out).kept
    assert not predict_raster(model, scene, out).kept
    with rasterio.open(out) as raster:
        assert raster.tags(ns='RELAY_SEG')['CHECKPOINT'] == 'abc'


@pytest.mark.parametrize('content, message', [
    (None, 'no file'),
    (b'no model', 'cannot be read'),
])
def test_refuses_what_is_no_export(tmp_path, content, message):
    path = tmp_path / 'model.onnx'
    if content:
        path.write_bytes(content)
    with pytest.raises((OSError, ValueError), match=message):
        OnnxModel(path)


def test_refuses_another_window_or_device(exported):
    model = OnnxModel(exported('vit')[1])
    with pytest.raises(ValueError, match='--window 64 64'):
        model.window_logits((torch.zeros(1, 3, 64, 64), ) * 2)
    with pytest.raises(ValueError, match='cpu or cuda'):
        OnnxModel(exported('vit')[1], 'mps')
    with pytest.raises(ValueError, match='cpu or cuda'):
        OnnxModel(exported('vit')[1], 'cuda:x')
    with pytest.raises(ValueError, match='--device cpu'):
        OnnxModel(exported('vit')[1], 'cuda')


# Writing --------------------------------------------------------------------


def test_a_file_that_differs_does_not_appear(
        exported, tmp_path, monkeypatch):
    model, good = exported('vit')
    wrong = onnx.load(good)
    weight = next(w for w in wrong.graph.initializer
                  if 'conv_seg.weight' in w.name)
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    monkeypatch.setattr(writing, 'to_onnx', lambda *args: wrong)
    with pytest.raises(ValueError, match='not written.*largest difference'):
        export_onnx(model, tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['notes.onnx', 'weights.pth'])
def test_nothing_but_exports_is_written_over(exported, tmp_path, name):
    model, good = exported('linear')
    path = tmp_path / name
    path.write_text('the only copy')
    link = tmp_path / 'link.onnx'
    link.symlink_to(path)
    for out in (path, link):
        for write in (export_onnx, export_deepness):
            with pytest.raises(ValueError, match='such a name|elsewhere'):
                write(model, out)
        with pytest.raises(ValueError, match='such a name|elsewhere'):
            quantise_onnx(good, out, model, ())
    assert path.read_text() == 'the only copy'


def test_an_export_takes_the_place_of_another(exported, scene, tmp_path):
    model, good = exported('linear')
    path = tmp_path / 'model.onnx'
    path.write_bytes(good.read_bytes())
    export_onnx(model, path)
    views = windows_of([scene], model, (32, 32), 1)
    with pytest.raises(ValueError, match='file to read'):
        quantise_onnx(path, path, model, views)
    small = tmp_path / 'small.onnx'
    for _ in range(2):
        quantise_onnx(path, small, model, views)
    costs = tmp_path / 'small.onnx.json'
    costs.write_text('{}')
    with pytest.raises(ValueError, match='small.onnx.json is there'):
        quantise_onnx(path, small, model, views)
    assert costs.read_text() == '{}'


def test_quantised(exported, scene, tmp_path):
    model, path = exported('vit')
    views = windows_of([scene], model, (32, 32), 6)
    assert sum(len(v[0]) for v in views) == 6
    small = tmp_path / 'small.onnx'
    done = quantise_onnx(path, small, model, views)
    assert 0 < done.comparison.max_difference < 1
    assert 0.9 < done.comparison.agreement <= 1
    loss = json.loads((tmp_path / 'small.onnx.json').read_text())
    assert loss['windows'] == 6 and loss['bytes'] == small.stat().st_size
    assert loss['agreement'] == done.comparison.agreement
    before, after = (onnx.load(p).graph for p in (path, small))
    weights = {w.name for w in before.initializer}
    products = [node for node in before.node if node.op_type == 'MatMul'
                and weights & set(node.input)]
    integers = [n for n in after.node if n.op_type == 'MatMulInteger']
    # Four linear layers in each of four blocks, for each of two views; of
    # the last block on the global view queries are apart from keys.
    assert len(integers) == len(products) == 4 * 4 * 2 + 1
    assert OnnxModel(small).facts.quantised == 'int8'


def test_compares_on_the_windows_of_the_scene(exported, scene):
    """With context, and with no elevation beyond the border."""
    model, _ = exported('linear')
    (local, near, wide), = windows_of([scene], model, (32, 32), 1)
    with rasterio.open(scene) as raster:
        image = torch.from_numpy(raster.read()).float()
    image = model.data_preprocessor.normalise([image])[0]
    # 84 x 108 pixels are 3 x 4 windows, of which this is the seventh.
    y, x = 32, 64
    torch.testing.assert_close(local[0], image[:, y:y + 32, x:x + 32])
    torch.testing.assert_close(
        near[0, :, 0, 0], image[:, y - 16:y - 14, x - 16:x - 14].mean((1, 2)))
    beyond = wide[0].isnan()
    assert beyond[2].any() and not beyond[:2].any()


# The tools ------------------------------------------------------------------


@pytest.fixture(scope='module')
def tool_export(tmp_path_factory, trained, module_scenes):
    """Folder of what tools/export.py makes of a checkpoint, and a scene."""
    folder = tmp_path_factory.mktemp('tool')
    image = module_scenes / 'img_dir/test/a.tif'
    call('tools/export.py', *trained, '-o', folder / 'model.onnx',
         '--window', 64, 48, '--images', image, '--windows', 2, '--quantise')
    return folder, image


def test_tools_export_and_predict_without_a_model(
        tool_export, trained, tmp_path, monkeypatch):
    folder, image = tool_export
    assert sorted(p.name for p in folder.iterdir()) == [
        'model.onnx', 'model_int8.onnx', 'model_int8.onnx.json']

    def refuse(*args, **kwargs):
        raise AssertionError('a PyTorch model is built')

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(SlideEncoderDecoder, '__init__', refuse)
        call('tools/predict.py', '--onnx', folder / 'model.onnx', image,
             '-o', tmp_path / 'onnx.tif')
    assert not end.value.code
    predict_raster(load_model(*trained, device='cpu'), image,
                   tmp_path / 'torch.tif', window=(64, 48), stride=(32, 24))
    ids = []
    for name in ('onnx.tif', 'torch.tif'):
        with rasterio.open(tmp_path / name) as raster:
            ids.append(raster.read(1))
    assert len(np.unique(ids[0])) > 1
    assert (ids[0] == ids[1]).mean() > 0.9999


def test_tool_does_not_write_over_its_checkpoint(trained, capsys):
    before = trained[1].read_bytes()
    with pytest.raises(SystemExit):
        call('tools/export.py', *trained, '-o', trained[1])
    assert 'does not end in .onnx' in capsys.readouterr().err
    assert trained[1].read_bytes() == before


def test_windows_brought_to_another_size(trained, tmp_path, module_scenes):
    """The file takes views of one size and gives logits of the other."""
    image = module_scenes / 'img_dir/test/a.tif'
    call('tools/export.py', *trained, '-o', tmp_path / 'model.onnx',
         '--window', 64, '--input', 32, '--images', image)
    model = OnnxModel(tmp_path / 'model.onnx', 'cpu')
    assert model.facts.window == (64, 64)
    assert model.facts.input_size == (32, 32)
    views = tuple(torch.zeros(3, 3, 32, 32)
                  for _ in (LOCAL, *model.contexts))
    assert model.window_logits(views, (64, 64)).shape[-2:] == (64, 64)
    with pytest.raises(ValueError, match='--window 32 32 --input 32 32'):
        model.window_logits(views)
    ids = []
    for name, arguments in (
            ('onnx', ('--onnx', tmp_path / 'model.onnx', image)),
            ('torch', (*trained, image, '--window', 64, '--input', 32))):
        with pytest.raises(SystemExit):
            call('tools/predict.py', *arguments, '-o',
                 tmp_path / f'{name}.tif')
        with rasterio.open(tmp_path / f'{name}.tif') as raster:
            ids.append(raster.read(1))
    assert len(np.unique(ids[0])) > 1
    assert (ids[0] == ids[1]).mean() > 0.9999


@pytest.mark.parametrize('extra, message', [
    (['--quantise'], 'give --images'),
    (['--deepness'], 'one view'),
    (['--windows', '0'], 'use 1 or more'),
    (['--images', 'missing.tif'], 'missing.tif'),
])
def test_export_says_what_is_wrong(
        trained, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as end:
        call('tools/export.py', *trained, '-o', tmp_path / 'model.onnx',
             *extra)
    assert end.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('arguments, message', [
    (['--onnx', 'MODEL', '--amp', 'bf16', 'IMAGE'], 'leave them out'),
    (['--onnx', 'IMAGE', 'IMAGE'], 'cannot be read as an ONNX model'),
    (['config.py', 'weights.pth'], '--onnx and inputs'),
])
def test_predict_says_what_is_wrong(
        tool_export, tmp_path, capsys, arguments, message):
    folder, image = tool_export
    names = dict(MODEL=folder / 'model.onnx', IMAGE=image)
    with pytest.raises(SystemExit) as end:
        call('tools/predict.py', *(names.get(a, a) for a in arguments),
             '-o', tmp_path / 'out.tif')
    assert end.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.split())
