"""Streaming gives what slide inference in memory gives."""
import threading

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from relay_seg import rasters
from relay_seg.inference import predict_array, predict_raster
from relay_seg.views import BLENDS

SHAPES = [(16, 16), (5, 7), (9, 40), (61, 83), (150, 37), (33, 128)]


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.fixture
def check(in_memory, tmp_path):
    """``check(model, image, path, nodata, ...)``: compare files and arrays
    with what the model says of the whole array."""

    def run(model, image, path, nodata=None, **settings):
        out = tmp_path / 'out.tif'
        predict_raster(
            model, path, out, probabilities='float16', **settings)
        classes, chances = in_memory(model, image, nodata)
        np.testing.assert_array_equal(read(out)[0], classes)
        np.testing.assert_allclose(
            read(tmp_path / 'out_probabilities.tif'), chances, atol=5e-4)
        found = predict_array(
            model, image, nodata=nodata, probabilities=True)
        np.testing.assert_array_equal(found.classes, classes)
        np.testing.assert_allclose(found.probabilities, chances, atol=1e-5)

    return run


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_and_blend(cheap, noise, scene_file, tmp_path, check,
                               shape, blend):
    image = noise(*shape)
    path = scene_file(tmp_path / 'scene.tif', image)
    check(cheap(blend=blend), image, path)


@pytest.mark.parametrize('stride', [
    (16, 16), (1, 16), (5, 7), (8, 16), (13, 2), (3, 12)])
def test_every_stride(cheap, noise, scene_file, tmp_path, check, stride):
    image = noise(45, 58)
    path = scene_file(tmp_path / 'scene.tif', image)
    check(cheap(stride=stride), image, path)


@pytest.mark.parametrize('factors', [(), (3, ), (2, 5)])
def test_any_number_of_views(cheap, noise, scene_file, tmp_path, check,
                             factors):
    image = noise(70, 90)
    path = scene_file(tmp_path / 'scene.tif', image)
    check(cheap(context_factors=factors, stride=(8, 11)), image, path)


@pytest.mark.parametrize('factors, reductions', [
    ((4, ), (8, )), ((4, ), (2, )), ((2, 4), (4, 8)), ((3, ), (6, ))])
@pytest.mark.parametrize('size, input_size', [
    ((16, 16), None), ((32, 32), (16, 16)), ((24, 24), (16, 16))])
def test_views_of_their_own_size(cheap, noise, scene_file, tmp_path, check,
                                 factors, reductions, size, input_size):
    if factors == (3, ):  # whole pixels of the view
        size, input_size = (24, 24), None
    image = noise(70, 90)
    path = scene_file(tmp_path / 'scene.tif', image)
    check(cheap(size=size, input_size=input_size, context_factors=factors,
                context_reductions=reductions, stride=(8, 11)), image, path)


@pytest.mark.parametrize('input_size', [(8, 8), (12, 12), (48, 48)])
@pytest.mark.parametrize('factors', [(), (4, ), (3, 5)])
@pytest.mark.parametrize('shape', [(33, 128), (61, 83), (9, 40)])
def test_windows_brought_to_another_size(
        cheap, noise, scene_file, tmp_path, check, shape, factors,
        input_size):
    """Two native pixels under one of the input, one and a half, a half."""
    size = (16, 16) if input_size[0] == 8 else (
        18, 18) if input_size[0] == 12 else (24, 24)
    image = noise(*shape)
    image[:, 20:30, 15:40] = 0
    path = scene_file(tmp_path / 'scene.tif', image, 0)
    check(cheap(size=size, stride=(7, 10), input_size=input_size,
                context_factors=factors), image, path, 0)


