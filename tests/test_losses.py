"""Losses against the authors' values, loops and the blackest batch."""
import copy

import golden_values as golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from test_tools import PLAIN, RELAY, ROOT

from relay_seg.heads import LinearHead
from relay_seg.losses import (
    AgreementLoss,
    CheckedCrossEntropyLoss,
    GlobalViewLoss,
)
from relay_seg.losses.global_view import soft_labels
from relay_seg.segmentors.head_losses import accuracy, head_losses
from relay_seg.structures import label_field
from relay_seg.views import LOCAL, Context, area_mean, center

CLASSES, K, IGNORE = 4, 4, 255
WIDE = Context(K, K)
WEIGHTS = [0.2, 1., 0., 7.5]


def local_loss(logits, label, **settings):
    """Cross-entropy of the local view as our configs set it."""
    loss = CheckedCrossEntropyLoss(avg_non_ignore=True, **settings)
    return loss(logits, label.long(), ignore_index=IGNORE)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def batch(height=16, width=24, dtype=torch.float64, share_ignored=0.1, k=K):
    """Local and global logits and labels; the centres of both agree."""
    shape = (2, CLASSES, height, width)
    local, wide = (torch.randn(shape, dtype=dtype).requires_grad_()
                   for _ in range(2))
    wide_label = torch.randint(CLASSES, (2, k * height, k * width))
    wide_label[torch.rand(wide_label.shape) < share_ignored / k**2] = IGNORE
    return local, wide, center(wide_label, k), wide_label


