"""One set of questions, asked of every segmentor."""
import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from relay_seg.losses import AgreementLoss, GlobalViewLoss
from relay_seg.structures import label_field
from relay_seg.views import (
    BLENDS,
    LOCAL,
    Window,
    area_mean,
    contexts_of,
    crop,
    surroundings,
)

CLASSES = 3
SIZE = 32

VIT = dict(
    type='RelayViT',
    arch=dict(
        embed_dims=12,
        num_layers=4,
        num_heads=3,
        feedforward_channels=24),
    img_size=SIZE,
    patch_size=8,
    out_indices=[0, 1, 2, 3])
SWIN = dict(
    type='RelaySwinV2',
    arch=dict(
        embed_dims=6,
        depths=[2, 2],
        num_heads=[1, 2],
        extra_norm_every_n_blocks=0),
    img_size=SIZE,
    patch_size=4,
    window_size=4,
    drop_path_rate=0.,
    out_indices=[0, 1])
PLAIN_VIT = VIT | dict(
    type='mmpretrain.VisionTransformer',
    with_cls_token=False,
    out_type='featmap')
PLAIN_SWIN = SWIN | dict(type='mmpretrain.SwinTransformerV2')

NORM = dict(type='BN', requires_grad=True)
CROSS_ENTROPY = dict(type='CrossEntropyLoss', avg_non_ignore=True)
NECK = dict(
    type='Feature2Pyramid',
    embed_dim=12,
    rescales=[4, 2, 1, 0.5],
    norm_cfg=NORM)
UPER = dict(
    type='UPerHead',
    in_channels=[6, 12],
    in_index=[0, 1],
    pool_scales=(1, 2),
    channels=8,
    dropout_ratio=0.,
    num_classes=CLASSES,
    norm_cfg=NORM,
    align_corners=False,
    loss_decode=CROSS_ENTROPY)
VIT_UPER = dict(
    neck=NECK,
    decode_head=UPER | dict(in_channels=[12] * 4, in_index=[0, 1, 2, 3]))
LINEAR = dict(
    type='LinearHead',
    stride=8,
    in_channels=12,
    in_index=3,
    num_classes=CLASSES,
    loss_decode=CROSS_ENTROPY)
AUXILIARY = dict(
    type='FCNHead',
    in_channels=12,
    in_index=0,
    channels=8,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.,
    num_classes=CLASSES,
    norm_cfg=NORM,
    align_corners=False,
    loss_decode=CROSS_ENTROPY | dict(loss_weight=0.4))

RELAY = dict(
    type='RelayEncoderDecoder',
    context_factors=(4, ),
    backbone=VIT,
    decode_head=LINEAR,
    train_cfg=dict(),
    test_cfg=dict(
        mode='slide',
        crop_size=(SIZE, SIZE),
        stride=(16, 16),
        blend='gaussian',
        batch_size=3))
PLAIN = {k: v for k, v in RELAY.items() if k != 'context_factors'} | dict(
    type='PlainEncoderDecoder', backbone=PLAIN_VIT)
THREE = RELAY | dict(
    context_factors=(2, 4), backbone=VIT | dict(num_views=3))

MODELS_BY_NAME = {
    'relay-vit-uper': RELAY | VIT_UPER,
    'relay-vit-linear': RELAY,
    'relay-swin-uper': RELAY | dict(backbone=SWIN, decode_head=UPER),
    'relay-vit-three': THREE,
    'relay-vit-mean': RELAY | dict(backbone=VIT | dict(fusion='mean')),
    'plain-vit-uper': PLAIN | VIT_UPER,
    'plain-vit-linear': PLAIN,
    'plain-swin-uper': PLAIN | dict(
        backbone=PLAIN_SWIN, decode_head=UPER),
}
EVERY = pytest.mark.parametrize(
    'cfg', MODELS_BY_NAME.values(), ids=MODELS_BY_NAME.keys())