def test_settings_bring_windows_to_another_size(
        cheap, noise, scene_file, tmp_path, in_memory):
    """As the config would; without a size, pixels stay as large."""
    image = noise(60, 70)
    path = scene_file(tmp_path / 'scene.tif', image)
    expected = in_memory(cheap(
        size=(32, 32), stride=(16, 16), input_size=(16, 16)), image)[0]
    model = cheap(size=(16, 16), stride=(8, 8), input_size=(16, 16))
    predict_raster(model, path, tmp_path / 'out.tif', window=(32, 32),
                   input_size=(16, 16))
    np.testing.assert_array_equal(read(tmp_path / 'out.tif')[0], expected)
    found = predict_array(model, image, window=(32, 32), input_size=(16, 16))
    np.testing.assert_array_equal(found.classes, expected)
    halves = cheap(size=(32, 32), stride=(16, 16), input_size=(16, 16))
    predict_raster(halves, path, tmp_path / 'same.tif')
    same = predict_array(halves, image)
    np.testing.assert_array_equal(read(tmp_path / 'same.tif')[0],
                                  same.classes)


def test_an_output_of_another_input_size_is_not_kept(
        cheap, noise, scene_file, tmp_path):
    path = scene_file(tmp_path / 'scene.tif', noise(60, 70))
    first = predict_raster(cheap(), path, tmp_path / 'out.tif')
    again = predict_raster(cheap(), path, tmp_path / 'out.tif')
    other = predict_raster(cheap(size=(32, 32), input_size=(16, 16)), path,
                           tmp_path / 'out.tif')
    assert (first.kept, again.kept, other.kept) == (False, True, False)


@pytest.mark.parametrize('bands, relative', [(1, ()), (4, ()), (4, (3, ))])
@pytest.mark.parametrize('dtype, nodata', [
    (np.uint8, None), (np.uint8, 0), (np.float32, -9999.)])
def test_bands_and_holes(cheap, noise, scene_file, tmp_path, check, bands,
                         relative, dtype, nodata):
    image = noise(75, 62, bands, dtype)
    if nodata is not None:
        image[:, 20:60, 10:45] = nodata  # whole windows, too
        image[-1, :9, :9] = nodata  # one band only
        image[:, np.random.default_rng(0).random((75, 62)) < 0.05] = nodata
    path = scene_file(tmp_path / 'scene.tif', image, nodata)
    check(cheap(bands=bands, relative_bands=relative), image, path, nodata)


def test_windows_of_nothing_are_not_computed(cheap, noise, scene_file,
                                             tmp_path):
    image = noise(64, 160)
    image[..., 40:] = 0
    model = cheap(batch_size=1)
    predict_raster(model, scene_file(tmp_path / 'scene.tif', image, 0),
                   tmp_path / 'out.tif')
    assert model.calls == 7 * 5  # those that begin left of column 40


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.vrt', '.jp2'])
def test_formats(cheap, noise, write_raster, scene_file, tmp_path, check,
                 suffix):
    path = tmp_path / f'scene{suffix}'
    tif = scene_file(tmp_path / 'scene.tif', noise(300, 70))
    rasterio.shutil.copy(tif, path, driver={
        '.png': 'PNG', '.jpg': 'JPEG', '.vrt': 'VRT',
        '.jp2': 'JP2OpenJPEG'}[suffix])
    check(cheap(size=(32, 32), stride=(32, 32)), read(path), path)


def test_untiled_files_are_read_from_top_to_bottom(
        cheap, noise, scene_file, tmp_path, check, monkeypatch):
    """A PNG begins anew for every row above the last one."""
    image = noise(1200, 60)
    tif = scene_file(tmp_path / 'scene.tif', image)
    path = tmp_path / 'scene.png'
    rasterio.shutil.copy(tif, path, driver='PNG')
    tops, seen = {}, []
    whole = rasters.read_region

    def noting(raster, window, **kwargs):
        seen.append(raster)  # so that no other gets its id
        tops.setdefault(id(raster), []).append(window.top)
        return whole(raster, window, **kwargs)

    monkeypatch.setattr(
        'relay_seg.inference.raster_source.read_region', noting)
    check(cheap(size=(64, 64), stride=(64, 64)), image, path)
    assert tops
    assert all(rows == sorted(rows) for rows in tops.values())


def test_several_rasters_as_bands(cheap, noise, scene_file, tmp_path, check):
    image = noise(50, 66, 4)
    rgb = scene_file(tmp_path / 'rgb.tif', image[:3])
    dtm = scene_file(tmp_path / 'dtm.tif', image[3:].astype(np.float32))
    check(cheap(bands=4, relative_bands=(3, )), image, (rgb, dtm))


