"""Small models with random weights, and their exported files."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from relay_seg.backbones.kept_bias import FORGET
from relay_seg.checkpoints import write_checkpoint
from relay_seg.export import export_deepness, export_onnx
from relay_seg.inference.model import model_config
from relay_seg.views import view_sizes

MEAN, STD = [100., 110., 5.], [30., 40., 2.]
SIZE = 32
NORM = dict(type='BN', requires_grad=True)
CLASSES = 'field', 'house', 'wood'
PALETTE = [[200, 200, 0], [200, 0, 0], [0, 100, 0]]

VIT = dict(
    type='RelayViT',
    arch=dict(embed_dims=12, num_layers=4, num_heads=3,
              feedforward_channels=24),
    img_size=SIZE, patch_size=8, out_indices=[0, 1, 2, 3],
    layer_scale_init_value=1e-4)
SWIN = dict(
    type='RelaySwinV2',
    arch=dict(embed_dims=6, depths=[2, 1], num_heads=[1, 2],
              extra_norm_every_n_blocks=0),
    img_size=SIZE, patch_size=4, window_size=4, out_indices=[0, 1])
ONE_STAGE = SWIN | dict(
    arch=SWIN['arch'] | dict(depths=[2], num_heads=[1]), window_size=3,
    out_indices=[0], pad_small_map=True)
UPER = dict(
    type='UPerHead', in_channels=[6, 12], in_index=[0, 1],
    pool_scales=(1, 2), channels=8, dropout_ratio=0.1, num_classes=3,
    norm_cfg=NORM, align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
ONE_LEVEL = UPER | dict(in_channels=[6], in_index=[0])
VIT_UPER = dict(
    neck=dict(type='Feature2Pyramid', embed_dim=12, rescales=[4, 2, 1, 0.5],
              norm_cfg=NORM),
    decode_head=UPER | dict(in_channels=[12] * 4, in_index=[0, 1, 2, 3]))

ONE_LAYER = dict(arch=VIT['arch'] | dict(num_layers=1), out_indices=[0])
SMALL_TIMM = dict(embed_dim=12, depth=2, num_heads=3, init_values=1.)
LINEAR = dict(
    type='LinearHead', stride=8, in_channels=12, in_index=0, num_classes=3)

#: What can be exported, each in another way.
MODELS_OF = {
    'vit': dict(backbone=VIT, **VIT_UPER),
    # 8 x 8 tokens: attention windows of 3 are shifted and padded.
    'swin': dict(backbone=ONE_STAGE | dict(type='RelaySwinV2'),
                 decode_head=ONE_LEVEL),
    'swin_mean': dict(backbone=SWIN | dict(fusion='mean'),
                      decode_head=LINEAR | dict(in_index=1)),
    'timm': dict(
        backbone=dict(
            type='RelayTimmViT', arch='vit_small_patch16_dinov3',
            img_size=SIZE, patch_size=8, out_indices=[1], rotary_scales=[4],
            relay_place='bias', timm_cfg=SMALL_TIMM),
        context_reductions=(8, ), decode_head=LINEAR),
    'dinov2': dict(
        backbone=dict(
            type='RelayTimmViT', arch='vit_small_patch14_reg4_dinov2',
            img_size=64, patch_size=8, out_indices=[1],
            timm_cfg=SMALL_TIMM),
        decode_head=LINEAR),
    'place': dict(
        backbone=VIT | ONE_LAYER | dict(relay_place='bias'),
        context_reductions=(8, ), decode_head=LINEAR),
    'swin_place': dict(
        backbone=ONE_STAGE | dict(type='RelaySwinV2', relay_place='bias'),
        context_reductions=(8, ),
        decode_head=LINEAR | dict(stride=4, in_channels=6)),
    'linear': dict(
        backbone=VIT | ONE_LAYER | dict(num_views=3), context_factors=(2, 4),
        relative_bands=(2, ), decode_head=LINEAR),
    'plain': dict(
        type='PlainEncoderDecoder',
        backbone=ONE_STAGE | dict(type='mmpretrain.SwinTransformerV2'),
        decode_head=LINEAR | dict(stride=4, in_channels=6)),
    'binary': dict(
        type='PlainEncoderDecoder',
        backbone=VIT | ONE_LAYER | dict(
            type='mmpretrain.VisionTransformer', with_cls_token=False,
            out_type='featmap'),
        decode_head=LINEAR | dict(
            num_classes=2, out_channels=1, threshold=0.3,
            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))),
}


def config_of(name):
    """Config of one of the models."""
    model = dict(
        type='RelayEncoderDecoder',
        test_cfg=dict(mode='slide', crop_size=(SIZE, SIZE), stride=(16, 16),
                      blend='gaussian', batch_size=3)) | MODELS_OF[name]
    return Config(dict(
        model=model,
        data_preprocessor=dict(
            type='ViewsDataPreprocessor', mean=MEAN, std=STD),
        test_dataloader=dict(dataset=dict(
            pipeline=[dict(type='ReadScene', bands=[1, 2, 3])]))))


def build_random(name):
    init_default_scope('mmseg')
    cfg = config_of(name)
    model = MODELS.build(model_config(cfg))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    model.eval()
    # Each class is somewhere the largest.
    views = tuple(torch.randn(4, 3, *size) for size in view_sizes(
        (SIZE, SIZE), model.contexts))
    with torch.no_grad():
        logits = model.window_logits(views)
        head = model.decode_head
        last = head.upsample if hasattr(head, 'upsample') else head.conv_seg
        last.bias -= logits.mean((0, 2, 3))
    model.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    model.cfg = cfg
    model.checkpoint_sha256 = 'abc'
    return model


@pytest.fixture(scope='session')
def random_model():
    """``random_model(name)``: one of ``MODELS_OF``, anew."""
    return build_random


def forget_masks(model):
    """As in a process that has done nothing yet."""
    for module in model.modules():
        if hasattr(module, '_kept'):
            module._kept.clear()
    for forget in FORGET:
        forget()


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """``exported(name)``: a model and its file, written once.

    As the first thing a process does: no mask or place is kept from before,
    and none of the trace may be kept after.
    """
    folder, done = tmp_path_factory.mktemp('exported'), {}

    def export(name):
        if name not in done:
            model, path = build_random(name), folder / f'{name}.onnx'
            forget_masks(model)
            if name in ('plain', 'binary'):
                export_deepness(model, path, resolution=50)
            else:
                export_onnx(model, path)
            done[name] = model, path
        return done[name]

    return export


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A config file, and a checkpoint that goes with it."""
    folder = tmp_path_factory.mktemp('trained')
    model = build_random('linear')
    config_of('linear').dump(folder / 'config.py')
    write_checkpoint(
        dict(state_dict=model.state_dict(),
             meta=dict(dataset_meta=model.dataset_meta)),
        folder / 'weights.pth')
    return folder / 'config.py', folder / 'weights.pth'


@pytest.fixture
def pixels():
    """``pixels(batch, contexts)``: views as files hold them, with no data."""

    def draw(batch, contexts):
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (MEAN, STD))
        drawn = [torch.randn(batch, len(MEAN), *size) * std + mean
                 for size in view_sizes((SIZE, SIZE), contexts)]
        drawn[0][:, :, :7] = torch.nan
        drawn[-1][0, 2] = torch.nan  # a band without a value
        return tuple(drawn)

    return draw