PAIR = pytest.mark.parametrize(
    'cfg', [RELAY, PLAIN], ids=['relay', 'plain'])


def build(cfg, **test_cfg):
    """A model at random, so that nothing it holds is zero or alike."""
    cfg = copy.deepcopy(cfg)
    cfg['test_cfg'].update(test_cfg)
    model = MODELS.build(ConfigDict(cfg))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def make_views(model, batch=2):
    num_views = 1 + len(model.contexts)
    return tuple(torch.randn(batch, 3, SIZE, SIZE) for _ in range(num_views))


def make_samples(model, batch=2, ignored=0.1):
    samples = []
    for _ in range(batch):
        sample = SegDataSample()
        for i, context in enumerate((LOCAL, *model.contexts)):
            side = context.factor * SIZE
            label = torch.randint(0, CLASSES, (1, side, side))
            label[torch.rand(label.shape) < ignored] = 255
            sample.set_data({label_field(i): PixelData(data=label)})
        samples.append(sample)
    return samples


def make_scene(*shape, batch=1):
    return torch.randn(batch, 3, *shape)


def slide(model, scene):
    with torch.no_grad():
        return model.slide_inference(scene, [dict()] * len(scene))


# Losses ---------------------------------------------------------------------


def loss_names(cfg):
    names = {'decode.loss_ce', 'decode.acc_seg'}
    if cfg['type'] == 'RelayEncoderDecoder':
        suffixes = ['']
        if len(cfg['context_factors']) > 1:
            suffixes = ['_1', '_2']
        names |= {f'{loss}{suffix}' for suffix in suffixes
                  for loss in ('loss_global', 'loss_agree')}
    return names


@EVERY
def test_losses_are_finite_and_reach_every_parameter(cfg):
    model = build(cfg).train()
    losses = model(make_views(model), make_samples(model), mode='loss')
    assert losses.keys() == loss_names(cfg)
    assert all(value.isfinite().all() for value in losses.values())
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(
        sum(v.item() for k, v in losses.items() if 'loss' in k))
    total.backward()
    without = [n for n, p in model.named_parameters()
               if p.grad is None or not p.grad.abs().max() > 0
               or not p.grad.isfinite().all()]
    assert not without


@EVERY
def test_nothing_valid_costs_nothing(cfg):
    model = build(cfg).train()
    samples = make_samples(model, ignored=1.1)
    losses = model(make_views(model), samples, mode='loss')
    assert all(value.isfinite().all() for value in losses.values())
    total, _ = model.parse_losses(losses)
    assert total.item() == 0
    total.backward()
    assert all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize('extent', ['full', 'center'])
@pytest.mark.parametrize('name', [
    'relay-vit-uper', 'relay-vit-linear', 'relay-swin-uper',
    'relay-vit-three'])
def test_losses_are_those_of_each_view(name, extent):
    """Restated view by view, with head and losses on their own."""
    cfg = MODELS_BY_NAME[name]
    model = build(cfg | dict(
        loss_global=dict(type='GlobalViewLoss', extent=extent)))
    views, samples = make_views(model), make_samples(model)
    losses = model.loss(views, samples)

    def upsampled(pyramid):
        features = model.neck(pyramid) if model.with_neck else pyramid
        return F.interpolate(
            model.decode_head(features), size=(SIZE, SIZE), mode='bilinear')

    local, *wide = map(upsampled, model.backbone(views))
    labels = [torch.cat([s.get(label_field(i)).data for s in samples])
              for i in range(len(views))]
    expected = F.cross_entropy(local, labels[0], ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    contexts = contexts_of(cfg['context_factors'])
    for i, (logits, context) in enumerate(zip(wide, contexts)):
        suffix = f'_{i + 1}' if len(wide) > 1 else ''
        label = labels[i + 1] if extent == 'full' else labels[0]
        torch.testing.assert_close(
            losses['loss_global' + suffix],
            GlobalViewLoss(extent=extent)(logits, label, context))
        torch.testing.assert_close(
            losses['loss_agree' + suffix],
            AgreementLoss()(local, logits, labels[0], context))


def test_losses_of_global_views_can_be_left_out():
    model = build(RELAY | dict(loss_global=None, loss_agree=None))
    losses = model.loss(make_views(model), make_samples(model))
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}


