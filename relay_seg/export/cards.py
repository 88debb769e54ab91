"""What others must know of a published model, for people and for programs.

A page as Hugging Face reads it (https://huggingface.co/docs/hub/model-cards),
and an item of a STAC catalogue with the extension for models
(https://stac-extensions.github.io/mlm/).
"""
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
import yaml

from relay_seg.checkpoints import sha256
from relay_seg.config import load_config
from relay_seg.evaluation.results import model_name, read_results
from relay_seg.evaluation.table import as_markdown
from relay_seg.inference import load_model
from relay_seg.rasters.files import write_text
from relay_seg.views import view_sizes

from .metadata import Facts, facts_of

README = 'README.md'
STAC, MLM = '1.1.0', 'https://stac-extensions.github.io/mlm/v1.4.0/schema.json'
#: What Hugging Face calls our metrics, which are in per cent.
METRICS = dict(mIoU='mean_iou', mF1='f1', aAcc='accuracy')


@dataclass(frozen=True)
class ModelCard:
    """A model, ready to be described.

    Args:
        facts: What prediction needs to know.
        title: What kind of model it is.
        parameters: Their number.
        config: Text of the whole config.
        licence: Of the weights, by its SPDX name.
        results: Content of the ``results.json`` of a test; None without.
    """
    facts: Facts
    title: str
    parameters: int
    config: str
    licence: str
    results: Mapping | None

    def write(self, checkpoint: Path) -> list[Path]:
        """Write page, item and config beside a checkpoint of this model.

        Raises:
            ValueError: One of the files is there already.
        """
        contents = {
            checkpoint.with_name(README): self.page(checkpoint),
            checkpoint.with_suffix('.json'): json.dumps(
                self.item(checkpoint), indent=2) + '\n',
            checkpoint.with_suffix('.py'): self.config,
        }
        for path in contents:
            refuse_existing(path)
        for path, text in contents.items():
            write_text(path, text)
        return list(contents)

    def page(self, checkpoint: Path) -> str:
        """The page, with its header for programs."""
        facts, name = self.facts, checkpoint.stem
        head = dict(
            license=self.licence.lower(), library_name='relay-seg',
            pipeline_tag='image-segmentation',
            tags=['semantic-segmentation', 'relay-tokens', 'mmsegmentation',
                  'pytorch'])
        if self.results:
            head |= self._measured(name)
        size = ' x '.join(map(str, facts.window))
        lines = [
            f'---\n{yaml.safe_dump(head, sort_keys=False)}---',
            f'# {name}',
            f'{self.title}, {self.parameters:,} parameters. It gives each '
            f'pixel of an image of any size one of {len(facts.classes)} '
            'classes.',
            '## Use',
            f'```bash\npip install relay-seg\nrelay-seg predict {name}.py '
            f'{checkpoint.name} scene.tif -o classes.tif\n```',
            f'`{name}.py` is a program: read it before you run it. The '
            f'SHA-256 of `{checkpoint.name}` is `{sha256(checkpoint)}`.',
            '## Input',
            f'{len(facts.mean)} bands in windows of {size} pixels'
            + (f' of {facts.pixel_size:g} m' if facts.pixel_size else '')
            + ', seen as '
            + ', '.join('{} x {}'.format(*s) for s in self._sizes())
            + ', the local view first.',
            as_markdown(['band', 'mean', 'deviation'], [
                [str(b), f'{m:g}', f'{s:g}']
                for b, m, s in zip(
                    self._bands(), facts.mean, facts.std)]).strip(),
            '## Classes',
            as_markdown(['id', 'class', 'colour'], [
                [str(i), name, f'#{_hex(colour)}'] for i, (name, colour)
                in enumerate(zip(facts.classes, facts.palette))]).strip(),
            '## Results',
            self._results() if self.results else 'Not given.',
        ]
        return '\n\n'.join(lines) + '\n'

    def item(self, checkpoint: Path) -> dict:
        """The item of a STAC catalogue; it lies nowhere on earth."""
        facts = self.facts
        bands = list(map(str, self._bands()))
        named = [dict(name=band) for band in bands]
        scaling = [dict(type='z-score', mean=mean, stddev=std)
                   for mean, std in zip(facts.mean, facts.std)]
        inputs = [
            dict(name=f'global view, {k} times as wide' if k else 'local view',
                 bands=bands, value_scaling=scaling, resize_type=None,
                 input=_array(['batch', 'bands', 'height', 'width'],
                              [-1, len(bands), *size]))
            for k, size in zip((0, *facts.context_factors), self._sizes())]
        classes = [
            dict(value=i, name=re.sub(r'[^0-9A-Za-z_-]+', '-', name),
                 description=name, color_hint=_hex(colour).upper())
            for i, (name, colour) in enumerate(
                zip(facts.classes, facts.palette))]
        output = dict(
            name='logits', tasks=['semantic-segmentation'],
            result=_array(['batch', 'class', 'height', 'width'],
                          [-1, facts.out_channels, *facts.input_size]),
            **{'classification:classes': classes})
        name = re.sub(r'[^\w.-]+', '-', checkpoint.stem, flags=re.ASCII)
        return dict(
            type='Feature', stac_version=STAC, stac_extensions=[MLM],
            id=checkpoint.stem, geometry=None, links=[],
            properties={
                'datetime': datetime.now(timezone.utc).strftime(
                    '%Y-%m-%dT%H:%M:%SZ'),
                'license': self.licence,
                'bands': named,  # MLM looks here, STAC wants both
                'mlm:name': f'relay_seg {name}',
                'mlm:architecture': self.title,
                'mlm:tasks': ['semantic-segmentation'],
                'mlm:framework': 'PyTorch',
                'mlm:framework_version': str(torch.__version__),
                'mlm:total_parameters': self.parameters,
                'mlm:input': inputs, 'mlm:output': [output]},
            assets=dict(
                model={
                    'href': f'./{checkpoint.name}',
                    'type': 'application/octet-stream; application=pytorch',
                    'roles': ['mlm:model', 'mlm:weights', 'data'],
                    'bands': named,
                    'mlm:artifact_type': 'torch.save'},
                config={
                    'href': f'./{checkpoint.stem}.py',
                    'type': 'text/x-python',
                    'roles': ['mlm:source_code', 'code']}))

    def _bands(self) -> Sequence[int]:
        """Of a scene, in the order of the model; the first is 1."""
        return self.facts.bands or range(1, len(self.facts.mean) + 1)

    def _sizes(self) -> list[tuple[int, int]]:
        return view_sizes(self.facts.input_size, self.facts.contexts)

    def _measured(self, name: str) -> dict:
        """What the test gave, as Hugging Face has it."""
        assert self.results
        found, protocol = self.results['metrics'], self.results['protocol']
        metrics = [dict(type=kind, name=key, value=round(found[key], 2))
                   for key, kind in METRICS.items() if key in found]
        return {
            'metrics': [metric['type'] for metric in metrics],
            'model-index': [dict(name=name, results=[dict(
                task=dict(type='image-segmentation'),
                dataset=dict(
                    type=protocol['dataset'], name=protocol['dataset'],
                    split=protocol['split'] or 'test'),
                metrics=metrics)])]}

    def _results(self) -> str:
        assert self.results
        found, protocol = self.results['metrics'], self.results['protocol']
        table = as_markdown(['metric', '%'], [
            [key, f'{found[key]:.1f}'] for key in METRICS if key in found])
        return (f'{table}\nOn {protocol["num_scenes"]} scenes of '
                f'{protocol["dataset"]}, split {protocol["split"]}; other '
                'places, sensors and sizes of pixels are not in it.')


