"""What an ONNX file says about its model."""
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from math import inf
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import relay_seg
from relay_seg.inference.model import bands_of, classes_of
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import (
    BLENDS,
    Context,
    contexts_of,
    in_proportion,
    view_sizes,
)

if TYPE_CHECKING:
    import onnx

#: Key of the metadata of the file, and the version of what it holds.
KEY, VERSION = 'relay_seg', 1


@dataclass(frozen=True)
class Facts:
    """All that prediction needs to know beside the graph.

    Args:
        window: Height and width of a window in pixels.
        stride: Vertical and horizontal step between windows.
        blend: How windows are blended.
        batch_size: Windows in one forward pass.
        context_factors: Context factor of each global view.
        relative_bands: Bands of which only differences matter.
        mean: Mean of each band.
        std: Standard deviation of each band.
        bands: Bands to read, the first is 1; None for all.
        num_classes: Classes as the model counts them.
        out_channels: Channels of the logits.
        threshold: Of a model with one channel.
        classes: Name of each class.
        palette: Colour of each class.
        pixel_size: Side of a pixel of training in metres, if known.
        config: The config, without running any of it.
        config_file: Where it was.
        checkpoint_sha256: Of the checkpoint, '' if there was none.
        relay_seg: Version that wrote the file.
        quantised: Type of quantised weights, '' for none.
        input_size: Height and width of the local view.
        context_reductions: Reduction of each global view.
    """
    window: tuple[int, int]
    stride: tuple[int, int]
    blend: str
    batch_size: int
    context_factors: tuple[int, ...]
    relative_bands: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[int, ...] | None
    num_classes: int
    out_channels: int
    threshold: float | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    pixel_size: float | None = None
    config: Mapping | None = None
    config_file: str = ''
    checkpoint_sha256: str = ''
    relay_seg: str = relay_seg.__version__
    quantised: str = ''
    input_size: tuple[int, int] = field(kw_only=True)
    context_reductions: tuple[int, ...] = field(kw_only=True)

    @property
    def contexts(self) -> tuple[Context, ...]:
        """The global views."""
        return contexts_of(self.context_factors, self.context_reductions)

    def to_json(self) -> str:
        return json.dumps(dict(version=VERSION) | asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> 'Facts':
        """Facts of a file that anybody may have written.

        Raises:
            ValueError: They are not what :meth:`to_json` writes.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'its metadata are no JSON ({error}); export it '
                             'again.') from error
        version = found.pop('version', None) if isinstance(
            found, dict) else None
        if version != VERSION:
            raise ValueError(f'its metadata are of version {version}, this '
                             f'relay_seg reads {VERSION}; export it again.')
        fields = {name: _frozen(value) if name != 'config' else value
                  for name, value in found.items()}
        if 'window' in fields:  # files of before there was an input_size
            fields.setdefault('input_size', fields['window'])
        if 'context_factors' in fields:  # or views of their own size
            fields.setdefault('context_reductions', fields['context_factors'])
        kinds = get_type_hints(cls)
        wrong = sorted(
            {f.name for f in dataclass_fields(cls) if f.default is MISSING}
            - fields.keys() | {name for name, value in fields.items()
                               if not _is(value, kinds.get(name))})
        if not wrong:
            facts = cls(**fields)
            wrong = facts._out_of_range()
        if wrong:
            raise ValueError(f'its metadata are wrong in {", ".join(wrong)}; '
                             'export it again.')
        return facts

    def _out_of_range(self) -> list[str]:
        bands = len(self.mean)
        fine = dict(
            window=min(self.window) > 0,
            stride=all(0 < step <= size for step, size in zip(
                self.stride, self.window)),
            input_size=min(self.input_size) > 0,
            blend=self.blend in BLENDS,
            batch_size=self.batch_size > 0,
            **dict.fromkeys(('context_factors', 'context_reductions'),
                            self._has_views()),
            relative_bands=all(0 <= i < bands for i in self.relative_bands),
            mean=bands > 0,
            std=len(self.std) == bands and min(self.std, default=0) > 0,
            bands=self.bands is None or (
                len(self.bands) == bands and min(self.bands) > 0),
            out_channels=self.out_channels in (1, self.num_classes),
            palette=all(0 <= value < 256
                        for color in self.palette for value in color))
        return [name for name, right in fine.items() if not right]

    def _has_views(self) -> bool:
        try:
            view_sizes(self.input_size, self.contexts)
        except ValueError:
            return False
        return True


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as the fields of facts have them."""
    args = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_is(value, each) for each in args)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        if args[-1] is ...:
            args = args[:1] * len(value)
        return len(args) == len(value) and all(map(_is, value, args))
    if kind is float:
        return type(value) in (int, float) and abs(value) < inf
    return isinstance(value, kind or ()) and type(value) is not bool