@PAIR
def test_auxiliary_head_sees_the_local_view(cfg):
    model = build(cfg | dict(auxiliary_head=AUXILIARY))
    views, samples = make_views(model), make_samples(model)
    losses = model.loss(views, samples)
    assert losses.keys() == loss_names(cfg) | {'aux.loss_ce', 'aux.acc_seg'}
    logits = model.auxiliary_head(model.extract_feat(views))
    logits = F.interpolate(logits, size=(SIZE, SIZE), mode='bilinear')
    label = torch.cat([s.gt_sem_seg.data for s in samples])
    torch.testing.assert_close(
        losses['aux.loss_ce'],
        0.4 * F.cross_entropy(logits, label, ignore_index=255))


def test_several_auxiliary_heads():
    model = build(RELAY | dict(auxiliary_head=[AUXILIARY, AUXILIARY]))
    losses = model.loss(make_views(model), make_samples(model))
    assert {'aux_0.loss_ce', 'aux_1.loss_ce'} <= losses.keys()


def without_global_labels(samples):
    for sample in samples:
        for field in [k for k in sample.keys() if k.startswith('gt_global')]:
            delattr(sample, field)
        sample.set_metainfo(dict(img_path='dir/scene_7.tif'))
    return samples


def test_full_extent_needs_labels_of_the_global_view():
    model = build(RELAY)
    samples = without_global_labels(make_samples(model))
    with pytest.raises(ValueError) as error:
        model.loss(make_views(model), samples)
    for word in ('scene_7.tif', 'view 1', 'context_factors', "'center'"):
        assert word in str(error.value)


def test_center_extent_needs_local_labels_only():
    model = build(RELAY | dict(
        loss_global=dict(type='GlobalViewLoss', extent='center')))
    samples = without_global_labels(make_samples(model))
    losses = model.loss(make_views(model), samples)
    assert losses.keys() == loss_names(RELAY)


@pytest.mark.parametrize('cfg', [RELAY, THREE], ids=['two', 'three'])
def test_batch_norms_see_all_views_at_once(cfg):
    model = build(cfg)
    views = make_views(model)
    seen = []
    model.decode_head.register_forward_pre_hook(
        lambda module, given: seen.append(len(given[0][0])))
    model.loss(views, make_samples(model))
    assert seen == [len(views) * len(views[0])]


# Forward --------------------------------------------------------------------


@EVERY
def test_forward_gives_logits_of_the_local_view(cfg):
    model = build(cfg)
    views = make_views(model)
    logits = model(views, mode='tensor')
    assert logits.shape[:2] == (2, CLASSES)
    features = model.extract_feat(views)
    assert torch.equal(model.decode_head(features), logits)
    if cfg['type'] == 'RelayEncoderDecoder':
        every, _ = model._all_logits(model.backbone(views))
        for level, trained in zip(features, every, strict=True):
            torch.testing.assert_close(level, trained)