def test_alpha_says_where_there_is_data(cheap, noise, scene_file, tmp_path,
                                        in_memory):
    image = noise(60, 60, 4)
    image[3] = 255
    image[3, 20:, 30:] = 0
    path = scene_file(tmp_path / 'scene.tif', image, alpha='yes')
    out = tmp_path / 'out.tif'
    predict_raster(cheap(), path, out)
    seen = image[:3].astype(np.float32)
    seen[:, 20:, 30:] = np.nan
    classes, _ = in_memory(cheap(), seen)
    classes[20:, 30:] = 255
    np.testing.assert_array_equal(read(out)[0], classes)


VIT = dict(
    type='RelayEncoderDecoder',
    data_preprocessor=dict(
        type='mmseg.ViewsDataPreprocessor', mean=[100.] * 3, std=[50.] * 3),
    context_factors=(4, ),
    backbone=dict(
        type='RelayViT', img_size=32, patch_size=8, out_indices=[3],
        arch=dict(embed_dims=12, num_layers=4, num_heads=3,
                  feedforward_channels=24)),
    decode_head=dict(
        type='LinearHead', stride=8, in_channels=12, in_index=0,
        num_classes=3, loss_decode=dict(
            type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16),
                  blend='gaussian', batch_size=4))
SWIN = VIT | dict(
    backbone=dict(
        type='RelaySwinV2', img_size=32, patch_size=4, window_size=4,
        drop_path_rate=0., out_indices=[1],
        arch=dict(embed_dims=6, depths=[2, 2], num_heads=[1, 2],
                  extra_norm_every_n_blocks=0)))


TIMM = VIT | dict(
    backbone=dict(
        type='RelayTimmViT', arch='vit_small_patch16_dinov3', img_size=32,
        patch_size=8, timm_cfg=dict(
            embed_dim=12, depth=2, num_heads=3, init_values=1.)))


@pytest.mark.parametrize(
    'cfg', [VIT, SWIN, TIMM], ids=['vit', 'swin', 'dinov3'])
def test_relay_models(cfg, noise, scene_file, tmp_path, check):
    model = MODELS.build(ConfigDict(cfg))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    image = noise(77, 101)
    check(model.eval(), image, scene_file(tmp_path / 'scene.tif', image))


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('stride', [(8, 8), (5, 16), (3, 7)])
def test_a_head_that_copies_shows_no_seam(cheap, blend, stride):
    """Constant and linear input come out as they went in."""
    model = cheap(copy=True, channels=3, blend=blend, stride=stride)
    rows, columns = np.mgrid[:70, :90].astype(np.float32)
    for image in (np.full((70, 90), 37.), 2 * rows - columns):
        image = np.stack([image, 100 + 0 * image, 9 - image])
        image = image.astype(np.float32)
        found = predict_array(model, image, probabilities=True)
        mean = model.data_preprocessor.mean.numpy()
        std = model.data_preprocessor.std.numpy()
        expected = torch.from_numpy((image - mean) / std).softmax(0).numpy()
        np.testing.assert_allclose(
            found.probabilities, expected, atol=1e-6, rtol=0)


def test_memory_maps_are_read_in_parts(cheap, noise, tmp_path):
    image = noise(90, 70)
    np.save(tmp_path / 'a.npy', image)
    mapped = np.load(tmp_path / 'a.npy', mmap_mode='r')
    np.testing.assert_array_equal(
        predict_array(cheap(), mapped).classes,
        predict_array(cheap(), image).classes)


def test_every_row_is_read_once_and_as_it_is(
        cheap, noise, scene_file, tmp_path, monkeypatch):
    """Bytes stay bytes, and go to the model's device once."""
    from relay_seg.inference import raster_source
    image = noise(300, 200)
    path = scene_file(tmp_path / 'scene.tif', image)
    seen, whole = np.zeros((300, 200), int), raster_source.read_region

    def noting(raster, window, **kwargs):
        seen[window.top:window.top + window.height,
             window.left:window.left + window.width] += 1
        pixels = whole(raster, window, **kwargs)
        assert pixels.dtype == np.uint8
        return pixels

    monkeypatch.setattr('relay_seg.inference.job.check_scene',
                        lambda *_: None)
    monkeypatch.setattr(raster_source, 'read_region', noting)
    predict_raster(cheap(context_factors=(2, 5)), path, tmp_path / 'out.tif',
                   block=(400, 400))
    assert (seen == 1).all()


