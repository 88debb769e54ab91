"""ONNX files that appear under their name when they are whole and right."""
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

import torch

from relay_seg.rasters import MARK, is_prediction
from relay_seg.rasters.files import replacing, write_text
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views

from .checking import Comparison, compare, evaluating, noise
from .graph import RawViews, TileProbabilities, input_names, to_onnx
from .metadata import (
    KEY,
    deepness_metadata,
    facts_of,
    is_export,
    write_metadata,
)
from .onnx_model import OnnxModel, open_session

#: Largest difference between a file and its model that is let through.
TOLERANCE = 1e-3
#: A protobuf holds no more bytes.
LIMIT = 2**31


@dataclass(frozen=True)
class Exported:
    """A file and how it compares.

    Args:
        path: The file.
        size: Its bytes.
        comparison: With the PyTorch model.
    """
    path: Path
    size: int
    comparison: Comparison


def check_out(path: Path) -> None:
    """Say before any work that a file would be lost.

    Raises:
        ValueError: Something is there that no export wrote, such as the
            checkpoint, or the name is none of an ONNX file.
    """
    if path.suffix != '.onnx':
        raise ValueError(f'{path} does not end in .onnx, which is what is '
                         'written; give such a name.')
    if path.exists() and not is_export(path):
        raise ValueError(f'{path} is there, and no export wrote it; remove '
                         'it, or write elsewhere.')


def export_onnx(model: SlideEncoderDecoder, path: str | Path, *,
                window: tuple[int, int] | None = None,
                views: Sequence[Views] = ()) -> Exported:
    """Write a model from raw views to logits of the local view.

    Inputs are ``local``, ``global``, ``global_2`` and so on, float32
    (batch, bands, height, width) in the values of the files, NaN where there
    is no data; the output is ``logits``, (batch, channels, height, width).
    Normalisation, relative bands and missing data are inside.

    Args:
        model: Model of :func:`relay_seg.inference.load_model`, on the CPU.
        path: File to write.
        window: Height and width of the windows; ``crop_size`` of its
            ``test_cfg`` by default. A file takes windows of one size.
        views: Batches of normalised views to compare on, beside noise.

    Raises:
        ValueError: The file computes something else than the model, or see
            :func:`check_out`.
    """
    path = Path(path)
    check_out(path)
    facts = facts_of(model, window)
    example = tuple(view[:2] for view in noise(model, facts.input_size)[1])
    names = input_names(len(example))
    batches = [*noise(model, facts.input_size), *views]
    with evaluating(model), replacing(path) as unfinished:
        graph = to_onnx(RawViews(model, facts.window).eval(), example, names,
                        'logits')
        write_metadata(graph, {KEY: facts.to_json()})
        _save(graph, unfinished)
        written = OnnxModel(unfinished, 'cpu')
        comparison = compare(
            partial(model.window_logits, size=facts.window),
            partial(written.window_logits, size=facts.window), batches)
        _check(comparison, path)
        size = unfinished.stat().st_size
    return Exported(path, size, comparison)