@pytest.mark.parametrize('name', ['relay-vit-linear', 'relay-swin-uper'])
def test_forward_compiles_whole(name):
    model = build(MODELS_BY_NAME[name])
    views = make_views(model)
    torch._dynamo.reset()
    compiled = torch.compile(model._forward, fullgraph=True, backend='eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(views), model._forward(views))


# Slide inference ------------------------------------------------------------


def naive_starts(length, size, stride):
    """As the host does: the last window is moved back inside."""
    steps = max(length - size + stride - 1, 0) // stride + 1
    return [max(min(i * stride + size, length) - size, 0)
            for i in range(steps)]


def naive_axis(length, size, stride, blend):
    """Weight of each window, by start, over the pixels of an axis."""
    starts = naive_starts(length, size, stride)
    weights = {start: torch.zeros(length).double() for start in starts}
    for pixel in range(length):
        for start in starts:
            if not start <= pixel < start + size:
                continue
            if blend == 'mean':
                weight = 1
            elif blend == 'gaussian':
                away = pixel + 0.5 - (start + size / 2)
                weight = math.exp(-0.5 * (away / (size / 8))**2)
            else:
                nearest = min(starts, key=lambda s: abs(
                    s + size / 2 - (pixel + 0.5)))
                weight = int(nearest == start)
            weights[start][pixel] = weight
    return weights


def naive_view(scene, top, left, size, factor):
    """Pixel by pixel mean; zero beyond the border."""
    height, width = (factor * side for side in size)
    top -= (height - size[0]) // 2
    left -= (width - size[1]) // 2
    margin = max(height, width)
    padded = F.pad(scene, (margin, ) * 4)
    region = padded[..., top + margin:top + margin + height,
                    left + margin:left + margin + width]
    return sum(region[..., i::factor, j::factor] for i, j in
               itertools.product(range(factor), repeat=2)) / factor**2


def naive_slide(model, scene, size, stride, blend):
    """Window by window, each on a canvas of the whole scene."""
    height, width = scene.shape[-2:]
    canvas = torch.zeros(1, CLASSES, height, width).double()
    count = torch.zeros(height, width).double()
    weights_y = naive_axis(height, size[0], stride[0], blend)
    weights_x = naive_axis(width, size[1], stride[1], blend)
    for top, left in itertools.product(weights_y, weights_x):
        views = tuple(naive_view(scene, top, left, size, factor)
                      for factor, _ in (LOCAL, *model.contexts))
        logits = model.decode_head(model.extract_feat(views))
        logits = F.interpolate(logits, size=size, mode='bilinear')
        weight = weights_y[top][:, None] * weights_x[left]
        inside = logits[..., :height - top, :width - left]
        bottom = height - top - inside.shape[-2]
        right = width - left - inside.shape[-1]
        canvas += F.pad(inside, (left, right, top, bottom)) * weight
        count += weight
    return canvas / count


def assert_slides_as_naive(cfg, shape, **test_cfg):
    model = build(cfg, **test_cfg).double()
    scene = make_scene(*shape).double()
    with torch.no_grad():
        naive = naive_slide(model, scene, *(
            tuple(model.test_cfg[key]) for key in ('crop_size', 'stride')),
            model.test_cfg.blend)
    torch.testing.assert_close(slide(model, scene), naive)


SCENES = [
    (SIZE, SIZE),
    (64, 80),
    (50, 71),
    (20, 45),  # lower than a window
    (45, 20),  # narrower
    (9, 13),  # both
]


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('shape', SCENES)
@PAIR
def test_slide_equals_naive(cfg, shape, blend):
    assert_slides_as_naive(cfg, shape, blend=blend)


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('stride', [(32, 32), (20, 12), (7, 31), (32, 8)])
def test_slide_equals_naive_at_any_stride(stride, blend):
    assert_slides_as_naive(RELAY, (50, 71), stride=stride, blend=blend)


@pytest.mark.parametrize('size', [(16, 40), (48, 24)])
def test_slide_equals_naive_with_windows_that_are_not_square(size):
    assert_slides_as_naive(RELAY, (50, 71), crop_size=size, stride=(12, 20))


@EVERY
def test_every_model_slides_as_naive(cfg):
    assert_slides_as_naive(cfg, (40, 50))


@pytest.mark.parametrize('factor', [1, 2, 3])
def test_slide_equals_naive_at_any_context_factor(factor):
    cfg = RELAY | dict(context_factors=(factor, ))
    assert_slides_as_naive(cfg, (50, 71))


@EVERY
def test_batch_size_does_not_matter(cfg):
    model = build(cfg).double()
    scene = make_scene(50, 71).double()
    reference = slide(model, scene)
    for batch_size in (1, 2, 7, 100):
        model.test_cfg.batch_size = batch_size
        torch.testing.assert_close(slide(model, scene), reference)


@PAIR
def test_batch_size_bounds_the_windows_of_a_pass(cfg):
    model = build(cfg, batch_size=4)
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda module, given: seen.append(
            given[0] if torch.is_tensor(given[0]) else given[0][0]))
    slide(model, make_scene(64, 64))  # 3 x 3 windows
    assert [len(x) for x in seen] == [4, 4, 1]


