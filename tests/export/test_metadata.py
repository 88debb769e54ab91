"""What an ONNX file says of itself is checked before it is believed."""
import json

import pytest
from onnx import TensorProto, helper, save

from relay_seg.export import OnnxModel
from relay_seg.export.metadata import Facts, write_metadata

FACTS = Facts(
    window=(32, 32), stride=(16, 16), blend='mean', batch_size=2,
    context_factors=(4, ), relative_bands=(), mean=(1., 2.), std=(1, 1.),
    bands=(1, 2), num_classes=2, out_channels=2, threshold=None,
    classes=('a', 'b'), palette=((0, 0, 0), (9, 9, 9)), pixel_size=0.5,
    input_size=(32, 32), context_reductions=(4, ),
    config=dict(model=dict(type='A')))
GOOD = json.loads(FACTS.to_json())


def test_facts_come_back():
    assert Facts.from_json(json.dumps(GOOD)) == FACTS


def test_files_of_before_there_was_an_input_size_are_read():
    old = {k: v for k, v in GOOD.items() if k != 'input_size'}
    assert Facts.from_json(json.dumps(old)).input_size == (32, 32)


def test_files_of_before_there_were_reductions_are_read():
    old = {k: v for k, v in GOOD.items() if k != 'context_reductions'}
    assert Facts.from_json(json.dumps(old)).contexts == ((4, 4), )


WRONG = dict(
    window=['32', [32], [0, 32], None, 32], stride=[[16, 64], [0, 16], [16.]],
    blend=[3, 'sharp'], batch_size=[0, '2', 2.5, True],
    context_factors=[4, ['4'], [0]], context_reductions=[4, ['4']],
    relative_bands=[[2], [None]],
    mean=[[], 'ab', [None, 1.], [float('nan'), 1.]],
    std=[[1.], [0., 1.], 3], bands=[[1], ['1', '2'], [0, 1]],
    num_classes=['2', None], out_channels=[3, 'a'], threshold=['a'],
    classes=['ab', [1, 2]], palette=[[[0, 0], [1, 1]], [[0, 0, 300]], 3],
    pixel_size=['0.5', [1]], config=['text', [1]], config_file=[1],
    checkpoint_sha256=[None], input_size=[[1], 'ab', [0, 0]],
    stranger=[1])


@pytest.mark.parametrize('name, value', [
    (name, value) for name, values in WRONG.items() for value in values],
    ids=str)
def test_a_field_of_another_kind_is_named(name, value):
    with pytest.raises(ValueError, match=f'{name}.*export it again'):
        Facts.from_json(json.dumps(GOOD | {name: value}))


@pytest.mark.parametrize('name', ['window', 'classes'])
def test_a_field_that_is_missing_is_named(name):
    rest = {k: v for k, v in GOOD.items() if k != name}
    with pytest.raises(ValueError, match=f'{name}.*export it again'):
        Facts.from_json(json.dumps(rest))


ODD = ['', 'text', '[1]', '3', 'null', '{}', '[' * 100_000,
       json.dumps(GOOD | dict(window=1)),
       json.dumps(GOOD | dict(config=dict(filename='a'))),
       json.dumps(GOOD | dict(config=dict(test_dataloader='a'))),
       json.dumps(GOOD | dict(classes=['a']))]


@pytest.mark.parametrize('text', ODD, ids=range(len(ODD)))
def test_a_file_with_odd_metadata_is_named(tmp_path, text):
    shape = [1, 2, 32, 32]
    views = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)
             for x in ('local', 'global', 'logits')]
    graph = helper.make_graph([helper.make_node(
        'Add', ['local', 'global'], ['logits'])], 'a', views[:2], views[2:])
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid('', 18)])
    path = tmp_path / 'model.onnx'
    for content in (json.dumps(GOOD), text):
        write_metadata(model, dict(relay_seg=content))
        save(model, path)
        if content is not text:
            OnnxModel(path, 'cpu')
    with pytest.raises(ValueError, match='model.onnx.*export it again'):
        OnnxModel(path, 'cpu')