@pytest.mark.parametrize('batch_size', [1, 4, 7])
def test_a_compiled_model_sees_one_size(
        cheap, noise, scene_file, tmp_path, in_memory, monkeypatch,
        batch_size):
    """The last batch is filled up; results are those of its windows."""
    model, sizes = cheap(batch_size=batch_size), []

    def compiled(call):
        def window_logits(views, size):
            sizes.append(len(views[0]))
            return call(views, size)
        return window_logits

    monkeypatch.setattr(torch, 'compile', compiled)
    image = noise(45, 58)
    path = scene_file(tmp_path / 'scene.tif', image)
    predict_raster(model, path, tmp_path / 'out.tif', compiled=True)
    assert set(sizes) == {batch_size}
    np.testing.assert_array_equal(
        read(tmp_path / 'out.tif')[0], in_memory(model, image)[0])


def test_weights_are_hashed_once_for_each_state(cheap, monkeypatch):
    from relay_seg.inference import model as models
    model, calls = cheap(), []
    real = models.hashlib.sha256
    monkeypatch.setattr(models.hashlib, 'sha256',
                        lambda *args: (calls.append(1), real(*args))[1])
    first = models.weights_digest(model)
    assert models.weights_digest(model) == first and len(calls) == 1
    with torch.no_grad():
        model.mix.add_(1)
    second = models.weights_digest(model)
    model.load_state_dict(cheap().state_dict())
    assert first != second
    assert models.weights_digest(model) == first and len(calls) == 3


def test_windows_at_once_without_a_gpu(cheap):
    model = cheap(batch_size=None)
    assert model.slide().batch_size == model.windows_at_once(
        (16, 16), (16, 16)) == 8


def test_an_error_of_reading_ends_the_prediction(
        cheap, noise, scene_file, tmp_path, monkeypatch):
    """It is told, and no thread is left."""
    from relay_seg.inference import raster_source
    path = scene_file(tmp_path / 'scene.tif', noise(700, 60))
    whole = raster_source.read_region

    def failing(raster, window, **kwargs):
        if window.top >= 512:
            raise ValueError('row 512')
        return whole(raster, window, **kwargs)

    monkeypatch.setattr('relay_seg.inference.job.check_scene',
                        lambda *_: None)
    monkeypatch.setattr(raster_source, 'read_region', failing)
    before = threading.active_count()
    with pytest.raises(ValueError, match='row 512'):
        predict_raster(cheap(), path, tmp_path / 'out.tif')
    assert threading.active_count() == before
    assert not (tmp_path / 'out.tif').exists()


@pytest.mark.parametrize('mask', ['all bands', 'one band', 'none'])
def test_masked_arrays(cheap, noise, mask):
    """What is masked is no data, as NaN is."""
    image = noise(45, 58)
    hidden = np.zeros(image.shape, bool)
    if mask != 'none':
        hidden[:, 9:20, 30:50] = True
        hidden[1:, 12:16] &= mask == 'all bands'
    model = cheap()
    np.testing.assert_array_equal(
        predict_array(model, np.ma.array(image, mask=hidden)).classes,
        predict_array(model, np.where(
            hidden, np.nan, image).astype(np.float32)).classes)


def test_arrays_without_real_numbers_are_refused(cheap, noise):
    image = noise(45, 58)
    for kind in (complex, object, 'U3'):
        with pytest.raises(ValueError, match='array holds .*real numbers'):
            predict_array(cheap(), image.astype(kind))
    for other in (torch.from_numpy(image), image.tolist()):
        with pytest.raises(ValueError, match='type (Tensor|list).*NumPy'):
            predict_array(cheap(), other)