@PAIR
def test_scenes_of_a_batch_do_not_mix(cfg):
    model = build(cfg)
    scenes = make_scene(40, 50, batch=2)
    both = slide(model, scenes)
    for i in range(2):
        torch.testing.assert_close(
            slide(model, scenes[i:i + 1]), both[i:i + 1])


@PAIR
@pytest.mark.parametrize('mode', ['slide', 'whole'])
def test_leaves_scenes_and_metas(cfg, mode):
    model = build(cfg, mode=mode)
    scene = make_scene(40, 48)
    metas = [dict(ori_shape=(40, 48), img_shape=(40, 48))]
    before = scene.clone(), copy.deepcopy(metas)
    with torch.no_grad():
        model.inference(scene, metas)
    assert torch.equal(scene, before[0])
    assert metas == before[1]


@PAIR
@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('shape', SCENES)
def test_no_seams(cfg, shape, blend):
    """What says the same of every window says the same of the scene."""
    model = build(cfg, blend=blend, stride=(20, 12))
    bias = torch.tensor([1., -2., 3.])
    with torch.no_grad():
        model.decode_head.upsample.weight.zero_()
        model.decode_head.upsample.bias.copy_(bias)
    logits = slide(model, make_scene(*shape))
    assert logits.shape == (1, CLASSES, *shape)
    assert (logits - bias[:, None, None]).abs().max() < 1e-6


@EVERY
def test_whole_is_one_window(cfg):
    model = build(cfg, mode='whole').double()
    scene = make_scene(40, 48).double()
    with torch.no_grad():
        whole = model.inference(scene, [dict(ori_shape=(40, 48))])
        naive = naive_slide(model, scene, (40, 48), (40, 48), 'mean')
    torch.testing.assert_close(whole, naive)


def test_context_beyond_the_window_moves_its_logits():
    cfgs = RELAY, RELAY | dict(backbone=VIT | dict(num_relay_tokens=0)), PLAIN
    scene = make_scene(64, 64)
    changed = scene.clone()
    changed[..., SIZE:, SIZE:] += 1
    for cfg, moves in zip(cfgs, (True, False, False)):
        model = build(cfg, stride=(SIZE, SIZE), blend='mean')
        a, b = (slide(model, s)[..., :SIZE, :SIZE] for s in (scene, changed))
        assert ((a - b).abs().max() > 1e-4) == moves


# Prediction -----------------------------------------------------------------


@EVERY
@pytest.mark.parametrize('mode', ['slide', 'whole'])
def test_predict_gives_a_map_of_the_scene(cfg, mode):
    model = build(cfg, mode=mode)
    shape = (40, 48)
    scenes = make_scene(*shape, batch=2)
    samples = [
        SegDataSample(metainfo=dict(
            img_path=f'{i}.tif', ori_shape=shape, img_shape=shape,
            pad_shape=shape)) for i in range(2)
    ]
    with torch.no_grad():
        results = model(scenes, samples, mode='predict')
        logits = model.inference(scenes, [s.metainfo for s in samples])
    for i, result in enumerate(results):
        assert isinstance(result, SegDataSample)
        assert result.img_path == f'{i}.tif'
        assert result.pred_sem_seg.data.shape == (1, *shape)
        assert torch.equal(result.pred_sem_seg.data[0],
                           logits[i].argmax(dim=0))


