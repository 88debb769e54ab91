"""Slide inference: windows in batches, results added by slices."""
from collections.abc import Sequence
from math import log2, nan
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from relay_seg.backbones.layers import PLAIN_BACKBONES
from relay_seg.init_cfg import load_files, without_pretrained
from relay_seg.losses import check_class_weights
from relay_seg.positions import TABLES
from relay_seg.views import (
    Views,
    Window,
    as_size,
    batched,
    blend_weights,
    contexts_of,
    cut_views,
    plan_windows,
    reader,
    view_sizes,
    window_starts,
)

#: Windows in one forward pass where nobody says how many: on a CPU, and the
#: fewest and the most on a GPU.
ON_CPU, FEWEST, MOST = 8, 8, 256
#: Settings of ``test_cfg``.
TEST_CFG = {'mode', 'crop_size', 'stride', 'input_size', 'batch_size',
            'blend', 'flips', 'val'}
#: Axes along which a window is flipped, where ``flips`` is asked for.
FLIPS = (-1, ), (-2, ), (-2, -1)
#: Share of a GPU's memory that the windows of a pass may take.
SHARE = 0.4


def check_batch_size(size: int) -> int:
    """A number of windows in a batch that is one."""
    if size < 1:
        raise ValueError(f'test_cfg.batch_size={size}; use 1 or more, or None '
                         'for what the device can take.')
    return size


