"""Does the device compute what the CPU computes?"""
import os
import shutil
from collections.abc import Iterator

import numpy as np
import rasterio
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from predict_raster import make_scene
from torch import Tensor

from relay_seg.evaluation import ConfusionMetric
from relay_seg.inference import predict_raster
from relay_seg.inference.forward import Forward
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views

from .records import Records
from .setting import (
    CLASSES,
    IGNORE,
    Setting,
    build,
    config,
    distance,
    exactly,
    random_labels,
    random_views,
    show_everything,
)

MODELS = ('RT-ViT-S', 'RT-SwinV2-T', 'RT-SegFormer-B0', 'RT-Lean-ViT-S',
          'RT-Lean-SwinV2-T', 'RT-DINOv3-S')
DTYPES = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)
#: How far logits and gradients may be from those of float32 on the CPU, as
#: relative L2 distance, and why. Of these models it is, at most, 2e-6 and
#: 3e-5 between float32 and float64 on a CPU, 0.05 and 0.12 with bf16 there.
LIMITS = {
    'fp32': (2e-5, 3e-4, 'ten times that between float32 and float64 on a '
             'CPU; TF32 gives hundreds of times as much'),
    'bf16': (0.15, 0.35, 'three times that of bf16 on a CPU'),
    'fp16': (0.02, 0.05, 'an eighth of bf16, which rounds as much coarser'),
}
#: Small gradients vanish in fp16, so the loss is scaled, as in training.
LOSS_SCALE = 1024.
#: Share of pixels whose two best classes may be so close that they change.
TIES, CLOSE = 1e-3, 2e-3