def describe_checkpoint(checkpoint: str, config: str | Path, licence: str,
                        results: str | Path | None = None,
                        trust: bool = False) -> ModelCard:
    """What there is to say of a checkpoint.

    Args:
        checkpoint: File that fits the config, or a URL.
        config: Config file of its model.
        licence: Of the weights, by its SPDX name.
        results: ``results.json`` of a test of this file.
        trust: See :func:`relay_seg.checkpoints.read_checkpoint`.

    Raises:
        ValueError: Config or results are those of another checkpoint.
    """
    cfg = load_config(config)
    model = load_model(cfg, checkpoint, device='cpu', trust=trust)
    facts = facts_of(model)
    found = read_results(results) if results else None
    if found and found['checkpoint']['sha256'] != facts.checkpoint_sha256:
        raise ValueError(
            f'{results} is of {found["checkpoint"]["file"]}, not of '
            f'{checkpoint}; run tools/test.py with this checkpoint.')
    kind = model_name(cfg.model) or type(model.backbone).__name__
    relay = 'relay tokens and ' if facts.context_factors else ''
    return ModelCard(
        facts, f'{kind} with {relay}{type(model.decode_head).__name__}',
        sum(p.numel() for p in model.parameters()), cfg.pretty_text, licence,
        found)


def refuse_existing(path: Path) -> None:
    """Refuse to write over a file.

    Raises:
        ValueError: It is there.
    """
    if path.exists():
        raise ValueError(f'{path} is there already; give an OUT in a folder '
                         'of its own.')


def _array(dimensions: list[str], shape: list[int]) -> dict:
    return dict(dim_order=dimensions, shape=shape, data_type='float32')


def _hex(colour: tuple[int, int, int]) -> str:
    return '{:02x}{:02x}{:02x}'.format(*colour)