def _frozen(value):
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value


def facts_of(model: SlideEncoderDecoder,
             window: tuple[int, int] | None = None) -> Facts:
    """What a model of :func:`relay_seg.inference.load_model` is.

    Args:
        model: The model.
        window: Height and width of the windows; ``crop_size`` of its
            ``test_cfg`` by default.
    """
    test_cfg = model.test_cfg
    own = test_cfg.get('crop_size')
    window = tuple(window or own or ())
    if not window:
        raise ValueError("the model's test_cfg has no crop_size; set it, or "
                         'give a window.')
    own = own or window
    stride, input_size = (
        in_proportion(test_cfg.get(key) or own, own, window)
        for key in ('stride', 'input_size'))
    bands = bands_of(model)
    classes = classes_of(model)
    meta = getattr(model, 'dataset_meta', None) or {}
    cfg = getattr(model, 'cfg', None)
    return Facts(
        window, stride, test_cfg.get('blend', 'mean'),
        test_cfg.get('batch_size', 8),
        tuple(view.factor for view in model.contexts),
        tuple(model.relative_bands), tuple(bands.mean.flatten().tolist()),
        tuple(bands.std.flatten().tolist()), bands.chosen, model.num_classes,
        model.out_channels, getattr(model.decode_head, 'threshold', None),
        classes.names, classes.palette, meta.get('pixel_size'),
        cfg.to_dict() if cfg is not None else None,
        str(getattr(cfg, 'filename', None) or ''),
        getattr(model, 'checkpoint_sha256', ''), input_size=input_size,
        context_reductions=tuple(view.reduction for view in model.contexts))


def deepness_metadata(facts: Facts, resolution: float) -> dict[str, str]:
    """Keys that the QGIS plug-in Deepness reads, each in JSON.

    It resamples a map to the resolution and gives the model tiles of that.

    Args:
        facts: Facts of a plain model.
        resolution: Side of a pixel of the data in centimetres.
    """
    size, step = facts.input_size[0], facts.stride[0]
    resolution *= facts.window[0] / size
    names = dict(enumerate(facts.classes))
    values = dict(
        model_type='Segmentor',
        class_names={str(i): name for i, name in names.items()},
        resolution=resolution,
        tile_size=size,
        tiles_size=size,  # so in its documentation, tile_size in its code
        tiles_overlap=round(100 * (1 - step / facts.window[0])),
        # It divides pixels by 255 first.
        standardization_mean=[value / 255 for value in facts.mean],
        standardization_std=[value / 255 for value in facts.std],
        # The most probable class, however probable, and no smoothing.
        seg_thresh=0.,
        seg_small_segment=0)
    return {key: json.dumps(value) for key, value in values.items()}


def write_metadata(graph: 'onnx.ModelProto',
                   values: Mapping[str, str]) -> None:
    """Set the metadata of a file, and who wrote it."""
    graph.producer_name = KEY
    del graph.metadata_props[:]
    for key, value in values.items():
        graph.metadata_props.add(key=key, value=value)


def is_export(path: Path) -> bool:
    """Whether a file says that an export wrote it."""
    import onnx
    from google.protobuf.message import DecodeError
    try:
        graph = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return False
    return graph.producer_name == KEY or any(  # older files say it there
        entry.key == KEY for entry in graph.metadata_props)
