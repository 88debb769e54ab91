"""Files for Deepness, run through the steps of the plug-in."""
import json

import numpy as np
import onnxruntime
import pytest
import torch

from relay_seg.export import OnnxModel, export_deepness

THRESHOLD = 0.3


class Plugin:
    """What Deepness does with a segmentation model, from its source."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(
            path, providers=['CPUExecutionProvider'])
        self.input, = self.session.get_inputs()
        self.output, = self.session.get_outputs()
        meta = self.session.get_modelmeta().custom_metadata_map
        self.meta = {key: json.loads(value) for key, value in meta.items()}

    def classes(self, tiles):
        """Class ids (B, H, W) of tiles (B, H, W, C) uint8."""
        x = tiles[:, :, :, :self.input.shape[-3]]
        x = np.float32(x * 1. / 255.)
        mean, std = (np.array(self.meta[f'standardization_{key}'], np.float32)
                     for key in ('mean', 'std'))
        x = ((x - mean) / std).transpose(0, 3, 1, 2)
        result, = self.session.run(None, {self.input.name: x})
        assert result.min() >= 0
        np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)
        result[result < self.meta['seg_thresh']] = 0
        return result.argmax(1)


@pytest.mark.parametrize('name', ['plain', 'binary'])
@pytest.mark.parametrize('batch', [1, 4])
def test_the_plugin_finds_the_classes_of_the_model(exported, name, batch):
    model, path = exported(name)
    rng = np.random.default_rng(batch)
    tiles = np.kron(rng.integers(0, 256, (batch, 8, 8, 4)),
                    np.ones((1, 4, 4, 1))).astype(np.uint8)
    views = torch.from_numpy(tiles[..., :3]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model.window_logits(
            (model.data_preprocessor.normalise(views), ))
    if name == 'binary':
        expected = (logits[:, 0].sigmoid() > THRESHOLD).numpy()
        between = (logits.sigmoid() > THRESHOLD) & (logits.sigmoid() < 0.5)
        assert between.any()  # where a threshold of one half would differ
    else:
        expected = logits.argmax(1).numpy()
    found = Plugin(path).classes(tiles)
    assert len(np.unique(found)) > 1
    assert (found == expected).mean() > 0.999


def test_what_the_plugin_reads(exported):
    plugin = Plugin(exported('plain')[1])
    expected = dict(
        model_type='Segmentor',
        class_names={'0': 'field', '1': 'house', '2': 'wood'},
        resolution=50, tile_size=32, tiles_size=32, tiles_overlap=50,
        seg_thresh=0, seg_small_segment=0,
        standardization_mean=[100 / 255, 110 / 255, 5 / 255],
        standardization_std=[30 / 255, 40 / 255, 2 / 255])
    assert set(plugin.meta) == set(expected)
    for key, value in expected.items():
        assert plugin.meta[key] == (
            pytest.approx(value) if isinstance(value, list) else value), key
    batch, *tile = plugin.input.shape
    assert isinstance(batch, str) and tile == [3, 32, 32]
    batch, *tile = plugin.output.shape
    assert isinstance(batch, str) and tile == [3, 32, 32]


def test_resolution_from_the_data_set(exported, tmp_path, monkeypatch):
    model, _ = exported('binary')
    path = tmp_path / 'model.onnx'
    with pytest.raises(ValueError, match='centimetres'):
        export_deepness(model, path)
    monkeypatch.setattr(
        model, 'dataset_meta', model.dataset_meta | dict(pixel_size=0.2))
    export_deepness(model, path)
    assert Plugin(path).meta['resolution'] == pytest.approx(20)


def test_refuses_what_the_plugin_cannot_run(random_model, tmp_path):
    path = tmp_path / 'model.onnx'
    with pytest.raises(ValueError, match='one view.*plain config'):
        export_deepness(random_model('linear'), path, resolution=50)
    with pytest.raises(ValueError, match='square'):
        export_deepness(random_model('plain'), path, resolution=50,
                        window=(32, 64))
    assert not list(tmp_path.iterdir())


def test_prediction_refuses_a_file_for_deepness(exported):
    with pytest.raises(ValueError, match='without --deepness'):
        OnnxModel(exported('plain')[1])
