"""When a batch is recorded, played back, and computed as it is.

Nothing is recorded on a CPU: a stand-in notes what a CUDA graph would do.
"""
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from relay_seg.inference import forward
from relay_seg.inference.forward import Forward, forget

SIZE = 4, 4


class Doubling(nn.Module):
    """Logits are twice the local view; it says it is on a GPU."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.))
        self.data_preprocessor = SimpleNamespace(device=torch.device('cuda'))
        self.calls = []

    def window_logits(self, views, size):
        self.calls.append(len(views[0]))
        return self.factor * views[0]


class Tape:
    """As the real one, without a GPU."""
    made, played = 0, 0

    def __init__(self, call, views):
        type(self).made += 1
        self.call = call

    def __call__(self, views):
        type(self).played += 1
        return self.call(views)


@pytest.fixture
def tape(monkeypatch):
    kind = type('Tape', (Tape, ), {})
    monkeypatch.setattr(forward, 'Graph', kind)
    return kind


@torch.no_grad()
def run(call, count):
    views = torch.rand(count, 3, *SIZE), torch.rand(count, 3, *SIZE)
    assert torch.equal(call(views), 2 * views[0])


def test_the_second_full_batch_is_recorded(tape):
    call = Forward(Doubling(), SIZE, 4)
    run(call, 4)
    assert tape.made == tape.played == 0
    run(call, 4)
    assert tape.made == tape.played == 1
    run(call, 4)
    assert tape.made == 1 and tape.played == 2


def test_a_partial_batch_is_computed_as_it_is(tape):
    model = Doubling()
    call = Forward(model, SIZE, 4)
    for count in (4, 4, 3):
        run(call, count)
    assert tape.played == 1 and model.calls[-1] == 3


def test_the_next_scene_plays_what_was_recorded(tape):
    model = Doubling()
    for _ in range(2):
        call = Forward(model, SIZE, 4)
        for _ in range(2):
            run(call, 4)
    assert tape.made == 1 and tape.played == 3


def half(model):
    return Forward(model, SIZE, 2), 2


def in_bf16(model):
    return Forward(model, SIZE, 4, torch.bfloat16), 4


def with_other_weights(model):
    model.factor = nn.Parameter(torch.tensor(2.))
    return Forward(model, SIZE, 4), 4


@pytest.mark.parametrize('other', (half, in_bf16, with_other_weights))
@pytest.mark.filterwarnings('ignore:User provided device_type of .cuda')
def test_what_differs_is_recorded_anew(tape, other):
    model = Doubling()
    call = Forward(model, SIZE, 4)
    for _ in range(2):
        run(call, 4)
    call, count = other(model)
    run(call, count)
    assert tape.made == 1 and tape.played == 1
    run(call, count)
    assert tape.made == 2


@pytest.mark.parametrize('how', (
    dict(cuda_graph=False), dict(compiled=True)))
def test_it_can_be_left_out(tape, how, monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda call: call)
    call = Forward(Doubling(), SIZE, 4, **how)
    for _ in range(3):
        run(call, 4)
    assert tape.made == 0


def test_a_model_that_cannot_be_recorded_is_called_as_ever(
        monkeypatch, caplog):
    MMLogger.get_current_instance().addHandler(caplog.handler)

    def refuse(call, views):
        raise RuntimeError('operation not permitted')

    monkeypatch.setattr(forward, 'Graph', refuse)
    call = Forward(Doubling(), SIZE, 4)
    for _ in range(4):
        run(call, 4)
    MMLogger.get_current_instance().removeHandler(caplog.handler)
    assert caplog.text.count('operation not permitted') == 1


def test_memory_is_given_back(tape):
    model = Doubling()
    call = Forward(model, SIZE, 4)
    for _ in range(2):
        run(call, 4)
    kept = weakref.ref(forward._GRAPHS[model][1])
    del call
    forget(model)
    gc.collect()
    assert kept() is None
