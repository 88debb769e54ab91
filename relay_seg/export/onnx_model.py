"""ONNX files that predict in the place of a segmentor."""
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from relay_seg.data_preprocessor import ViewsDataPreprocessor
from relay_seg.inference.model import bands_of, classes_of
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views

from .metadata import KEY, Facts


class OnnxModel(nn.Module):
    """An exported model, with what prediction asks of a segmentor.

    onnxruntime computes; there is no PyTorch model behind it. Give it to
    :func:`relay_seg.inference.predict_raster` as any other model.

    Args:
        path: File of ``tools/export.py``.
        device: ``cpu`` or ``cuda``; a GPU by default, where onnxruntime has
            one. Views come from the CPU in any case.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no export of views, or the device is not there.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        super().__init__()
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'{path} is no file; give an ONNX file '
                                    'that tools/export.py wrote.')
        content = path.read_bytes()
        self._session = open_session(content, path, device)
        facts = _facts(self._session, path)
        self.facts = facts
        #: The names of a segmentor.
        self.contexts = facts.contexts
        self.relative_bands = facts.relative_bands
        self.num_classes = facts.num_classes
        self.out_channels = facts.out_channels
        self.decode_head = SimpleNamespace(threshold=facts.threshold)
        self.test_cfg = ConfigDict(
            mode='slide', crop_size=facts.window,
            input_size=facts.input_size, stride=facts.stride,
            blend=facts.blend, batch_size=facts.batch_size)
        self.dataset_meta = dict(
            classes=facts.classes, palette=facts.palette,
            pixel_size=facts.pixel_size)
        self.checkpoint_sha256 = facts.checkpoint_sha256
        self.data_preprocessor = ViewsDataPreprocessor(facts.mean, facts.std)
        try:
            self.cfg = facts.config and Config(
                facts.config, cfg_text=json.dumps(facts.config),
                filename=facts.config_file)
            segmentor = cast(SlideEncoderDecoder, self)  # as far as asked
            bands_of(segmentor), classes_of(segmentor)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{path}: its metadata are wrong in config or '
                             f'classes ({error}); export it again.') from error
        # The state of this model: a prediction knows by it what it is from.
        digest = hashlib.sha256(content).digest()
        self.register_buffer(
            'file', torch.tensor(list(digest), dtype=torch.uint8))
        self.eval()

    def window_logits(self, views: Views,
                      size: tuple[int, int] | None = None) -> Tensor:
        """Logits of local views, (B, channels, *size).

        Args:
            views: Normalised views, NaN where there is no data.
            size: Height and width of the windows in native pixels; those of
                the views by default.
        """
        found = tuple(views[0].shape[-2:])
        wanted = self.facts.window, self.facts.input_size
        if (tuple(size or found), found) != wanted:
            raise ValueError(
                'the ONNX file takes windows of {} x {} pixels brought to {} '
                'x {}; leave out --window and --input, or export with '
                '--window {} {} --input {} {}.'.format(
                    *wanted[0], *wanted[1], *(size or found), *found))
        scale = self.data_preprocessor
        raw = [(view.float().cpu() * scale.std + scale.mean).numpy()
               for view in views]
        names = [entry.name for entry in self._session.get_inputs()]
        logits, = self._session.run(None, dict(zip(names, raw)))
        return torch.from_numpy(logits)


def open_session(content: bytes, path: Path, device: str | None):
    """A session of onnxruntime, see :class:`OnnxModel`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'{path} needs onnxruntime; install it with '
                          "pip install 'relay-seg[export]'.") from error
    there = onnxruntime.get_available_providers()
    kind, *number = (device or '').split(':')
    if not re.fullmatch(r'(cpu|cuda(:\d+)?)?', device or ''):
        raise ValueError(f'device={device!r}; use cpu or cuda.')
    if kind == 'cuda' and 'CUDAExecutionProvider' not in there:
        raise ValueError(f'onnxruntime finds no GPU (it has {there}); install '
                         'onnxruntime-gpu, or use --device cpu.')
    providers: list = ['CPUExecutionProvider']
    if kind != 'cpu' and 'CUDAExecutionProvider' in there:
        device_id = int(number[0]) if number else 0
        providers.insert(
            0, ('CUDAExecutionProvider', dict(device_id=device_id)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers)
    except Exception as error:  # its exceptions have no base of their own
        raise ValueError(f'{path} cannot be read as an ONNX model ({error}); '
                         'export it again.') from error


def _facts(session, path: Path) -> Facts:
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise ValueError(
            f'{path} says nothing about windows and classes; give a file '
            'that tools/export.py wrote (without --deepness).')
    try:
        facts = Facts.from_json(text)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    views = 1 + len(facts.contexts)
    if len(session.get_inputs()) != views:
        raise ValueError(f'{path} has {len(session.get_inputs())} inputs and '
                         f'should have {views} views; export it again.')
    return facts