def naive_shares(label, num_classes, k):
    label = label.numpy()
    count, height, width = label.shape
    shares = np.zeros((count, num_classes, height // k, width // k))
    valid = np.ones((count, height // k, width // k), bool)
    for b in range(count):
        for y in range(height // k * k):
            for x in range(width // k * k):
                value = label[b, y, x]
                if value == IGNORE:
                    valid[b, y // k, x // k] = False
                else:
                    shares[b, value, y // k, x // k] += 1 / k**2
    return shares, valid


def naive_mean(logits, target, valid, divisor):
    """Cross-entropy of each valid cell, added up cell by cell."""
    logits, total = logits.detach().numpy(), 0.
    for b, y, x in np.argwhere(valid):
        z, t = logits[b, :, y, x], target[b, :, y, x]
        total -= (t * (z - np.log(np.exp(z).sum()))).sum()
    return total / divisor


# The authors' values


@pytest.mark.parametrize('name', ['loss_no_ignore', 'loss_ignore'])
@pytest.mark.parametrize('suffix, dtype, tolerance', [
    ('', torch.float32, 1e-5), ('64', torch.float64, 1e-9)])
def test_losses_and_gradients_are_the_authors(name, suffix, dtype, tolerance):
    theirs = golden.load(name)
    local = theirs['logits_local'].to(dtype).requires_grad_()
    wide = theirs['logits_global'].to(dtype).requires_grad_()
    label = theirs['target']
    ce = local_loss(local, label)
    context = GlobalViewLoss(
        0.1, extent='center', avg_non_ignore=False)(wide, label, WIDE)
    agree = AgreementLoss(0.1, mask_ignored=False)(local, wide, label, WIDE)
    total = ce + context + agree
    total.backward()

    for ours, key in ((ce, 'loss_ce'), (context * 10, 'loss_context'),
                      (agree * 10, 'loss_consistency'),
                      (total, 'loss_total')):
        value = theirs[key + suffix].item()
        assert ours.dtype == dtype
        assert ours.item() == pytest.approx(value, rel=tolerance, abs=0), key
    assert relative(
        local.grad, theirs['grad_logits_local' + suffix]) < tolerance
    assert relative(
        wide.grad, theirs['grad_logits_global' + suffix]) < tolerance


def test_the_authors_divisors_differ_from_ours_where_labels_are_ignored():
    theirs = golden.load('loss_ignore')
    wide, label = theirs['logits_global'], theirs['target']
    ours = GlobalViewLoss(1., 'center')(wide, label, WIDE)
    valid = soft_labels(label, CLASSES, K)[1]
    assert valid.float().mean() < 1
    assert (ours * valid.float().mean()).item() == pytest.approx(
        theirs['loss_context'].item(), rel=1e-5)


# Soft labels


@pytest.mark.parametrize('k', [1, 2, 3, 4])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_soft_labels_equal_a_loop(k, dtype):
    label = torch.randint(CLASSES, (2, 3 * k, 5 * k)).to(dtype)
    label[torch.rand(label.shape) < 0.05] = IGNORE
    shares, valid = soft_labels(label, CLASSES, k, dtype=torch.float64)
    expected, expected_valid = naive_shares(label, CLASSES, k)
    assert 0 < valid.float().mean() < 1
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-12)
    np.testing.assert_array_equal(valid.numpy(), expected_valid)


def test_shares_sum_to_one_exactly_where_nothing_is_ignored():
    label = torch.randint(CLASSES, (2, 16, 24))
    label[0, 5, 7] = IGNORE
    shares, valid = soft_labels(label, CLASSES, K)
    assert shares.dtype == torch.float32
    assert (shares.sum(1) == 1).equal(valid)
    assert (~valid).nonzero().tolist() == [[0, 1, 1]]


# Our divisors


@pytest.mark.parametrize('k', [3, 4])
@pytest.mark.parametrize('extent', ['full', 'center'])
@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_global_loss_equals_a_loop(k, extent, avg_non_ignore):
    _, wide, label, wide_label = batch(4 * k, 6 * k, k=k)
    loss = GlobalViewLoss(1., extent, avg_non_ignore)
    target_label = wide_label if extent == 'full' else label
    ours = loss(wide, target_label, Context(k, k))
    target, valid = naive_shares(target_label, CLASSES, k)
    assert 0 < valid.mean() < 1
    cells = wide if extent == 'full' else center(wide, k)
    divisor = valid.sum() if avg_non_ignore else valid.size
    assert ours.item() == pytest.approx(
        naive_mean(cells, target, valid, divisor), rel=1e-12)


@pytest.mark.parametrize('k', [3, 4])
@pytest.mark.parametrize('mask_ignored', [True, False])
def test_agreement_loss_equals_a_loop(k, mask_ignored):
    local, wide, label, _ = batch(4 * k, 6 * k, k=k)
    ours = AgreementLoss(1., mask_ignored)(
        local, wide, label, Context(k, k))
    valid = naive_shares(label, CLASSES, k)[1]
    assert 0 < valid.mean() < 1
    valid = valid if mask_ignored else np.ones_like(valid)
    target = area_mean(local.detach().softmax(1), k).numpy()
    assert ours.item() == pytest.approx(
        naive_mean(center(wide, k), target, valid, valid.sum()), rel=1e-12)


def test_weight_scales_the_loss_and_is_a_tenth_by_default():
    local, wide, label, wide_label = batch()
    for loss, given in ((GlobalViewLoss, (wide, wide_label, WIDE)),
                        (AgreementLoss, (local, wide, label, WIDE))):
        assert torch.allclose(loss()(*given) * 10, loss(1.)(*given))


def test_full_extent_looks_at_the_whole_global_label():
    _, wide, label, wide_label = batch(share_ignored=0.)
    changed = wide_label.clone()
    changed[:, 0, 0] = (changed[:, 0, 0] + 1) % CLASSES  # a far corner
    loss = GlobalViewLoss(extent='full')
    assert loss(wide, wide_label, WIDE) != loss(wide, changed, WIDE)
    loss(wide, wide_label, WIDE).backward()
    assert (wide.grad.abs().sum(1) > 0).all()


def test_center_extent_looks_at_the_middle_only():
    _, wide, label, _ = batch(share_ignored=0.)
    GlobalViewLoss(extent='center')(wide, label, WIDE).backward()
    touched = wide.grad.abs().sum(1) > 0
    assert center(touched, K).all()
    assert touched.sum() == center(touched, K).numel()


def test_full_extent_is_the_center_extent_of_equal_cells():
    # A scene that repeats: the far cells say the same as the middle ones.
    cell = torch.randint(CLASSES, (1, K, K))
    logits = torch.randn(1, CLASSES, 1, 1).expand(1, CLASSES, 16, 16)
    full = GlobalViewLoss(extent='full')(logits, cell.repeat(1, 16, 16), WIDE)
    middle = GlobalViewLoss(extent='center')(
        logits, cell.repeat(1, 4, 4), WIDE)
    assert torch.allclose(full, middle)


def test_agreement_moves_both_branches():
    local, wide, label, _ = batch(share_ignored=0.)
    AgreementLoss()(local, wide, label, WIDE).backward()
    assert (local.grad.abs().sum(1) > 0).all()
    assert (center(wide.grad, K).abs().sum(1) > 0).all()


def test_agreement_is_lowest_where_the_views_agree():
    local = torch.zeros(1, CLASSES, 8, 8)
    local[:, 1] = 20.
    label = torch.zeros(1, 8, 8, dtype=torch.long)
    costs = [AgreementLoss(1.)(local, local.roll(i, 1), label, WIDE).item()
             for i in range(CLASSES)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert min(costs[1:]) == pytest.approx(20, rel=1e-3)


def test_factor_one_is_the_ordinary_cross_entropy():
    local, wide, label, _ = batch()
    expected = torch.nn.functional.cross_entropy(
        wide, label, ignore_index=IGNORE)
    for extent in ('full', 'center'):
        ours = GlobalViewLoss(1., extent)(wide, label, LOCAL)
        assert torch.allclose(ours, expected)


# Ignored pixels


@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_ignored_cells_move_nothing(avg_non_ignore):
    local, wide, label, wide_label = batch()
    GlobalViewLoss(1., 'full', avg_non_ignore)(
        wide, wide_label, WIDE).backward()
    valid = soft_labels(wide_label, CLASSES, K)[1]
    assert (wide.grad.abs().sum(1) > 0).equal(valid)
    wide.grad = None
    AgreementLoss()(local, wide, label, WIDE).backward()
    valid = soft_labels(label, CLASSES, K)[1]
    assert (center(wide.grad, K).abs().sum(1) > 0).equal(valid)
    pixels = valid.repeat_interleave(K, 1).repeat_interleave(K, 2)
    assert (local.grad.abs().sum(1) > 0).equal(pixels)


@pytest.mark.parametrize('scale', [1., 1e4])
@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_a_batch_of_ignored_pixels_costs_exactly_zero(scale, avg_non_ignore):
    local = (torch.randn(2, CLASSES, 16, 16) * scale).requires_grad_()
    wide = (torch.randn(2, CLASSES, 16, 16) * scale).requires_grad_()
    label = torch.full((2, 16, 16), IGNORE)
    wide_label = torch.full((2, 64, 64), IGNORE, dtype=torch.uint8)
    losses = [
        local_loss(local, label),
        GlobalViewLoss(1., 'full', avg_non_ignore)(wide, wide_label, WIDE),
        GlobalViewLoss(1., 'center', avg_non_ignore)(wide, label, WIDE),
        AgreementLoss(1.)(local, wide, label, WIDE)
    ]
    assert [loss.item() for loss in losses] == [0, 0, 0, 0]
    sum(losses).backward()
    assert (local.grad == 0).all() and (wide.grad == 0).all()


def test_an_ignored_sample_does_not_count():
    local, wide, label, wide_label = batch(share_ignored=0.)
    label, wide_label = label.clone(), wide_label.clone()
    label[1], wide_label[1] = IGNORE, IGNORE
    for loss, both, first in (
        (GlobalViewLoss(), (wide, wide_label), (wide[:1], wide_label[:1])),
        (AgreementLoss(), (local, wide, label),
         (local[:1], wide[:1], label[:1]))):
        assert torch.allclose(loss(*both, WIDE), loss(*first, WIDE))


# Use


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_close(dtype):
    local, wide, label, wide_label = batch(64, 64, torch.float32)
    for loss, logits, target in (
        (GlobalViewLoss(1.), (wide, ), wide_label),
        (AgreementLoss(1.), (local, wide), label)):
        full = loss(*logits, target, WIDE)
        half = loss(*(x.detach().to(dtype) for x in logits), target, WIDE)
        assert half.item() == pytest.approx(full.item(), rel=0.05)


def test_losses_are_built_from_configs():
    loss = MODELS.build(
        dict(type='GlobalViewLoss', loss_weight=0.2, extent='center'))
    assert (loss.loss_weight, loss.extent) == (0.2, 'center')
    assert MODELS.build(dict(type='AgreementLoss')).mask_ignored


def test_unknown_extent_is_refused():
    with pytest.raises(ValueError, match="'middle'.*'full' or 'center'"):
        GlobalViewLoss(extent='middle')


@pytest.mark.parametrize('side', [6, 12])
def test_a_centre_between_pixels_is_refused(side):
    logits = torch.zeros(1, CLASSES, side, side)
    label = torch.zeros(1, side, side, dtype=torch.long)
    for loss, given in ((GlobalViewLoss(extent='center'), (logits, label)),
                        (AgreementLoss(), (logits, logits, label))):
        with pytest.raises(ValueError, match='multiples of 8'):
            loss(*given, WIDE)


def test_labels_of_the_wrong_extent_are_refused():
    _, wide, label, wide_label = batch()
    with pytest.raises((ValueError, RuntimeError)):
        GlobalViewLoss(extent='full')(wide, label, WIDE)
    with pytest.raises((ValueError, RuntimeError)):
        GlobalViewLoss(extent='center')(wide, wide_label, WIDE)


# Weights of classes


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_weighted_cross_entropy_is_pytorchs(dtype):
    local, _, label, _ = batch(dtype=dtype)
    ours = local_loss(local, label, class_weight=WEIGHTS, loss_weight=0.3)
    grad, = torch.autograd.grad(ours, local)
    theirs = 0.3 * F.cross_entropy(
        local, label, torch.tensor(WEIGHTS, dtype=dtype),
        ignore_index=IGNORE)
    expected, = torch.autograd.grad(theirs, local)
    assert (label == IGNORE).any()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(grad, expected)


def test_equal_weights_of_classes_change_nothing():
    local, wide, label, wide_label = batch()
    alike = dict(class_weight=[2.] * CLASSES)
    torch.testing.assert_close(
        local_loss(local, label, **alike), local_loss(local, label))
    torch.testing.assert_close(
        GlobalViewLoss(**alike)(wide, wide_label, WIDE),
        GlobalViewLoss()(wide, wide_label, WIDE))
    for mask in (True, False):
        torch.testing.assert_close(
            AgreementLoss(mask_ignored=mask, **alike)(
                local, wide, label, WIDE),
            AgreementLoss(mask_ignored=mask)(local, wide, label, WIDE))


@pytest.mark.parametrize('settings', [
    dict(), dict(class_weight=None), dict(reduction='sum'),
    dict(reduction='none', class_weight=WEIGHTS),
    dict(reduction='sum', class_weight=WEIGHTS),
    dict(avg_non_ignore=False, class_weight=WEIGHTS)])
def test_all_else_is_the_hosts(settings):
    local, _, label, _ = batch()
    settings = dict(avg_non_ignore=True) | settings
    ours, theirs = (
        loss(**settings)(local, label, ignore_index=IGNORE)
        for loss in (CheckedCrossEntropyLoss, CrossEntropyLoss))
    assert torch.equal(ours, theirs)


def test_weights_of_pixels_scale_the_cost_not_the_divisor():
    """As in the host without weights of classes."""
    local, _, label, _ = batch()
    pixels = (torch.rand(label.shape) < 0.3).double()
    loss = CheckedCrossEntropyLoss(avg_non_ignore=True, class_weight=WEIGHTS)
    ours = loss(local, label, weight=pixels, ignore_index=IGNORE)
    weights = torch.tensor(WEIGHTS, dtype=local.dtype)
    costs = F.cross_entropy(
        local, label, weights, ignore_index=IGNORE, reduction='none')
    expected = (costs * pixels).sum() / weights[label[label != IGNORE]].sum()
    torch.testing.assert_close(ours, expected)
    alike = CheckedCrossEntropyLoss(
        avg_non_ignore=True, class_weight=[1.] * CLASSES)
    torch.testing.assert_close(
        alike(local, label, weight=pixels, ignore_index=IGNORE),
        CrossEntropyLoss(avg_non_ignore=True)(
            local, label, weight=pixels, ignore_index=IGNORE))


def test_weighted_losses_of_certain_shares_are_pytorchs():
    """Where each cell shows one class; ignored cells do not count."""
    local, wide, _, _ = batch()
    cells = torch.randint(CLASSES, wide[:, 0].shape)
    cells[torch.rand(cells.shape) < 0.1] = IGNORE
    label = cells.repeat_interleave(K, 1).repeat_interleave(K, 2)
    weights = torch.tensor(WEIGHTS, dtype=wide.dtype)
    torch.testing.assert_close(
        GlobalViewLoss(1., class_weight=WEIGHTS)(wide, label, WIDE),
        F.cross_entropy(wide, cells, weights, ignore_index=IGNORE))
    middle = center(cells, K)
    label = middle.repeat_interleave(K, 1).repeat_interleave(K, 2)
    certain = 1e3 * F.one_hot(label.where(label != IGNORE, 0), CLASSES)
    torch.testing.assert_close(
        AgreementLoss(1., class_weight=WEIGHTS)(
            certain.movedim(-1, 1).double(), wide, label, WIDE),
        F.cross_entropy(
            center(wide, K), middle, weights, ignore_index=IGNORE))


@pytest.mark.parametrize('extent', ['full', 'center'])
def test_weighted_global_loss_equals_a_loop(extent):
    _, wide, label, wide_label = batch()
    target_label = wide_label if extent == 'full' else label
    ours = GlobalViewLoss(1., extent, class_weight=WEIGHTS)(
        wide, target_label, WIDE)
    target, valid = naive_shares(target_label, CLASSES, K)
    assert 0 < valid.mean() < 1
    cells = wide if extent == 'full' else center(wide, K)
    costs, total = -cells.detach().log_softmax(1).numpy(), [0., 0.]
    for b, y, x in np.argwhere(valid):
        for c, weight in enumerate(WEIGHTS):
            total[0] += weight * target[b, c, y, x] * costs[b, c, y, x]
            total[1] += weight * target[b, c, y, x]
    assert ours.item() == pytest.approx(total[0] / total[1], rel=1e-12)


def test_a_heavy_class_is_not_avoided_where_nothing_speaks_against_it():
    """A global view that knows nothing does not move the local one."""
    local, wide, label, _ = batch(share_ignored=0.)
    AgreementLoss(class_weight=[1., 1., 1., 50.])(
        local, torch.zeros_like(wide), label, WIDE).backward()
    assert local.grad.abs().max() < 1e-12


@pytest.mark.parametrize('weights', [WEIGHTS, [1., 1., 1., 1.]])
def test_weighted_losses_of_ignored_pixels_are_exactly_zero(weights):
    local = torch.randn(2, CLASSES, 16, 16, requires_grad=True)
    wide = torch.randn(2, CLASSES, 16, 16, requires_grad=True)
    label = torch.full((2, 16, 16), IGNORE)
    wide_label = torch.full((2, 64, 64), IGNORE, dtype=torch.uint8)
    losses = [
        local_loss(local, label, class_weight=weights),
        GlobalViewLoss(class_weight=weights)(wide, wide_label, WIDE),
        AgreementLoss(class_weight=weights)(local, wide, label, WIDE)
    ]
    assert [loss.item() for loss in losses] == [0, 0, 0]
    sum(losses).backward()
    assert (local.grad == 0).all() and (wide.grad == 0).all()


def test_a_batch_of_a_class_without_weight_costs_nothing():
    local, wide, label, wide_label = batch()
    assert WEIGHTS[2] == 0
    assert local_loss(local, torch.full_like(label, 2),
                      class_weight=WEIGHTS) == 0
    assert GlobalViewLoss(class_weight=WEIGHTS)(
        wide, torch.full_like(wide_label, 2), WIDE) == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_weighted_cross_entropy_counts_in_fp32(dtype):
    """The weights of a window do not fit in half precision."""
    logits = torch.randn(1, CLASSES, 256, 256)
    label = torch.randint(CLASSES, (1, 256, 256))
    half = local_loss(logits.to(dtype), label, class_weight=WEIGHTS)
    full = local_loss(logits.to(dtype).float(), label, class_weight=WEIGHTS)
    assert half.item() == pytest.approx(full.item(), rel=1e-6)


def test_weights_come_from_a_file(tmp_path):
    path = tmp_path / 'weights.json'
    path.write_text(str(WEIGHTS))
    local, wide, label, wide_label = batch()
    np.save(tmp_path / 'weights.npy', np.array(WEIGHTS))
    for file in (path, tmp_path / 'weights.npy'):
        assert local_loss(local, label, class_weight=str(file)) == (
            local_loss(local, label, class_weight=WEIGHTS))
        assert GlobalViewLoss(class_weight=str(file))(
            wide, wide_label, WIDE) == GlobalViewLoss(class_weight=WEIGHTS)(
                wide, wide_label, WIDE)


@pytest.mark.parametrize('weights', [
    [1., -1.], [1., float('nan')], [float('inf'), 1.], [0., 0.]])
def test_impossible_weights_are_refused(weights):
    for loss in (CheckedCrossEntropyLoss, GlobalViewLoss, AgreementLoss):
        with pytest.raises(ValueError, match='use finite numbers'):
            loss(class_weight=weights)


def test_weights_and_the_divisor_of_all_cells_are_refused():
    with pytest.raises(ValueError, match='leave out one of them'):
        GlobalViewLoss(avg_non_ignore=False, class_weight=WEIGHTS)


def test_a_wrong_number_of_weights_is_said_at_the_first_loss():
    local, wide, label, wide_label = batch()
    for loss, given in (
        (CheckedCrossEntropyLoss(class_weight=[1., 2.]), (local, label)),
        (GlobalViewLoss(class_weight=[1., 2.]), (wide, wide_label, WIDE)),
        (AgreementLoss(class_weight=[1., 2.]), (local, wide, label, WIDE))):
        with pytest.raises(ValueError, match=(
                f'{type(loss).__name__}.*2 weights.*4 classes')):
            loss(*given)


# In our configs


def build(path, head=(), **changes):
    """A model of a config, with a head of few channels."""
    cfg = Config.fromfile(ROOT / path)
    init_default_scope('mmseg')
    cfg.merge_from_dict(copy.deepcopy(dict(model=dict(
        decode_head=dict(channels=8, **dict(head)), **changes))))
    return MODELS.build(cfg.model)


def losses_of(model):
    contexts = (LOCAL, *model.contexts)
    samples = []
    for _ in range(2):
        sample = SegDataSample()
        for i, (factor, _) in enumerate(contexts):
            label = torch.randint(5, (1, 128 * factor, 128 * factor))
            label[torch.rand(label.shape) < 0.2 / factor**2] = IGNORE
            sample.set_data({label_field(i): PixelData(data=label)})
        samples.append(sample)
    views = tuple(torch.randn(2, 3, 128, 128) for _ in contexts)
    losses = model.loss(views, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters()
               if p.grad is not None)
    return losses


FIVE = [1., 2., 3., 4., 5.]
HARD = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)


LOSSES = {
    'weights': dict(loss_decode=dict(class_weight=FIVE)),
    'hard pixels': dict(sampler=HARD),
    'hard pixels, most loss': dict(
        sampler=dict(type='OHEMPixelSampler', min_kept=100)),
    'hard pixels, weights': dict(
        sampler=HARD, loss_decode=dict(class_weight=FIVE)),
    'dice': dict(loss_decode=dict(
        _delete_=True, type='DiceLoss', use_sigmoid=False)),
    'lovasz': dict(loss_decode=dict(
        _delete_=True, type='LovaszLoss', reduction='none',
        class_weight=FIVE)),
    'two of one name': dict(loss_decode=[dict(
        type='CheckedCrossEntropyLoss', avg_non_ignore=True)] * 2),
}


@pytest.mark.parametrize('path', [PLAIN, RELAY], ids=['plain', 'relay'])
@pytest.mark.parametrize('name', LOSSES)
def test_other_losses_train_in_our_configs(path, name):
    losses = losses_of(build(path, LOSSES[name]))
    names = dict(dice='loss_dice', lovasz='loss_lovasz')
    assert losses[f'decode.{names.get(name, "loss_ce")}'] > 0


@pytest.mark.parametrize('share', [0., 0.3, 1.])
@pytest.mark.parametrize('name', [*LOSSES, 'usual'])
def test_losses_of_heads_are_the_hosts(name, share):
    """Of logits that are smaller than the label; share is ignored."""
    head = build(PLAIN, LOSSES.get(name, {})).decode_head
    label = torch.randint(5, (2, 1, 32, 48))
    label[torch.rand(label.shape) < share] = IGNORE
    samples = [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in label]
    logits = torch.randn(2, 5, 8, 12)
    ours = head_losses(head, logits, samples)
    theirs = head.loss_by_feat(logits, samples)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(
            ours[key], value.squeeze(), rtol=1e-6, atol=1e-6)


def test_a_head_with_losses_of_its_own_keeps_them():

    class Own(LinearHead):

        def loss_by_feat(self, seg_logits, batch_data_samples):
            return dict(loss_own=seg_logits.sum())

    head = Own(stride=1, in_channels=3, num_classes=5,
               loss_decode=dict(type='CheckedCrossEntropyLoss'))
    logits = torch.ones(1, 5, 2, 2)
    assert head_losses(head, logits, []) == dict(loss_own=20.)


def test_weights_of_classes_are_copied_once():
    """And again for another type."""
    loss = CheckedCrossEntropyLoss(avg_non_ignore=True, class_weight=WEIGHTS)
    local, _, label, _ = batch()
    loss(local, label, ignore_index=IGNORE)
    kept = loss.kept_weights
    loss(local, label, ignore_index=IGNORE)
    assert loss.kept_weights is kept and kept.dtype == torch.float64
    loss(local.float(), label, ignore_index=IGNORE)
    assert loss.kept_weights.dtype == torch.float32
    assert not loss.state_dict()


def test_several_losses_in_a_config_of_ours():
    cfg = Config.fromfile(ROOT / RELAY)
    kept = cfg.model.decode_head.loss_decode | dict(class_weight=FIVE)
    losses = losses_of(build(RELAY, dict(loss_decode=[
        kept, dict(type='DiceLoss', use_sigmoid=False, loss_weight=0.5)])))
    assert {'decode.loss_ce', 'decode.loss_dice', 'loss_global',
            'loss_agree'} <= losses.keys()


def test_a_wrong_number_of_weights_is_said_when_a_relay_model_is_built():
    for changes in (dict(head=dict(loss_decode=dict(class_weight=[1.]))),
                    dict(loss_global=dict(
                        type='GlobalViewLoss', class_weight=[1.])),
                    dict(loss_agree=dict(
                        type='AgreementLoss', class_weight=[1.]))):
        with pytest.raises(ValueError, match='1 weights.*5 classes'):
            build(RELAY, **changes)


# One logit of two classes


def one_logit(**settings):
    local, wide, label, wide_label = batch(**settings)
    wide_label = torch.where(wide_label == IGNORE, IGNORE, wide_label % 2)
    return (local[:, :1].detach().requires_grad_(),
            wide[:, :1].detach().requires_grad_(),
            center(wide_label, K), wide_label)


@pytest.mark.parametrize('weights', [None, [1., 5.]])
def test_one_logit_learns_as_two_do(weights):
    local, wide, label, wide_label = one_logit()

    def two(x):
        return torch.cat([torch.zeros_like(x), x], dim=1)

    for ours, theirs in (
            (GlobalViewLoss(class_weight=weights)(wide, wide_label, WIDE),
             GlobalViewLoss(class_weight=weights)(
                 two(wide), wide_label, WIDE)),
            (AgreementLoss(class_weight=weights)(local, wide, label, WIDE),
             AgreementLoss(class_weight=weights)(
                 two(local), two(wide), label, WIDE))):
        assert ours > 0 and ours.item() == pytest.approx(theirs.item())
        assert torch.autograd.grad(ours, wide)[0].abs().sum() > 0


@pytest.mark.parametrize('weights', [None, [5.]])
def test_binary_cross_entropy_is_the_hosts(weights):
    local, _, label, _ = one_logit(share_ignored=2.)
    assert (label == IGNORE).any()
    settings = dict(use_sigmoid=True, class_weight=weights)
    theirs = CrossEntropyLoss(avg_non_ignore=True, **settings)(
        local, label.long(), ignore_index=IGNORE)
    assert local_loss(local, label, **settings).item() == pytest.approx(
        theirs.item())
    nothing = local_loss(local, torch.full_like(label, IGNORE), **settings)
    nothing.backward()
    assert nothing == 0 and not local.grad.any()


def test_one_logit_needs_a_sigmoid():
    local, _, label, _ = one_logit()
    with pytest.raises(ValueError, match='out_channels=1.*use_sigmoid=True'):
        local_loss(local, label)


def test_the_log_counts_one_logit_by_its_threshold():
    local = torch.tensor([-3., -0.5, 0.5, 3.])[None, None, None]
    label = torch.tensor([0, 1, 1, 0])[None, None]
    assert accuracy(local, label, IGNORE, 0.3) == pytest.approx(75)
    assert accuracy(local, label, IGNORE, 0.5) == pytest.approx(50)
