"""Pictures from inside trained models, on a real scene.

What relay tokens attend to in both views over depth; the errors that relay
tokens mend and those they cause; and the share of attention that image tokens
give to relay tokens, before training and after.
"""
from collections.abc import Callable
from pathlib import Path

import baselines  # noqa: F401
import numpy as np
import torch
from attention import attention
from experiments import PICTURED, SHOWN
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from torch import nn

import relay_seg.registered  # noqa: F401
from relay_seg.checkpoints import load_weights
from relay_seg.drawing import as_rgb, colour_label, panels
from relay_seg.rasters import open_raster
from relay_seg.views import Views, Window, cut_views, reader

#: Variants whose shares of attention are compared; 'sequential' alone runs
#: view by view, so that the recorder knows them apart.
COMPARED = 'ViT relay', 'SwinV2 relay', 'SwinV2 relay, relay bias zero'
FAMILIES = 'ViT', 'SwinV2'
WINDOWS = 16  # of a scene, for mean shares of attention
MENDED, CAUSED, BOTH = (0, 170, 0), (220, 0, 0), (60, 60, 60)


def load(folder: Path, trained: bool = True) -> tuple[nn.Module, Config]:
    """The model of a run in its folder; with the weights it started from,
    if not ``trained``."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(next(folder.glob('*.py')))
    torch.manual_seed(cfg.randomness.seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if trained:
        path = Path((folder / 'last_checkpoint').read_text().strip())
        load_weights(model, folder / path.name)
    return model.eval(), cfg


def scene_of(cfg: Config) -> tuple[np.ndarray, np.ndarray, list]:
    """First test scene: image (3, H, W), class ids (H, W), palette."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    info = dataset.get_data_info(0)
    with open_raster(info['img_path']) as image, open_raster(
            info['seg_map_path']) as label:
        return image.read(), label.read(1), dataset.metainfo['palette']


def normalised(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    return model.data_preprocessor.normalise([torch.from_numpy(image)])


def chosen_windows(label: np.ndarray, side: int) -> list[Window]:
    """Windows whose classes are mixed most, global views inside."""
    edge = 3 * side // 2  # k = 4
    tops, lefts = (range(edge, length - edge - side + 1, side)
                   for length in label.shape)

    def entropy(window: Window) -> float:
        part = label[window.top:window.top + side,
                     window.left:window.left + side]
        share = np.bincount(part[part != 255], minlength=1) / part.size
        share = share[share > 0]
        return float(-(share * np.log(share)).sum())

    windows = [Window(y, x, side, side) for y in tops for x in lefts]
    return sorted(windows, key=entropy, reverse=True)[:WINDOWS]


def views_of(model: nn.Module, scene: torch.Tensor,
             window: Window) -> Views:
    """Views (1, C, H, W) of a window of a normalised scene (1, C, H, W)."""
    return tuple(v[None] for v in cut_views(
        reader(scene[0], 0.), window, model.contexts))


def attention_shares(folder: Path) -> dict[str, list[float]]:
    """Share of image tokens' attention that relay tokens get, by block.

    Means over windows, of the local view; 'equal' is what they would get if
    all tokens got alike.
    """
    found = {}
    for name, trained in (('before', False), ('after', True)):
        model, cfg = load(folder, trained)
        image, label, _ = scene_of(cfg)
        scene = normalised(model, image)
        windows = chosen_windows(label, cfg.model.test_cfg.crop_size[0])
        blocks = [[a for a in attention(model.backbone, views_of(
            model, scene, w)) if a.view == 0] for w in windows]
        found[name] = np.mean(
            [[a.to_relay for a in one] for one in blocks], 0).tolist()
        found['equal'] = [a.equal for a in blocks[0]]
    return found


def draw_attention(folder: Path, out: Path) -> None:
    """Where relay tokens look, over depth, in both views of one window."""
    model, cfg = load(folder)
    image, label, _ = scene_of(cfg)
    window = chosen_windows(label, cfg.model.test_cfg.crop_size[0])[0]
    found = attention(model.backbone, views_of(
        model, normalised(model, image), window))
    read = reader(image.astype(np.float32), 0.)
    pictures = [as_rgb(v) for v in cut_views(
        read, window, model.contexts)]
    depth = len(found) // 2
    figure = Figure(figsize=(1.5 * (depth + 1), 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, depth + 1)
    for view, (axes, name) in enumerate(zip(rows, ('local', 'global'))):
        axes[0].imshow(pictures[view])
        axes[0].set_title(f'{name} view', fontsize=8)
        maps = [a.of_relay for a in found if a.view == view]
        for block, (ax, weights) in enumerate(zip(axes[1:], maps), start=1):
            ax.imshow(pictures[view].mean(-1), cmap='gray', extent=(0, 1, 1,
                                                                    0))
            ax.imshow(weights * weights.numel(), cmap='magma', alpha=0.75,
                      vmin=0, vmax=3, extent=(0, 1, 1, 0))
            ax.set_title(f'block {block}', fontsize=8)
        for ax in axes:
            ax.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=110)


def predict(folder: Path, image: np.ndarray) -> np.ndarray:
    model, _ = load(folder)
    with torch.no_grad():
        logits = model.slide_inference(normalised(model, image), [{}])
    return logits[0].argmax(0).numpy()


def draw_errors(plain: Path, relay: Path, out: Path) -> dict[str, float]:
    """Errors that relay tokens mend, and those they cause, on one scene.

    Returns:
        Shares of labelled pixels, in percent.
    """
    _, cfg = load(relay, trained=False)
    image, label, palette = scene_of(cfg)
    ids = [predict(folder, image) for folder in (plain, relay)]
    wrong = [(x != label) & (label != 255) for x in ids]
    masks = {'mended': wrong[0] & ~wrong[1], 'caused': wrong[1] & ~wrong[0],
             'both wrong': wrong[0] & wrong[1]}
    errors = np.full((*label.shape, 3), 255, np.uint8)
    for mask, colour in zip(masks.values(), (MENDED, CAUSED, BOTH)):
        errors[mask] = colour
    truth, *coloured = (colour_label(x, palette) for x in (label, *ids))
    panels([np.ascontiguousarray(x[::4, ::4]) for x in (
        as_rgb(image), truth, *coloured, errors)], [
        'scene', 'truth', 'plain', 'relay',
        'green: mended, red: caused, grey: both wrong']).save(
            out, quality=88)
    labelled = (label != 255).sum()
    return {name: 100 * float(mask.sum() / labelled)
            for name, mask in masks.items()}


def look(find: Callable[[str, str], Path], out: Path) -> dict:
    """All pictures and numbers.

    Args:
        find: Gives the folder in which a variant was trained on a task.
        out: Folder for pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = dict(shares={}, errors={})
    for family in FAMILIES:
        plain, relay = (find(f'{family} {x}', PICTURED)
                        for x in ('plain', 'relay'))
        draw_attention(relay, out / f'attention_{family}.png')
        found['errors'][family] = draw_errors(
            plain, relay, out / f'errors_{family}.jpg')
    for name in COMPARED:
        found['shares'][name] = attention_shares(find(name, SHOWN))
    return found
