"""Checkpoints as PyTorch Lightning writes them, objects included."""
import enum
import functools
import sys
import types
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from unittest import mock

import torch
from torch import nn


class Sampling(enum.Enum):
    LINEAR = 1


class Settings(dict):
    """As ``AttributeDict`` and its like: a dict that pickles by its name."""


class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.act = functools.partial(nn.functional.gelu, approximate='tanh')


class DictConfig:
    """As that of omegaconf, which is not there when the file is read."""

    def __init__(self, **content):
        self.content, self.cache = content, defaultdict(dict)
        self.cache['a']['b'] = 1

    def __setstate__(self, state):
        raise AssertionError('it was unpickled')


DictConfig.__module__ = 'settings_library.dictconfig'
LIBRARY = types.ModuleType(DictConfig.__module__)
LIBRARY.DictConfig = DictConfig
MARK = 'pytorch-lightning_version'
#: Parts of a file that hold objects.
UNREAD = ('callbacks', 'lr_schedulers', 'hyper_parameters',
          'datamodule_hparams')


def content(state, objects=True):
    """What Lightning keeps, with or without objects in it."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    found = dict(
        epoch=12, global_step=3400, state_dict=OrderedDict(state),
        loops=dict(fit_loop=dict(state_dict={}, epoch_progress=dict(
            current=dict(ready=13, completed=12)))),
        optimizer_states=[optimizer.state_dict()], hparams_name='kwargs')
    found[MARK] = '2.1.0'
    if not objects:
        return found
    settings = Settings(batch_size=64)
    settings.name = 'gleason'
    return found | dict(
        callbacks={'ModelCheckpoint': dict(
            best_model_score=torch.tensor(0.5), dirpath=Path('/runs'))},
        lr_schedulers=[dict(history=deque([0.1, 0.2]), better=max)],
        hyper_parameters=dict(
            optimizer=functools.partial(torch.optim.AdamW, lr=1e-3),
            net=Net(), cfg=DictConfig(lr=1e-3, sizes=[1, 2])),
        datamodule_hparams=dict(
            data=settings, sampling=Sampling.LINEAR, kind=Settings))


def write(found, path, **settings):
    """Write a file; ``settings`` are those of ``torch.save``."""
    modules = {'settings_library': LIBRARY, LIBRARY.__name__: LIBRARY}
    with mock.patch.dict(sys.modules, modules):
        torch.save(found, path, **settings)
    return path