def export_deepness(model: SlideEncoderDecoder, path: str | Path, *,
                    resolution: float | None = None,
                    window: tuple[int, int] | None = None,
                    views: Sequence[Views] = ()) -> Exported:
    """Write a plain model for the QGIS plug-in Deepness.

    The input is one square tile, normalised by the plug-in with the mean and
    deviation in the metadata; the output are probabilities.

    Args:
        model: Plain model of :func:`relay_seg.inference.load_model`.
        path: File to write.
        resolution: Side of a pixel in centimetres; ``pixel_size`` of the
            data set by default.
        window: Height and width of the tiles, alike.
        views: Batches of normalised views to compare on, beside noise.
    """
    path = Path(path)
    check_out(path)
    facts = facts_of(model, window)
    if facts.contexts:
        raise ValueError(
            f'Deepness gives a model one view and this one looks at '
            f'{1 + len(facts.contexts)}; export a plain config, or '
            'predict with tools/predict.py.')
    if facts.window[0] != facts.window[1]:
        raise ValueError(f'Deepness takes square tiles, not {facts.window}; '
                         'give a square window.')
    if resolution is None and facts.pixel_size:
        resolution = 100 * facts.pixel_size
    if resolution is None or not 0 < resolution < inf:
        raise ValueError(
            'Deepness resamples to the resolution of the training images, '
            'which the data set does not say; give it in centimetres for '
            'each pixel.')
    batches = [*_whole(noise(model, facts.input_size)), *_whole(views)]
    with evaluating(model), replacing(path) as unfinished:
        segment = TileProbabilities(model).eval()
        graph = to_onnx(segment, (batches[1][0][:2], ), ['tiles'],
                        'probabilities')
        write_metadata(graph, deepness_metadata(facts, resolution))
        _save(graph, unfinished)
        session = open_session(unfinished.read_bytes(), path, 'cpu')

        def run(views: Views) -> torch.Tensor:
            return torch.from_numpy(
                session.run(None, {'tiles': views[0].numpy()})[0])

        comparison = compare(
            lambda views: segment(views[0]), run, batches)
        _check(comparison, path)
        size = unfinished.stat().st_size
    return Exported(path, size, comparison)


def quantise_onnx(source: str | Path, path: str | Path,
                  model: SlideEncoderDecoder,
                  views: Sequence[Views]) -> Exported:
    """Write a file with weights of 8 bits, and what that costs.

    Matrix products are computed in integers, each with a scale found when
    it runs; the loss goes to ``PATH.json`` too.

    Args:
        source: File of :func:`export_onnx`.
        path: File to write.
        model: The PyTorch model, to compare with.
        views: Batches of normalised views to compare on.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    source, path = Path(source), Path(path)
    costs = path.with_name(f'{path.name}.json')
    check_out(path)
    if path.exists() and path.samefile(source):
        raise ValueError(f'{path} is the file to read; give another name.')
    if costs.exists() and not is_prediction(costs):
        raise ValueError(f'{costs} is there, and no export wrote it; remove '
                         'it, or write elsewhere.')
    if not views:
        raise ValueError('what quantising costs is measured on images; give '
                         'some.')
    facts = replace(OnnxModel(source, 'cpu').facts, quantised='int8')
    with evaluating(model), replacing(path) as unfinished:
        quantize_dynamic(
            source, unfinished, op_types_to_quantize=['MatMul'],
            per_channel=True, weight_type=QuantType.QInt8)
        graph = onnx.load(unfinished)
        write_metadata(graph, {KEY: facts.to_json()})
        _save(graph, unfinished)
        comparison = compare(
            partial(model.window_logits, size=facts.window),
            partial(OnnxModel(unfinished, 'cpu').window_logits,
                    size=facts.window), views)
        size = unfinished.stat().st_size
    write_text(costs, json.dumps(
        {MARK: 'quantised'} | asdict(comparison) | dict(
            file=path.name, bytes=size, unquantised=source.name,
            unquantised_bytes=source.stat().st_size), indent=2) + '\n')
    return Exported(path, size, comparison)


def _whole(batches: Sequence[Views]) -> list[Views]:
    """Tiles of Deepness have values everywhere: the mean for no data."""
    return [tuple(view.nan_to_num(0.) for view in views)
            for views in batches]


def _save(graph, path: Path) -> None:
    import onnx
    if graph.ByteSize() >= LIMIT:
        raise ValueError(f'{path.name} would have {graph.ByteSize() / 1e9:.1f}'
                         ' GB; an ONNX file holds 2 GB. Choose a smaller '
                         'model.')
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def _check(comparison: Comparison, path: Path) -> None:
    if not comparison.max_difference <= TOLERANCE:
        raise ValueError(f'{path} is not written, it would compute something '
                         f'else than the model: {comparison}.')
