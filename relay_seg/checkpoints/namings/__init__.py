"""How libraries name the weights of the same backbones."""
from . import authors, mmpretrain, official, segformer, timm, timm_vit
from .naming import Naming, Weights

#: Tried from the top.
NAMINGS = (
    authors.VIT, authors.SWINV2,
    official.DEIT3, official.SWINV2,
    timm_vit.RELAY, timm_vit.DINOV2, timm_vit.DINOV3,
    timm_vit.HUGGING_DINOV2, timm_vit.HUGGING_DINOV3,
    timm.VIT, timm.SWINV2,
    mmpretrain.VIT, mmpretrain.SWINV2,
    mmpretrain.RELAY_VIT, mmpretrain.RELAY_SWINV2,
    segformer.OFFICIAL, segformer.MMSEG, segformer.RELAY,
    timm_vit.PLAIN,  # what timm.VIT knows too is taken for that
)


def find_naming(weights: Weights, source: str,
                family: str | None = None) -> Naming:
    """The naming of a backbone's weights.

    Args:
        weights: Without wrappers and prefixes.
        source: File, for the error.
        family: Of the model that they are for, which decides where weights
            fit several.
    """
    fit = [naming for naming in NAMINGS if naming.fits(weights)]
    for naming in (*(n for n in fit if n.family == family), *fit):
        return naming
    known = ', '.join(f'{n.family} of {n.name}' for n in NAMINGS)
    raise ValueError(
        f'{source} names its weights in no way known here, beginning with '
        f'{list(weights)[:5]}. Known are: {known}. Name the part of the file '
        'that holds the backbone as prefix=..., or rename its weights.')


__all__ = ['NAMINGS', 'Naming', 'Weights', 'find_naming']
