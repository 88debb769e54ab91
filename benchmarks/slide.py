"""Slide inference of relay models, of plain ones, and of the host.

    python benchmarks/slide.py

RelaySwinV2-T and its plain twin with UPerHead over one scene in memory, 8
classes, windows of 256, and the host's ``slide_inference`` with the same
plain model and the same windows, which it runs one by one. All in turns. The
last column is what all that is not the model costs: cutting views and adding
up, timed with a model that returns ready logits.
"""
import argparse
from functools import partial
from types import MethodType

import torch
from measure import Table, in_turns, machine, peak_bytes, ratio, spread
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS

import relay_seg.registered  # noqa: F401
from relay_seg.views import plan_windows

CONFIGS = {
    'relay': 'configs/relay/rt_swin2_t_urur.py',
    'plain': 'configs/plain/swin2_t_urur.py',
}
WINDOW = 256


def build(path: str, channels: int) -> torch.nn.Module:
    cfg = Config.fromfile(path).model
    cfg.decode_head.channels = channels
    cfg.data_preprocessor = None
    return MODELS.build(cfg).eval()


def slide(model, scene: torch.Tensor, stride: int, batch: int,
          method=None) -> torch.Tensor:
    """Logits of a scene, by a model's own method or the one given."""
    model.test_cfg.update(crop_size=(WINDOW, WINDOW), stride=(stride, stride),
                          batch_size=batch, blend='mean')
    shape = scene.shape[-2:]
    metas = [dict(ori_shape=shape, img_shape=shape, pad_shape=shape,
                  padding_size=[0, 0, 0, 0])]
    with torch.no_grad():
        return (method or type(model).slide_inference)(model, scene, metas)


def host_slide(model, scene: torch.Tensor, stride: int) -> torch.Tensor:
    """The host's own method, which takes one window at a time."""
    return slide(model, scene, stride, 1, EncoderDecoder.slide_inference)


def without_model(model, scene: torch.Tensor, stride: int, batch: int):
    """A slide whose logits are ready: views are cut, results added."""
    ready = torch.rand(batch, model.out_channels, WINDOW, WINDOW).to(scene)
    real = model.window_logits
    model.window_logits = MethodType(
        lambda self, views, size: ready[:len(views[0])], model)
    try:
        return slide(model, scene, stride, batch)
    finally:
        model.window_logits = real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=5120)
    parser.add_argument('--batch', type=int, nargs='+',
                        default=[1, 2, 4, 8, 16, 32])
    parser.add_argument('--overlap', type=float, nargs='+', default=[0., 0.5])
    parser.add_argument('--channels', type=int, default=512,
                        help='width of UPerHead')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    init_default_scope('mmseg')
    models = {name: build(path, args.channels).to(device)
              for name, path in CONFIGS.items()}
    host = build(CONFIGS['plain'], args.channels).to(device)
    host.extract_feat = MethodType(
        lambda self, image: self.backbone(image), host)
    scene = torch.rand(1, 3, args.side, args.side, device=device)
    print(f'{machine()}; scene {args.side} x {args.side}, UPerHead with '
          f'{args.channels} channels; seconds: median (min to max) of '
          f'{args.rounds} rounds\n')
    table = Table('overlap', 'windows', 'batch', 'relay s', 'plain s',
                  'host s', 'plain / host', 'relay / host', 'relay MiB',
                  'plain MiB', 'host MiB', 'not the model')
    for overlap in args.overlap:
        stride = round(WINDOW * (1 - overlap))
        count = len(plan_windows((args.side, ) * 2, (WINDOW, ) * 2,
                                 (stride, ) * 2))
        for batch in args.batch:
            calls = {name: partial(slide, model, scene, stride, batch)
                     for name, model in models.items()}
            calls['host'] = partial(host_slide, host, scene, stride)
            calls['rest'] = partial(
                without_model, models['relay'], scene, stride, batch)
            times = in_turns(calls, args.rounds, device)
            memory = {name: peak_bytes(call, device)
                      for name, call in calls.items() if name != 'rest'}
            table.row(
                f'{overlap:.1f}', count, batch,
                *(spread(times[name], 1) for name in ('relay', 'plain',
                                                      'host')),
                f'{ratio(times["plain"], times["host"]):.2f}',
                f'{ratio(times["relay"], times["host"]):.2f}',
                *(f'{memory[name] / 2**20:.0f}'
                  for name in ('relay', 'plain', 'host')),
                f'{ratio(times["rest"], times["relay"]):.1%}')


if __name__ == '__main__':
    main()
