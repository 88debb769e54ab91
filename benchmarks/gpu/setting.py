"""Models, views and labels of all parts, in full size or tiny."""
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import relay_seg.registered  # noqa: F401
from relay_seg.config import load_config
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.structures import label_field
from relay_seg.views import LOCAL, Context, Views, view_sizes

ROOT = Path(__file__).resolve().parents[2]
CLASSES, IGNORE = 5, 255
MEASURING = 5.  # seconds that one takes, at most
CONFIGS = {
    'RT-ViT-S': 'relay/rt_vit_s_dubai.py',
    'ViT-S': 'plain/vit_s_dubai.py',
    'RT-SwinV2-S': 'relay/rt_swin2_s_dubai.py',
    'SwinV2-S': 'plain/swin2_s_dubai.py',
    'RT-SwinV2-T': 'relay/rt_swin2_t_dubai.py',
    'RT-SegFormer-B0': 'relay/rt_segformer_b0_dubai.py',
    'RT-Lean-ViT-S': 'relay/rt_lean_vit_s_dubai.py',
    'RT-Lean-SwinV2-T': 'relay/rt_lean_swin2_t_dubai.py',
    'RT-DINOv3-S': 'relay/rt_dinov3_s_dubai.py',
}
#: Widths of feature maps of the tiny models, by kind of backbone.
TINY = dict(Timm=[384] * 4, ViT=[24] * 4, Swin=[12, 24, 48, 96],
            MiT=[8, 16, 40, 64])


@dataclass(frozen=True)
class Setting:
    """What a part is run with.

    Args:
        device: 'cuda' or 'cpu'.
        smoke: Everything tiny, to see whether it runs.
        scratch: Folder for what nobody needs afterwards.
        until: Seconds of the system's monotonic clock at which the part is
            ended.
    """
    device: str
    smoke: bool
    scratch: Path
    until: float = float('inf')

    @property
    def is_over(self) -> bool:
        """Whether the next measurement would be cut off."""
        return time.monotonic() > self.until - MEASURING

    @property
    def side(self) -> int:
        """Pixels of a window, along one axis."""
        return 64 if self.smoke else 256

    @property
    def backend(self) -> str:
        """Of torch.compile; the real one takes minutes on a CPU."""
        return 'eager' if self.smoke else 'inductor'


def config(setting: Setting, name: str) -> Config:
    """A config of this repository, tiny for a smoke run."""
    cfg = load_config(ROOT / 'configs' / CONFIGS[name],
                      window=[str(setting.side)])
    if setting.smoke:
        make_tiny(cfg.model)
    return cfg


def make_tiny(model: Config) -> None:
    """All widths and depths as small as they can be."""
    backbone, head = model.backbone, model.decode_head
    if 'Timm' in backbone.type:  # its sizes have names; the least wide
        kind = 'Timm'
        backbone.arch = 'vit_small_patch16_dinov3'
    elif 'patch_size' in backbone:
        kind = 'ViT'
        backbone.arch = dict(embed_dims=24, num_layers=4, num_heads=3,
                             feedforward_channels=48)
        backbone.out_indices = [0, 1, 2, 3]
        model.neck.embed_dim = 24
    elif 'window_size' in backbone:
        kind = 'Swin'
        backbone.arch = dict(embed_dims=12, depths=[1, 1, 2, 1],
                             num_heads=[1, 2, 3, 6],
                             extra_norm_every_n_blocks=0)
    else:
        kind = 'MiT'
        backbone.embed_dims, backbone.num_layers = 8, [1, 1, 1, 1]
    head.in_channels, head.channels = TINY[kind], 8


def build(cfg: Config, seed: int = 0) -> SlideEncoderDecoder:
    """A model with random weights, on the CPU, as prediction takes it."""
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmseg')
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.cfg = cfg
    return model.eval()


@torch.no_grad()
def show_everything(model: SlideEncoderDecoder, views: Views) -> None:
    """Let every parameter matter, and every class be predicted somewhere.

    LayerScale of 1e-4 and biases of zero would hide what stands behind them,
    and a class that random weights favour would hide all others.
    """
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.max() == parameter.min():
            parameter += 0.1 * torch.randn_like(parameter)
    bias = model.decode_head.conv_seg.bias
    bias -= model.window_logits(views).mean((0, 2, 3))


def random_views(setting: Setting, batch: int, contexts: Sequence[Context],
                 seed: int = 0) -> Views:
    """Normalised views on the CPU, fine noise on coarse fields."""
    generator = torch.Generator().manual_seed(seed)
    views = []
    for size in view_sizes((setting.side, setting.side), contexts):
        fields = torch.randn(batch, 3, *(side // 16 for side in size),
                             generator=generator)
        fields = fields.repeat_interleave(16, 2).repeat_interleave(16, 3)
        views.append(fields + 0.3 * torch.randn(
            batch, 3, *size, generator=generator))
    return tuple(views)


def random_labels(setting: Setting, batch: int,
                  contexts: Sequence[Context] = (), device: str = 'cpu',
                  seed: int = 0) -> list[SegDataSample]:
    """Labels of all views, in patches, with ignored rows."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_path='random'))
        for view, context in enumerate((LOCAL, *contexts)):
            cells = context.factor * setting.side // 16
            label = torch.randint(CLASSES, (1, cells, cells),
                                  generator=generator)
            label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
            label[:, :9] = IGNORE
            label = label.to(device, torch.uint8 if view else torch.int64)
            sample.set_data({label_field(view): PixelData(data=label)})
        samples.append(sample)
    return samples


def reset(device: str) -> None:
    """Leave nothing of a part to the next one; raises what a kernel did."""
    gc.collect()
    torch.compiler.reset()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = True
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def exactly() -> None:
    """Compute in float32 where it says float32, as a CPU does.

    By default convolutions on GPUs round to the 10 bits of TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance, in double precision on the CPU."""
    found, expected = (x.detach().cpu().double() for x in (found, expected))
    return float((found - expected).norm() / expected.norm())