@PAIR
def test_predict_without_samples(cfg):
    model = build(cfg)
    with torch.no_grad():
        result, = model.predict(make_scene(40, 50))
    assert result.pred_sem_seg.data.shape == (1, 40, 50)


@PAIR
def test_predict_with_gradients_on(cfg):
    """Nobody needs to know of ``torch.no_grad``."""
    model = build(cfg)
    scene = make_scene(40, 50)
    result, = model.predict(scene)
    torch.testing.assert_close(result.seg_logits.data,
                               slide(model, scene)[0])


@PAIR
def test_autocast_slides(cfg):
    model = build(cfg)
    scene = make_scene(40, 50)
    full = slide(model, scene)
    with torch.autocast('cpu', torch.bfloat16):
        half = slide(model, scene)
    assert half.shape == full.shape
    assert (half - full).norm() / full.norm() < 0.1


# Errors ---------------------------------------------------------------------


@pytest.mark.parametrize('changes, message', [
    (dict(context_factors=(2, 4)), 'make 3 views .*num_views=2.*set it to 3'),
    (dict(context_factors=()), 'make 1 views .*num_views=2.*set it to 1'),
    (dict(backbone=VIT | dict(num_views=3)),
     'make 2 views .*num_views=3.*set it to 2'),
    (dict(context_factors=(4, 2)), 'increase'),
    (dict(context_factors=(4, 4)), 'increase'),
    (dict(loss_global=dict(type='GlobalViewLoss', extent='half')),
     "extent='half'.*full.*center"),
])
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        build(RELAY | changes)


@PAIR
@pytest.mark.parametrize('test_cfg, message', [
    (dict(blend='median'), "blend='median'.*mean.*gaussian.*center"),
    (dict(stride=(33, 33)), 'stride=33.*window size, 32'),
    (dict(stride=(0, 16)), 'stride=0.*use 1 to'),
    (dict(batch_size=0), 'batch_size=0; use 1'),
])
def test_wrong_test_cfg(cfg, test_cfg, message):
    model = build(cfg, **test_cfg)
    with pytest.raises(ValueError, match=message):
        slide(model, make_scene(64, 64))


def test_window_must_fit_the_patch():
    model = build(RELAY, crop_size=(36, 32))
    with pytest.raises(ValueError, match='patch_size.*use 32 x 32: .*window'):
        slide(model, make_scene(64, 64))


def test_channels_last_changes_the_layout_alone():
    cfg = RELAY | dict(backbone=SWIN, decode_head=UPER)
    model, switched = (build(cfg | dict(channels_last=x))
                       for x in (False, True))
    switched.load_state_dict(model.state_dict())
    weight = switched.decode_head.bottleneck.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    scene = make_scene(64, 64)
    torch.testing.assert_close(slide(switched, scene), slide(model, scene))


# Windows brought to another size, and validation ----------------------------


@EVERY
def test_windows_of_another_size_come_back_at_native_resolution(cfg):
    """Slide inference, against windows cut and shown one by one."""
    model = build(cfg, crop_size=(2 * SIZE, 2 * SIZE), input_size=(SIZE, SIZE),
                  stride=(2 * SIZE, 2 * SIZE), blend='mean')
    scene = make_scene(4 * SIZE, 2 * SIZE)
    found = slide(model, scene)
    assert found.shape == (1, CLASSES, 4 * SIZE, 2 * SIZE)
    for top in (0, 2 * SIZE):
        views = []
        for k, _ in (LOCAL, *model.contexts):
            region = crop(scene[0], surroundings(
                Window(top, 0, 2 * SIZE, 2 * SIZE), k), 0.)
            views.append(area_mean(region, 2 * k)[None])
        with torch.no_grad():
            small = model.window_logits(tuple(views))
            logits = model.window_logits(
                tuple(views), (2 * SIZE, 2 * SIZE))[0]
        assert small.shape[-2:] == (SIZE, SIZE)
        assert torch.allclose(
            found[0, :, top:top + 2 * SIZE], logits, atol=1e-4)