class Slide(NamedTuple):
    """How windows slide over a scene.

    Args:
        window: Height and width of a window in native pixels.
        stride: Vertical and horizontal step between windows.
        input_size: Height and width of the views that the model is given.
        blend: See :func:`relay_seg.views.blend_weights`.
        batch_size: Windows in one forward pass.
        every: Compute one window in so many, spread over the scene.
    """
    window: tuple[int, int]
    stride: tuple[int, int]
    input_size: tuple[int, int]
    blend: str = 'mean'
    batch_size: int = 8
    every: int = 1

    def chosen(self, shape: tuple[int, int]) -> list[Window]:
        """The windows of a scene that are computed."""
        windows = plan_windows(shape, self.window, self.stride)
        touched = self.touched(shape)
        if touched is None:
            return windows
        return [w for w, wanted in zip(windows, touched.flat) if wanted]

    def touched(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Which windows are computed, (rows of windows, columns) bool.

        On diagonals, so that no column of the scene is left out; None for
        all.
        """
        if self.every == 1:
            return None
        rows, columns = (len(window_starts(*axis)) for axis in zip(
            shape, self.window, self.stride))
        return np.add.outer(
            np.arange(rows), np.arange(columns)) % self.every == 0


class SlideEncoderDecoder(EncoderDecoder):
    """The host's segmentor, for views of windows.

    ``test_cfg`` takes the host's ``mode``, ``crop_size`` (the window, in
    native pixels) and ``stride``, and

    * ``input_size``: height and width to which a window is brought before
      the network; ``crop_size`` by default. Logits come back at native
      resolution.
    * ``batch_size``: windows in one forward pass; by default 8 on a CPU, and
      as many as keep a GPU busy, by its memory.
    * ``blend``: 'mean', 'gaussian' or 'center', see
      :func:`relay_seg.views.blend_weights`.
    * ``flips``: whether each window is also seen flipped, in three ways; the
      mean of the logits counts, for four times the work.
    * ``val``: what differs in validation, ``stride``, ``blend`` and
      ``every`` (compute one window in so many, spread over each scene, the
      rest is ignored). Without it windows lie side by side.

    Args:
        context_factors: Context factor of each global view, increasing.
        context_reductions: Side of a pixel of each of them, in local pixels;
            as large as the factors by default, so that all views have as
            many pixels.
        relative_bands: Bands, the first is 0, of which only differences
            matter, such as elevation: each view is given less its own mean
            over valid pixels.
        channels_last: Keep the weights of convolutions, and so the maps they
            make, with channels innermost in memory, which kernels of GPUs
            and CPUs like better.
        kwargs: Those of the host's ``EncoderDecoder``.
    """

    def __init__(self, context_factors: Sequence[int],
                 context_reductions: Sequence[int] | None = None,
                 relative_bands: Sequence[int] = (),
                 channels_last: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        unknown = set(self.test_cfg or ()) - TEST_CFG
        if unknown:
            raise ValueError(
                f'model.test_cfg has {sorted(unknown)}, which nothing reads; '
                f'it takes {sorted(TEST_CFG)}.')
        check_class_weights(self, self.out_channels)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.contexts = contexts_of(context_factors, context_reductions)
        self.relative_bands = tuple(relative_bands)
        self._at_once: dict[tuple, int] = {}
        if type(self.backbone) in PLAIN_BACKBONES:
            self.backbone.register_load_state_dict_post_hook(_expect_no_tables)

    def init_weights(self) -> None:
        """Initialise as the host does; plain backbones load as relay ones.

        So both start from one file, and neither in silence.
        """
        if self.is_init or type(self.backbone) not in PLAIN_BACKBONES:
            super().init_weights()
            return
        with without_pretrained(self.backbone) as files:
            super().init_weights()
        load_files(self.backbone, files)

    def slide_inference(self, inputs: Tensor,
                        batch_img_metas: list[dict]) -> Tensor:
        """Segment scenes window by window.

        Args:
            inputs: Normalised scenes of one size, (B, C, H, W). Windows that
                reach over the border see zeros there.
            batch_img_metas: Metas of the scenes; left as they are.

        Returns:
            Logits, (B, num_classes, H, W).
        """
        return self._slide(inputs, self.slide())

    def whole_inference(self, inputs: Tensor,
                        batch_img_metas: list[dict]) -> Tensor:
        """Segment each scene as one window."""
        size = as_size(inputs.shape[-2:])
        return self._slide(inputs, Slide(size, size, size, batch_size=1))

    def val_step(self, data: dict) -> list[SegDataSample]:
        """Segment scenes for validation: as a test, with fewer windows.

        Args:
            data: Batch as the data loader gives it.

        Returns:
            Samples with predictions. Where no window was computed the truth
            is ignored.
        """
        if self.test_cfg.mode != 'slide':
            return super().val_step(data)
        data = self.data_preprocessor(data, False)
        scenes, samples = data['inputs'], data['data_samples']
        slide = self.slide(validation=True)
        samples = self.postprocess_result(self._slide(scenes, slide), samples)
        if slide.every > 1:
            unseen = torch.ones(
                scenes.shape[-2:], dtype=torch.bool, device=scenes.device)
            for top, left, height, width, _ in slide.chosen(
                    as_size(unseen.shape)):
                unseen[top:top + height, left:left + width] = False
            for sample in samples:
                truth = sample.gt_sem_seg.data
                sample.gt_sem_seg = PixelData(data=truth.masked_fill(
                    unseen.to(truth.device), self.decode_head.ignore_index))
        return samples

    def slide(self, validation: bool = False) -> Slide:
        """How ``test_cfg`` says that windows slide over a scene."""
        cfg = self.test_cfg
        window = as_size(cfg.crop_size)
        size = as_size(cfg.get('input_size') or window)
        batch_size = (self.windows_at_once(window, size)
                      if cfg.get('batch_size') is None
                      else check_batch_size(cfg.batch_size))
        if not validation:
            return Slide(window, as_size(cfg.stride), size,
                         cfg.get('blend', 'mean'), batch_size)
        val = cfg.get('val') or {}
        unknown = set(val) - {'stride', 'blend', 'every'}
        if unknown or not val.get('every', 1) >= 1:
            raise ValueError(
                f'test_cfg.val={dict(val)}; it takes stride, blend and every '
                '(1 or more).')
        return Slide(window, as_size(val.get('stride') or window), size,
                     val.get('blend', 'center'), batch_size,
                     val.get('every', 1))

    def windows_at_once(self, window: tuple[int, int],
                        input_size: tuple[int, int]) -> int:
        """Windows in a forward pass that keep the device busy.

        On a GPU, launching the kernels of few windows takes longer than
        computing them: a power of two that takes a share of its memory, by
        what a small batch takes.

        Args:
            window: Height and width of a window in native pixels.
            input_size: Height and width of its views.
        """
        device = next(self.parameters()).device
        if device.type != 'cuda':
            return ON_CPU
        key = device, window, input_size, torch.is_autocast_enabled('cuda')
        if key not in self._at_once:
            views = tuple(torch.zeros(
                FEWEST, len(self.data_preprocessor.mean), *size,
                device=device)
                for size in view_sizes(input_size, self.contexts))
            training = self.training
            self.eval()
            with torch.no_grad():
                self.window_logits(views, window)  # what is kept is there
                before = torch.cuda.memory_allocated(device)
                torch.cuda.reset_peak_memory_stats(device)
                self.window_logits(views, window)
            self.train(training)
            taken = torch.cuda.max_memory_allocated(device) - before
            total = torch.cuda.get_device_properties(device).total_memory
            windows = SHARE * total * FEWEST / max(taken, 1)
            self._at_once[key] = 2**int(log2(min(max(windows, FEWEST), MOST)))
        return self._at_once[key]

    def _slide(self, scenes: Tensor, slide: Slide) -> Tensor:
        shape = height, width = as_size(scenes.shape[-2:])
        weights_y, weights_x = (
            {start: weight.to(scenes) for start, weight in blend_weights(
                *axis, slide.blend).items()}
            for axis in zip(shape, slide.window, slide.stride))
        size = slide.window
        logits = scenes.new_zeros(
            len(scenes), self.out_channels, height, width)
        for i, scene in enumerate(scenes):
            for group in batched(slide.chosen(shape), slide.batch_size):
                views = self._cut(scene, group, slide.input_size)
                results = self.window_logits(views, size)
                for window, result in zip(group, results):
                    y, x = window.top, window.left
                    weight = weights_y[y][:, None] * weights_x[x]
                    inside = logits[i, :, y:y + size[0], x:x + size[1]]
                    h, w = inside.shape[-2:]
                    inside += (result * weight)[:, :h, :w]
        return logits

    def _forward(self, inputs: Views | Tensor,
                 data_samples: list[SegDataSample] | None = None) -> Tensor:
        """Logits of windows, as the heads give them.

        Args:
            inputs: Views of windows; or, as tools of the host that count
                operations have it, windows alone, (B, C, H, W), whose
                surroundings are then nothing.
        """
        if isinstance(inputs, Tensor):
            window = Window(0, 0, *inputs.shape[-2:])
            cut = [self._cut(image, [window]) for image in inputs]
            inputs = tuple(map(torch.cat, zip(*cut)))
        return super()._forward(inputs, data_samples)

    def _cut(self, scene: Tensor, windows: Sequence,
             size: tuple[int, int] | None = None) -> Views:
        """Views of several windows of a scene (C, H, W), stacked.

        Outside is the mean, 0, or nothing in bands that have no mean.
        """
        fill = [nan if i in self.relative_bands else 0.
                for i in range(len(scene))]
        read = reader(scene, fill)
        cut = [cut_views(read, w, self.contexts, size) for w in windows]
        return tuple(torch.stack(view) for view in zip(*cut))

    def finish(self, views: Views) -> Views:
        """What the backbone sees: relative bands less their mean, NaN as 0.

        Args:
            views: Normalised views, NaN where there is no data.
        """
        return tuple(self._finish(view) for view in views)

    def _finish(self, view: Tensor) -> Tensor:
        if self.relative_bands:
            offset = torch.zeros_like(view[:, :, :1, :1])
            for band in self.relative_bands:  # a list would be an upload
                offset[:, band] = view[:, band].nanmean((-2, -1), keepdim=True)
            view = view - offset
        return view.where(~view.isnan(), 0.)

    def window_logits(self, views: Views,
                      size: tuple[int, int] | None = None) -> Tensor:
        """Logits of local views.

        Args:
            views: Normalised views, local first, each (B, C, H, W).
            size: Height and width of the windows in native pixels; those of
                the views by default.

        Returns:
            (B, num_classes, *size): the head's logits, interpolated.
        """
        shape = torch.Size(size or views[0].shape[-2:])
        metas = [dict(img_shape=shape)] * len(views[0])
        logits = self.encode_decode(views, metas)
        if not self.test_cfg.get('flips'):
            return logits
        for axes in FLIPS:
            flipped = tuple(view.flip(axes) for view in views)
            logits = logits + self.encode_decode(flipped, metas).flip(axes)
        return logits / (1 + len(FLIPS))


def _expect_no_tables(backbone: nn.Module, keys: _IncompatibleKeys) -> None:
    """The host's SwinV2 discards tables it is given, then misses them."""
    keys.missing_keys[:] = [
        key for key in keys.missing_keys if not TABLES.search(key)]
