"""What stands beside a published checkpoint."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from relay_seg.checkpoints import sha256
from relay_seg.config import load_config
from relay_seg.inference import load_model

ROOT = Path(__file__).parents[2]
NAMES = 'README.md', 'small-*.pth', 'small-*.json', 'small-*.py'


@pytest.fixture
def tested(trained, tmp_path):
    """Config, checkpoint and results of a model with three views."""
    config, file = trained
    results = tmp_path / 'results.json'
    results.write_text(json.dumps(dict(
        schema='relay_seg/results', schema_version=1, model={}, config={},
        metrics=dict(mIoU=61.234, aAcc=80.), scenes=[],
        checkpoint=dict(file=str(file), sha256=sha256(file)),
        protocol=dict(dataset='TownDataset', split='test', num_scenes=4))))
    return config, file, results


def publish(tested, out):
    config, file, measured = tested
    words = [file, out, '--config', config, '--card', 'CC-BY-4.0', '--results',
             measured]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['publish', *map(str, words)])
        runpy.run_path(
            str(ROOT / 'tools/publish_checkpoint.py'), run_name='__main__')
    return [next(out.parent.glob(name)) for name in NAMES]


@pytest.fixture
def published(tested, tmp_path):
    (tmp_path / 'public').mkdir()
    return publish(tested, tmp_path / 'public/small.pth')


def test_page_says_what_hugging_face_asks_for(published):
    page, file, _, config = published
    _, head, text = page.read_text().split('---\n', 2)
    found = yaml.safe_load(head)
    assert found['license'] == 'cc-by-4.0'
    assert found['pipeline_tag'] == 'image-segmentation'
    assert found['metrics'] == ['mean_iou', 'accuracy']
    (measured, ) = found['model-index'][0]['results']
    assert [x['value'] for x in measured['metrics']] == [61.23, 80.]
    assert measured['dataset']['split'] == 'test'
    for part in (file.name, config.name, sha256(file), '| 1 | house | #c80000',
                 '| 3 | 5 | 2 |', '61.2', '32 x 32'):
        assert part in text, part


def test_hugging_face_reads_the_page(published):
    hub = pytest.importorskip('huggingface_hub')
    card = hub.ModelCard.load(published[0])
    assert card.data.library_name == 'relay-seg'
    assert [x.metric_value for x in card.data.eval_results] == [61.23, 80.]


def test_item_is_one_of_stac_with_models(published):
    pystac = pytest.importorskip('pystac')
    mlm = pytest.importorskip('pystac.extensions.mlm')
    content = json.loads(published[2].read_text()) | dict(stac_extensions=[])
    validation = pytest.importorskip('pystac.validation')
    pytest.importorskip('jsonschema')
    validation.validate_dict(content)
    item = pystac.Item.from_file(str(published[2]))
    model = mlm.MLMExtension.ext(item)
    assert 'semantic-segmentation' in model.tasks
    assert model.total_parameters > 100
    local, *wider = model.input
    assert len(wider) == 2 and len({x.name for x in model.input}) == 3
    assert local.input.shape == [-1, 3, 32, 32]
    assert item.properties['mlm:input'][0]['value_scaling'][2] == dict(
        type='z-score', mean=5., stddev=2.)
    assert local.bands == [x['name'] for x in item.properties['bands']]
    (output, ) = model.output
    assert [x.description for x in output.classes] == [
        'field', 'house', 'wood']
    asset = item.assets['model']
    assert Path(asset.get_absolute_href()) == published[1]
    assert {'mlm:model', 'mlm:weights'} <= set(asset.roles)


def test_the_published_config_loads_the_published_weights(published):
    _, file, _, config = published
    model = load_model(load_config(config), str(file), device='cpu')
    assert len(model.contexts) == 2


def test_nothing_is_overwritten(tested, tmp_path, capsys):
    (tmp_path / 'README.md').write_text('mine')
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as stop:
        publish(tested, tmp_path / 'small.pth')
    assert stop.value.code == 2
    assert f'{tmp_path / "README.md"} is there' in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / 'README.md').read_text() == 'mine'


def test_results_of_another_checkpoint_are_refused(
        tested, tmp_path, capsys):
    results = json.loads(tested[2].read_text())
    results['checkpoint'] = dict(file='other.pth', sha256='12')
    tested[2].write_text(json.dumps(results))
    with pytest.raises(SystemExit):
        publish(tested, tmp_path / 'small.pth')
    assert 'is of other.pth' in capsys.readouterr().err
    assert not (tmp_path / 'README.md').exists()
    assert not list(tmp_path.glob('small*'))


@pytest.mark.parametrize('words, missing', [
    (['--card', 'MIT'], '--config'), (['--results', 'x.json'], '--card')])
def test_what_a_card_needs(words, missing, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['publish', 'a.pth', 'b.pth', *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(
            str(ROOT / 'tools/publish_checkpoint.py'), run_name='__main__')
    assert stop.value.code == 2
    assert f'give {missing}' in capsys.readouterr().err
