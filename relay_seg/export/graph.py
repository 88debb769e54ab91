"""Segmentors as graphs of ONNX operations."""
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from relay_seg.backbones.layers import ShiftWindowMSA
from relay_seg.segmentors.slide import SlideEncoderDecoder

if TYPE_CHECKING:
    import onnx

#: LayerNormalization came with 17; the exporter begins with 18.
OPSET = 18
#: The oldest format that holds this opset, so that runtimes of 2023 read it.
IR_VERSION = 8


def input_names(num_views: int) -> list[str]:
    """local, global, global_2, ..."""
    wider = [f'global_{i}' for i in range(2, num_views)]
    return ['local', 'global', *wider][:num_views]


class RawViews(nn.Module):
    """From views in raw pixels to logits of the local view.

    Args:
        model: Segmentor with a ``ViewsDataPreprocessor``.
        window: Height and width of the logits: those of a window.
    """

    def __init__(self, model: SlideEncoderDecoder,
                 window: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.window = torch.Size(window)

    def forward(self, *views: Tensor) -> Tensor:
        """Logits (B, channels, H, W).

        Args:
            views: Local view, then wider and wider, all (B, C, H, W), in the
                values of the files; NaN where there is no data.
        """
        scale = self.model.data_preprocessor
        views = tuple((view - scale.mean) / scale.std for view in views)
        # One meta serves the batch: a list of its length would fix it.
        meta = dict(img_shape=self.window)
        return self.model.encode_decode(views, [meta])


class TileProbabilities(nn.Module):
    """From one normalised view to probabilities, as Deepness wants them.

    Args:
        model: Plain segmentor.
    """

    def __init__(self, model: SlideEncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor) -> Tensor:
        """Probabilities (B, classes, H, W) of normalised tiles."""
        meta = dict(img_shape=tiles.shape[-2:])
        logits = self.model.encode_decode((tiles, ), [meta])
        if logits.shape[1] == 1:
            # The larger of two probabilities is then the class that the
            # head's threshold decides for.
            threshold = self.model.decode_head.threshold
            logits = logits - math.log(threshold / (1 - threshold))
            logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
        return logits.softmax(dim=1)


def to_onnx(module: nn.Module, views: tuple[Tensor, ...], names: list[str],
            output: str) -> 'onnx.ModelProto':
    """Trace a module for any number of windows of one size.

    The exporter is that of ``torch.export``: the older one, by TorchScript,
    has no ``nanmean``, and fixes sizes that SwinV2 computes.

    Args:
        module: In evaluation mode, on the CPU.
        views: Examples of its inputs; at least 2 windows, since a size of 1
            would be taken for a constant.
        names: Names of the inputs.
        output: Name of the output.
    """
    batch = torch.export.Dim('batch')
    with torch.no_grad(), _any_batch(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter's own making
        program = torch.onnx.export(
            module, views, input_names=names, output_names=[output],
            opset_version=OPSET, dynamo=True, verbose=False,
            dynamic_shapes=_shapes(module, views, batch))
    graph = program.model_proto  # type: ignore[union-attr]  # dynamo=True
    _turn_weights(graph.graph)
    graph.ir_version = IR_VERSION
    # Traces of our source lines, for debugging the exporter.
    del graph.metadata_props[:]
    for part in (*graph.graph.node, *graph.graph.value_info,
                 *graph.graph.input, *graph.graph.output,
                 *graph.graph.initializer, graph.graph):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')
    return graph


def _turn_weights(graph: 'onnx.GraphProto') -> None:
    """Store weights of linear layers as they are multiplied.

    The exporter leaves it to the runtime to transpose large ones. What
    quantises a file does not look behind a transposition.
    """
    from onnx import numpy_helper
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    renamed = {}
    for weight in graph.initializer:
        nodes = users[weight.name]
        orders = {tuple(node.attribute[0].ints) if node.op_type == 'Transpose'
                  and node.attribute else None for node in nodes}
        if len(orders) != 1 or None in orders:
            continue
        name = nodes[0].output[0]  # of which the graph knows the shape
        renamed.update({node.output[0]: name for node in nodes})
        turned = numpy_helper.to_array(weight).transpose(*orders)
        weight.CopyFrom(numpy_helper.from_array(turned.copy(), name))
        for node in nodes:
            graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def _shapes(module: nn.Module, views: tuple[Tensor, ...],
            batch: 'torch.export.Dim') -> tuple:
    each = tuple({0: batch} for _ in views)
    return (each, ) if isinstance(module, RawViews) else each


@contextmanager
def _any_batch() -> Iterator[None]:
    """The host's Swin computes the batch size in floats, which fixes it."""
    original = ShiftWindowMSA.__dict__['window_reverse']
    ShiftWindowMSA.window_reverse = staticmethod(_window_reverse)
    try:
        yield
    finally:
        ShiftWindowMSA.window_reverse = original


def _window_reverse(windows: Tensor, height: int, width: int,
                    size: int) -> Tensor:
    """Attention windows (B*nW, M, M, C) as maps (B, height, width, C)."""
    x = windows.unflatten(0, (-1, height // size, width // size))
    x = x.transpose(2, 3)  # (B, rows, M, columns, M, C)
    return x.flatten(3, 4).flatten(1, 2)
