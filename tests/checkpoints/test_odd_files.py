"""Files that are damaged, or odd without harm: said, never a traceback."""
import time
import zipfile

import pytest
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from relay_seg.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    is_training_state,
    load_pretrained,
    load_weights,
    read_checkpoint,
    register_loaders,
    write_checkpoint,
)
from relay_seg.checkpoints.host_types import plain
from relay_seg.checkpoints.publishing import publish_checkpoint
from relay_seg.checkpoints.unwrapping import unwrap


@pytest.fixture(autouse=True)
def safe_loaders():
    register_loaders()


def same(one, two):
    return one.keys() == two.keys() and one['meta'] == two['meta'] and (
        torch.equal(one['state_dict']['w'], two['state_dict']['w']))


@pytest.mark.parametrize('trust', [False, True])
def test_no_flipped_bit_is_taken_for_code_or_for_a_weight(tmp_path, trust):
    """Torch itself reads most of these files, with another weight."""
    content = dict(state_dict=dict(w=torch.arange(6.)), meta=dict(epoch=1))
    path = tmp_path / 'epoch_1.pth'
    write_checkpoint(content, path)
    whole = path.read_bytes()
    damaged = 0
    for place in range(4, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            assert same(read_checkpoint(path, trust=trust), content), place
        except UnsafeCheckpointError:
            pytest.fail(f'byte {place}')
        except CheckpointError as error:
            assert 'epoch_1.pth is ' in str(error)
            damaged += 'is damaged' in str(error)
    assert damaged > 200


def test_sum_of_a_part_is_compared(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(dict(w=torch.full((100, ), 1.5)), path)
    data = path.read_bytes()
    start = data.index(torch.full((100, ), 1.5).numpy().tobytes())
    path.write_bytes(data[:start] + b'\x01' + data[start + 1:])
    assert torch.load(path, weights_only=True)['w'][0] != 1.5
    with pytest.raises(CheckpointError, match='model.pth is damaged.*check'):
        read_checkpoint(path)


def packed(content, path):
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        parts = {x.filename: archive.read(x) for x in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def test_archive_that_unpacks_to_more_than_weights_do(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.pth'
    packed(dict(w=torch.zeros(10_000_000)), path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(torch, 'load', None)  # refused before
    with pytest.raises(CheckpointError, match='bomb.pth is .*zip -0'):
        read_checkpoint(path)


def test_packed_weights_are_read(tmp_path):
    path = tmp_path / 'model.pth'
    weights = torch.randn(10_000).repeat(100).half()
    packed(dict(w=weights), path)
    assert torch.equal(read_checkpoint(path)['w'], weights)


def test_lists_of_lists_take_no_time(tmp_path):
    """Each holds the one before twice: 2**60 of them, read naively."""
    nested = []
    for _ in range(60):
        nested = [nested, nested]
    path = tmp_path / 'nested.pth'
    torch.save(dict(a=nested), path)
    assert path.stat().st_size < 3000
    begin = time.monotonic()
    found = read_checkpoint(path)['a']
    assert time.monotonic() - begin < 5
    assert found[0] is found[1]
    assert plain(dict(a=(x := [1]), b=x)) == dict(a=[1], b=[1])


META = [None, 'text', 3, [1], {1: 2}, dict(dataset_meta='text')]


@pytest.mark.parametrize('meta', META, ids=map(str, META))
def test_any_meta_is_read(tmp_path, meta):
    path = tmp_path / 'model.pth'
    model = nn.Linear(2, 1)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    assert load_weights(model, path)['meta'] == meta
    assert not is_training_state(CheckpointLoader.load_checkpoint(str(path)))
    with pytest.raises(ValueError, match='model.pth.*conf'):
        publish_checkpoint(str(path), tmp_path / 'out.pth')
    with pytest.raises(CheckpointError, match='model.pth does not fit'):
        load_weights(nn.Linear(3, 1), path)


@pytest.mark.parametrize('content', [
    {1: torch.ones(2)}, {'state_dict': {1: torch.ones(2)}}])
def test_numbers_as_names(tmp_path, content):
    path = tmp_path / 'model.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='model.pth does not fit(.|\n)*'
                       'without a place: 1'):
        load_weights(nn.Linear(2, 1), path)
    assert unwrap(content, 'a')['1'].tolist() == [1, 1]


@pytest.mark.parametrize('content', [
    dict(state_dict=None), dict(state_dict='text'), dict(state_dict=[1]),
    dict(state_dict=dict(state_dict=dict(a=torch.ones(1)))),
    dict(state_dict=dict(a=1)), {1: 2}])
def test_file_that_holds_no_weights(tmp_path, content):
    path = tmp_path / 'model.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='model.pth.*tools/train.py'):
        load_weights(nn.Linear(2, 1), path)


@pytest.mark.parametrize('content', [
    dict(message_hub='text'), dict(message_hub=dict(log_scalars=[1])),
    dict(message_hub=dict(log_scalars=dict(loss=dict(
        log_history=1, count_history=2, max_length=3)))),
    dict(param_schedulers=[None]), dict(param_schedulers=dict(a=None))])
def test_odd_state_of_training_is_none(tmp_path, content):
    path = tmp_path / 'model.pth'
    torch.save(content, path)
    assert not is_training_state(CheckpointLoader.load_checkpoint(str(path)))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['0.weight', '1.running_var'])
@pytest.mark.parametrize('kind', ['pth', 'safetensors'])
def test_weights_that_are_no_numbers_are_refused(tmp_path, kind, name, value):
    path = tmp_path / f'model.{kind}'
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights[name].view(-1)[1] = value
    (save_file if kind == 'safetensors' else torch.save)(weights, path)
    with pytest.raises(CheckpointError, match=f'{path.name}.*{name}.*earlier'):
        load_weights(model, path)
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_no_other_way_leads_past_the_check(tmp_path):
    path = tmp_path / 'model.pth'
    weights = dict(weight=torch.full((1, 2), float('nan')), bias=torch.ones(1))
    torch.save(dict(state_dict=weights, meta=dict(cfg='a')), path)
    model = nn.Linear(2, 1)
    with pytest.raises(CheckpointError, match='model.pth .* 2 of 2 .*weight'):
        load_pretrained(model, path)
    assert model.weight.isfinite().all()
    with pytest.raises(CheckpointError, match='model.pth .* 2 of 2 .*weight'):
        publish_checkpoint(str(path), tmp_path / 'out.pth')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('value', [
    torch.ones(1, 2).to_sparse(), torch.ones(1, 2, device='meta')],
    ids=['sparse', 'meta'])
def test_weights_without_numbers_are_refused(tmp_path, value):
    path = tmp_path / 'model.pth'
    torch.save(dict(weight=value, bias=torch.ones(1)), path)
    with pytest.raises(CheckpointError, match='model.pth holds weight with'):
        load_weights(nn.Linear(2, 1), path)