def logits_and_gradients(model: SlideEncoderDecoder, views: Views,
                         labels: list[SegDataSample],
                         dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Logits of the local view, and the gradient of each parameter."""
    device = next(model.parameters()).device.type
    scale = LOSS_SCALE if dtype == torch.float16 else 1.
    model.zero_grad()
    with torch.autocast(device, dtype, enabled=dtype is not None):
        with torch.no_grad():
            found = dict(logits=model.window_logits(views))
        loss, _ = model.parse_losses(model.loss(views, labels))
    (loss * scale).backward()
    return found | {name: p.grad / scale
                    for name, p in model.named_parameters()}


def compare(found: dict[str, Tensor],
            expected: dict[str, Tensor]) -> dict[str, float | str]:
    """Distances of logits, of the whole gradient, and the worst parameter.

    A parameter without influence, such as the bias of keys, has a gradient of
    rounding errors: a parameter's distance is at most relative to a
    thousandth of the whole gradient.
    """
    names = [name for name in expected if name != 'logits']
    whole = torch.cat([expected[n].detach().cpu().double().flatten()
                       for n in names]).norm()
    off = {n: (found[n].detach().cpu().double()
               - expected[n].detach().cpu().double()).norm() for n in names}
    worst = max(names, key=lambda n: off[n] / (
        expected[n].double().norm().cpu() + 1e-3 * whole))
    return dict(
        logits=distance(found['logits'], expected['logits']),
        gradient=float(torch.stack([*off.values()]).norm() / whole),
        worst=worst)


def backbones(setting: Setting, records: Records) -> None:
    """Logits and gradients of the relay models in each precision."""
    exactly()
    for name in MODELS:
        with records.attempt(name):
            backbone(setting, records, name)


def backbone(setting: Setting, records: Records, name: str) -> None:
    """As :func:`backbones`, one of them."""
    model = build(config(setting, name))
    views = random_views(setting, 2, model.contexts)
    show_everything(model, views)
    labels = random_labels(setting, 2, model.contexts)
    expected = logits_and_gradients(model, views, labels, None)
    model = model.to(setting.device)
    views = tuple(view.to(setting.device) for view in views)
    labels = random_labels(setting, 2, model.contexts, setting.device)
    for precision, dtype in DTYPES.items():
        with records.attempt(f'{name}, {precision}'):
            found = logits_and_gradients(model, views, labels, dtype)
            off = compare(found, expected)
            *limits, why = LIMITS[precision]
            for what, limit in zip(('logits', 'gradient'), limits):
                records.check(f'{name}: {what}, {precision}', off[what],
                              limit, why)
            records.note(model=name, precision=precision,
                         worst_gradient=off['worst'])


def scenes(setting: Setting, records: Records) -> None:
    """Slide inference, prediction from file to file, and the metric."""
    exactly()
    name = 'RT-SwinV2-T'
    model = build(config(setting, name))
    show_everything(model, random_views(setting, 2, model.contexts))
    with records.attempt('slide inference'):
        slide(setting, records, model)
    with records.attempt('CUDA graph'):
        recorded(setting, records, model)
    with records.attempt('predict_raster'):
        raster(setting, records, model)
    with records.attempt('ConfusionMetric'):
        metric(setting, records)


def slide(setting: Setting, records: Records,
          model: SlideEncoderDecoder) -> None:
    """Logits of a whole scene in memory."""
    side = setting.side
    scene = torch.randn(1, 3, 5 * side // 2, 3 * side + 11,
                        generator=torch.Generator().manual_seed(1))
    metas = [dict(img_shape=scene.shape[-2:])]
    with torch.no_grad():
        expected = model.to('cpu').slide_inference(scene, metas)
        found = model.to(setting.device).slide_inference(
            scene.to(setting.device), metas)
    *_, why = LIMITS['fp32']
    records.check('slide inference: logits', distance(found, expected),
                  LIMITS['fp32'][0], why)


def recorded(setting: Setting, records: Records,
             model: SlideEncoderDecoder) -> None:
    """Logits of a batch that is played back, after others."""
    model = model.to(setting.device)
    batches = [tuple(view.to(setting.device)
                     for view in random_views(
                         setting, 2, model.contexts, seed))
               for seed in range(3)]
    forward = Forward(model, (setting.side, setting.side), 2)
    with torch.no_grad():
        for views in batches:
            found = forward(views)
        expected = model.window_logits(views)
    records.check('CUDA graph: logits', distance(found, expected), 0,
                  'the same kernels')


def raster(setting: Setting, records: Records,
           model: SlideEncoderDecoder) -> None:
    """Class ids and probabilities of a GeoTIFF."""
    scene = setting.scratch / 'scene.tif'
    make_scene(scene, 4 * setting.side)
    found = {}
    for device in ('cpu', setting.device):
        out = setting.scratch / f'{device}_{len(found)}.tif'
        predict_raster(model.to(device), scene, out,
                       probabilities='float16', batch_size=8)
        with (rasterio.open(out) as ids, rasterio.open(
                out.with_name(f'{out.stem}_probabilities.tif')) as chances):
            found[out.stem] = ids.read(1), chances.read()
    (expected_ids, expected), (ids, chances) = found.values()
    # How much better the chosen class is than the one chosen on the CPU.
    apart = (np.take_along_axis(expected, expected_ids[None], 0)
             - np.take_along_axis(expected, ids[None], 0))[0]
    records.check('predict_raster: pixels with another class',
                  (ids != expected_ids).mean(), TIES,
                  'pixels whose best classes are equally likely')
    records.check('predict_raster: lead of the class that is not chosen',
                  apart.max(), CLOSE,
                  'probabilities are stored in steps of up to 5e-4')
    records.check('predict_raster: probabilities',
                  np.abs(chances - expected).max(), CLOSE,
                  'probabilities are stored in steps of up to 5e-4')
    records.note(classes_in_scene=np.bincount(
        expected_ids.ravel(), minlength=CLASSES).tolist())


def metric(setting: Setting, records: Records) -> None:
    """Counts of pixels on the device, which are whole numbers."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(CLASSES, (1, 3000, 1000), generator=generator)
    ids = torch.where(torch.rand(truth.shape, generator=generator) < 0.7,
                      truth, (truth + 1) % CLASSES)
    truth[:, :100] = IGNORE
    found = []
    for device in ('cpu', setting.device):
        counter = ConfusionMetric()
        counter.dataset_meta = dict(classes=tuple('abcde'))
        counter.process({}, [SegDataSample(
            pred_sem_seg=PixelData(data=ids.to(device)),
            gt_sem_seg=PixelData(data=truth.to(device))).to_dict()])
        found.append(counter.results[0]['matrix'])
    records.check('ConfusionMetric: pixels counted otherwise',
                  np.abs(found[1] - found[0]).sum(), 0, 'whole numbers')


def compilers() -> Iterator[str]:
    """C compilers that torch.compile finds."""
    for name in filter(None, (os.environ.get('CC'), 'cc', 'gcc', 'clang')):
        if shutil.which(name):
            yield name


def compiling(setting: Setting, records: Records) -> None:
    """Logits of a compiled model."""
    exactly()
    if not any(compilers()):
        records.note(skipped='torch.compile needs a C compiler; there is '
                     'none.')
        return
    for name in ('RT-ViT-S', 'RT-SwinV2-T'):
        with records.attempt(name):
            model = build(config(setting, name))
            views = random_views(setting, 2, model.contexts)
            show_everything(model, views)
            model = model.to(setting.device)
            views = tuple(view.to(setting.device) for view in views)
            with torch.no_grad():
                expected = model.window_logits(views)
                found = torch.compile(
                    model.window_logits, backend=setting.backend)(views)
            records.check(f'{name}: logits, compiled',
                          distance(found, expected), LIMITS['fp32'][0],
                          LIMITS['fp32'][2])
