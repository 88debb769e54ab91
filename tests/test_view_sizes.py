"""Global views that have fewer or more pixels than the local one."""
import copy

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import relay_seg.registered  # noqa: F401
from relay_seg.class_ids import IGNORE
from relay_seg.datasets.labels import label_lookup
from relay_seg.losses import AgreementLoss, GlobalViewLoss
from relay_seg.structures import label_field
from relay_seg.transforms import PhotoMetricViews, ReadViews, SampleWindow
from relay_seg.views import (
    Context,
    Window,
    contexts_of,
    crop,
    cut_views,
    reader,
    surroundings,
    view_grid,
    view_sizes,
)

CLASSES, SIZE = 3, 32
HALF, TWICE = contexts_of((4, ), (8, )), contexts_of((4, ), (2, ))
SIZES = pytest.mark.parametrize('contexts', [
    HALF, TWICE, contexts_of((2, 4), (2, 8)), contexts_of((3, ), (6, ))],
    ids=['half', 'twice', 'second', 'odd'])


@pytest.mark.parametrize('factors, reductions, message', [
    ((4, ), (4, 8), 'one whole number.*each of context_factors'),
    ((4, ), (), 'one whole number'),
    ((4, ), (0, ), 'at least 1'),
    ((4, ), (1.5, ), 'whole number'),
    ((4, 2), None, 'increase'),
    ((2.5, ), None, 'whole numbers'),
])
def test_what_is_no_view_is_refused(factors, reductions, message):
    with pytest.raises(ValueError, match=message):
        contexts_of(factors, reductions)


def test_sizes():
    assert contexts_of((2, 4)) == (Context(2, 2), Context(4, 4))
    assert view_sizes((64, 32), contexts_of((2, 4), (2, 8))) == [
        (64, 32), (64, 32), (32, 16)]
    with pytest.raises(ValueError, match='context_reductions'):
        Context(4, 3).size((32, 32))


