import torch
from mmengine.config import Config
from sample_model import write_sample_model

from relay_seg.checkpoints import read_checkpoint

CONFIG = 'configs/relay/rt_segformer_b0_dubai.py'


def test_weights_are_halved_and_counts_stay(tmp_path, pytestconfig):
    config = pytestconfig.rootpath / CONFIG
    weights = dict(w=torch.tensor([0.1, 2.]), n=torch.tensor(70000))
    torch.save(dict(state_dict=weights, optimizer={}), tmp_path / 'a.pth')
    out = tmp_path / 'config.json', tmp_path / 'model.safetensors'
    write_sample_model(config, tmp_path / 'a.pth', out)
    written = read_checkpoint(out[1])
    assert written.keys() == weights.keys()
    assert torch.equal(written['w'], weights['w'].half())
    assert torch.equal(written['n'], weights['n'])
    assert Config.fromfile(out[0]).model.backbone == (
        Config.fromfile(config).model.backbone)