def test_window_equal_to_input_changes_nothing():
    torch.manual_seed(1)
    model = build(RELAY | VIT_UPER)
    scene = make_scene(50, 60)
    expected = slide(model, scene)
    model.test_cfg.input_size = model.test_cfg.crop_size
    assert torch.equal(slide(model, scene), expected)


def validate(model, scene, truth):
    sample = SegDataSample(metainfo=dict(ori_shape=scene.shape[-2:]))
    sample.gt_sem_seg = PixelData(data=truth.clone())
    model.data_preprocessor.forward = lambda data, training: data
    with torch.no_grad():
        return model.val_step(dict(inputs=scene, data_samples=[sample]))[0]


def test_validation_takes_windows_side_by_side(monkeypatch):
    model = build(RELAY, batch_size=1, blend='gaussian')
    scene, truth = make_scene(64, 96), torch.zeros(1, 64, 96)
    calls = []
    real = model.window_logits
    monkeypatch.setattr(model, 'window_logits', lambda *args: (
        calls.append(1), real(*args))[1])
    found = validate(model, scene, truth)
    assert len(calls) == 2 * 3
    slide(model, scene)
    assert len(calls) == 6 + 3 * 5  # steps of half a window
    alone = build_like(model, stride=(SIZE, SIZE), blend='mean')
    assert torch.allclose(found.seg_logits.data, slide(alone, scene)[0],
                          atol=1e-5)
    assert (found.gt_sem_seg.data == 0).all()


def build_like(model, **test_cfg):
    twin = copy.copy(model)
    twin.test_cfg = ConfigDict(model.test_cfg | test_cfg)
    return twin


def test_validation_on_a_spread_of_the_windows():
    model = build(RELAY, val=dict(every=3))
    scene, truth = make_scene(96, 160), torch.zeros(1, 96, 160)
    found = validate(model, scene, truth)
    whole = validate(build_like(model, val=dict()), scene, truth)
    seen = found.gt_sem_seg.data[0] == 0
    blocks = seen.reshape(3, SIZE, 5, SIZE)
    assert (blocks == blocks[:, :1, :, :1]).all()  # whole windows
    blocks = blocks[:, 0, :, 0]
    assert blocks.sum() == 5 and blocks.any(0).all() and blocks.any(1).all()
    assert torch.equal(found.pred_sem_seg.data[0][seen],
                       whole.pred_sem_seg.data[0][seen])
    again = validate(model, scene, truth)
    assert torch.equal(again.gt_sem_seg.data, found.gt_sem_seg.data)


def test_validation_can_be_as_the_test():
    model = build(RELAY, val=dict(stride=(16, 16), blend='gaussian'))
    scene = make_scene(64, 64)
    found = validate(model, scene, torch.zeros(1, 64, 64))
    assert torch.equal(found.seg_logits.data, slide(model, scene)[0])


@pytest.mark.parametrize('val', [dict(every=0), dict(window=(8, 8))])
def test_wrong_settings_of_validation(val):
    model = build(RELAY, val=val)
    with pytest.raises(ValueError, match='test_cfg.val'):
        validate(model, make_scene(64, 64), torch.zeros(1, 64, 64))


# Flips ----------------------------------------------------------------------


@PAIR
def test_flips_are_seen_and_turned_back(cfg):
    model = build(cfg)
    views = make_views(model)
    with torch.no_grad():
        plain = model.window_logits(views)
        expected = sum(
            model.window_logits(tuple(x.flip(axes) for x in views)).flip(axes)
            for axes in ((-1, ), (-2, ), (-2, -1))) + plain
        model.test_cfg['flips'] = True
        found = model.window_logits(views)
        torch.testing.assert_close(found, expected / 4)
        assert not torch.allclose(found, plain, atol=1e-3)
        # A flipped scene gives the flipped answer.
        torch.testing.assert_close(
            model.window_logits(tuple(x.flip(-1) for x in views)),
            found.flip(-1))