@SIZES
@pytest.mark.parametrize('size', [(24, 48), (48, 24)])
def test_views_are_area_means_of_their_cells(contexts, size):
    """Loop by loop, a pixel of the view at a time."""
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 90, 80))
    window = Window(20, 30, *size)
    views = cut_views(reader(image, 7.), window, contexts)
    for view, (k, r) in zip(views[1:], contexts):
        region = crop(image, surroundings(window, k), 7.)
        assert view.shape == (2, k * size[0] // r, k * size[1] // r)
        for i, j in np.ndindex(view.shape[1:]):
            cell = region[:, i * r:(i + 1) * r, j * r:(j + 1) * r]
            np.testing.assert_allclose(view[:, i, j], cell.mean((1, 2)))


@SIZES
def test_training_reads_what_a_test_cuts(contexts, tmp_path):
    """From a file, also brought to another size, and turned by nothing."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (3, 300, 280), dtype=np.uint8)
    label = generator.integers(0, CLASSES, (1, 300, 280), dtype=np.uint8)
    for name, pixels in (('image', image), ('label', label)):
        with rasterio.open(
                tmp_path / f'{name}.tif', 'w', driver='GTiff',
                count=len(pixels), height=300, width=280, dtype='uint8',
                tiled=True, blockxsize=64, blockysize=64) as raster:
            raster.write(pixels)
    lookup = label_lookup(CLASSES, None, False)
    window = Window(96, 48, 96, 96)
    for size in ((96, 96), (48, 48)):
        found = ReadViews(fill=[1., 2., 3.]).transform(dict(
            img_path=str(tmp_path / 'image.tif'),
            seg_map_path=str(tmp_path / 'label.tif'),
            label_lookup=lookup, window=window, window_size=(96, 96),
            input_size=size, contexts=contexts))
        expected = cut_views(
            reader(image.astype(np.float32), [1., 2., 3.]), window, contexts,
            size)
        for ours, cut in zip(found['views'], expected, strict=True):
            np.testing.assert_allclose(ours, cut, rtol=1e-5, atol=1e-3)
        for ours, (k, _) in zip(found['labels'][1:], contexts):
            assert ours.shape == (k * size[0], k * size[1])


def test_windows_lie_on_the_grid_of_the_coarsest_view():
    np.random.seed(0)
    sample = SampleWindow((32, 32), scale_prob=0., rotate_prob=0.)
    for _ in range(20):
        window = sample(dict(scene_shape=(400, 400), contexts=HALF))['window']
        assert window.top % 8 == window.left % 8 == 0
    assert view_grid((32, 32), HALF[0], (32, 32)).reduction == 8


def test_colours_change_alike_in_all_views():
    """A pixel of one value becomes the same in whichever view it is."""
    views = tuple(np.full((3, side, 2 * side), 90.) for side in (32, 16, 64))
    np.random.seed(3)
    changed = PhotoMetricViews().transform(dict(views=views))['views']
    for before, after in zip(views, changed, strict=True):
        assert after.shape == before.shape
        np.testing.assert_array_equal(after[:, 0, 0], changed[0][:, 0, 0])
        assert np.unique(after).size <= 3


# Losses ---------------------------------------------------------------------


@SIZES
def test_losses_written_out(contexts):
    generator = torch.Generator().manual_seed(0)
    for k, r in contexts:
        side = 2 * k * r
        wide = k * side // r
        local = torch.randn(2, CLASSES, side, side, generator=generator,
                            dtype=torch.float64)
        logits = torch.randn(2, CLASSES, wide, wide, generator=generator,
                             dtype=torch.float64)
        label = torch.randint(CLASSES, (2, k * side, k * side),
                              generator=generator)
        label[:, :r + 1, :5] = IGNORE
        start = (k - 1) * side // 2
        inner = label[:, start:start + side, start:start + side].clone()
        inner[0, :2, :2] = IGNORE
        costs, agree = [], []
        logs, shares = logits.log_softmax(1), local.softmax(1)
        first = (wide - side // r) // 2  # of the window, in the global view
        for b, i, j in np.ndindex(2, wide, wide):
            cell = label[b, i * r:(i + 1) * r, j * r:(j + 1) * r]
            if (cell != IGNORE).all():
                target = torch.stack([(cell == c).double().mean()
                                      for c in range(CLASSES)])
                costs.append(-(target * logs[b, :, i, j]).sum())
            y, x = (i - first) * r, (j - first) * r
            if 0 <= y < side and 0 <= x < side and (
                    inner[b, y:y + r, x:x + r] != IGNORE).all():
                target = shares[b, :, y:y + r, x:x + r].mean((1, 2))
                agree.append(-(target * logs[b, :, i, j]).sum())
        torch.testing.assert_close(
            GlobalViewLoss(1.)(logits, label, Context(k, r)),
            torch.stack(costs).mean())
        torch.testing.assert_close(
            AgreementLoss(1.)(local, logits, inner, Context(k, r)),
            torch.stack(agree).mean())


# Models ---------------------------------------------------------------------

NORM = dict(type='BN', requires_grad=True)
HEAD = dict(
    type='UPerHead', in_channels=[6, 12], in_index=[0, 1], pool_scales=(1, 2),
    channels=8, dropout_ratio=0., num_classes=CLASSES, norm_cfg=NORM,
    align_corners=False, loss_decode=dict(
        type='CrossEntropyLoss', avg_non_ignore=True))
MODEL = dict(
    type='RelayEncoderDecoder',
    data_preprocessor=dict(
        type='ViewsDataPreprocessor', mean=[0.] * 3, std=[1.] * 3),
    backbone=dict(
        type='RelaySwinV2', arch=dict(
            embed_dims=6, depths=[2, 2], num_heads=[2, 2],
            extra_norm_every_n_blocks=0),
        window_size=4, out_indices=[0, 1], drop_path_rate=0.,
        pretrained_window_sizes=[0, 0]),
    context_factors=(4, ), decode_head=HEAD, train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(SIZE, SIZE), stride=(16, 16)))


def build(**options):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(copy.deepcopy(MODEL) | options))
    model.init_weights()
    return model


def batch_of(contexts, batch=2, side=SIZE):
    generator = torch.Generator().manual_seed(1)
    views = tuple(torch.randn(batch, 3, *size, generator=generator)
                  for size in view_sizes((side, side), contexts))
    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_shape=(side, side)))
        for i, k in enumerate((1, *(c.factor for c in contexts))):
            sample.set_data({label_field(i): PixelData(data=torch.randint(
                CLASSES, (1, k * side, k * side), generator=generator))})
        samples.append(sample)
    return views, samples


def test_equal_reductions_change_nothing():
    views, samples = batch_of(contexts_of((4, )))
    found = [build(**options).train().loss(views, samples)
             for options in ({}, dict(context_reductions=(4, )))]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@pytest.mark.parametrize('reduction', [2, 8])
def test_losses_are_those_of_each_view_alone(reduction):
    """Neck and head on each view by itself, in evaluation of batch norms."""
    contexts = contexts_of((4, ), (reduction, ))
    model = build(context_reductions=(reduction, )).eval()
    views, samples = batch_of(contexts)
    losses = model.loss(views, samples)
    with torch.no_grad():
        local, wide = (
            F.interpolate(model.decode_head(maps), view.shape[-2:],
                          mode='bilinear')
            for maps, view in zip(model.backbone(views), views))
    labels = [torch.cat([s.get(label_field(i)).data for s in samples])
              for i in range(2)]
    torch.testing.assert_close(
        losses['decode.loss_ce'], F.cross_entropy(local, labels[0]))
    torch.testing.assert_close(
        losses['loss_global'], GlobalViewLoss()(wide, labels[1], contexts[0]))
    torch.testing.assert_close(
        losses['loss_agree'],
        AgreementLoss()(local, wide, labels[0], contexts[0]))


def test_every_parameter_learns_and_statistics_are_those_of_local_views():
    model = build(context_reductions=(8, ), backbone=MODEL['backbone'] | dict(
        relay_place='bias')).train()
    views, samples = batch_of(HALF)
    losses = model.loss(views, samples)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    alone = build(loss_global=None, loss_agree=None,
                  context_reductions=(8, ), backbone=MODEL['backbone'] | dict(
                      relay_place='bias')).train()
    alone.loss(views, samples)
    for (name, ours), other in zip(model.decode_head.named_buffers(),
                                   alone.decode_head.buffers()):
        if 'num_batches' not in name:
            torch.testing.assert_close(ours, other)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            assert norm.momentum == 0.1  # as before


def test_no_work_for_losses_that_are_off():
    calls = []
    for options in ({}, dict(loss_agree=None),
                    dict(loss_global=None, loss_agree=None)):
        model = build(**options).train()
        model.decode_head.register_forward_pre_hook(
            lambda _, args: calls.append(len(args[0][0])))
        losses = model.loss(*batch_of(contexts_of((4, ))))
        assert ('loss_global' in losses) == ('loss_global' not in options)
    assert calls == [4, 4, 2]


def test_views_of_another_size_than_the_models_are_refused():
    views, samples = batch_of(HALF)
    with pytest.raises(ValueError, match='context_reductions'):
        build().loss(views, samples)
    with pytest.raises(ValueError, match='view 1 has 10 x 10.*patch_size=4'):
        build().backbone((views[0], torch.zeros(2, 3, 10, 10)))


def test_test_and_training_give_one_model_the_same_views():
    """Slide inference cuts views of the sizes that training has."""
    model = build(context_reductions=(8, )).eval()
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda _, args: seen.append([x.shape[-2:] for x in args[0]]))
    scene = torch.randn(1, 3, 70, 90)
    logits = model.slide_inference(scene, [{}])
    assert logits.shape == (1, CLASSES, 70, 90)
    assert {tuple(map(tuple, sizes)) for sizes in seen} == {
        ((SIZE, SIZE), (SIZE // 2, SIZE // 2))}
