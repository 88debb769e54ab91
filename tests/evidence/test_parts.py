"""What the experiments add to the library does what its name says."""
import copy
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from ablations import ScaledBiasSwinV2, SeparateViT, offer_fusions
from attention import attention
from baselines import DecisionFusion, GlobalOnly, Reduced
from experiments import EXPERIMENTS
from markdown.extensions.toc import slugify
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from plots import bits_of
from puzzle import BACKBONES, KINDS, Puzzle, Trial, passed, solve
from report import (
    DOCS,
    make_table,
    page,
    results_of,
    take_over,
    write_experiment,
    write_page,
)
from runs import Budget
from tables import best_rate, interval, paired

from relay_seg.relay import FUSIONS

SWIN = BACKBONES['SwinV2'] | dict(in_channels=3)
VIT = BACKBONES['ViT'] | dict(in_channels=3)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')
    offer_fusions()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, 2, 3, 32, 32, generator=generator))


def local_output(model, given):
    return model.eval()(given)[0][-1]


def build(base, **options):
    model = MODELS.build(base | options)
    model.init_weights()
    return model


@pytest.mark.parametrize('base', [VIT, SWIN], ids=['vit', 'swin'])
def test_views_apart_do_not_see_each_other(base):
    model = build(base, fusion='apart')
    a, b = views(), views(1)
    mixed = local_output(model, (a[0], b[1]))
    assert torch.equal(local_output(model, a), mixed)
    assert not torch.equal(local_output(model, (b[0], a[1])), mixed)


@pytest.mark.parametrize('base', [VIT, SWIN], ids=['vit', 'swin'])
@pytest.mark.parametrize('fusion', ['sequential', 'mean', 'local_first'])
def test_other_fusions_bring_the_global_view(base, fusion):
    model = build(base, fusion=fusion)
    a, b = views(), views(1)
    assert not torch.equal(
        local_output(model, a), local_output(model, (a[0], b[1])))


def test_local_first_is_one_block_late():
    def block(x, relay):
        return x + relay.sum(1, keepdim=True), relay + x.sum(1, keepdim=True)

    local, wide = torch.rand(2, 1, 3, 4)
    relay = torch.rand(1, 2, 4)
    fused = FUSIONS['local_first'](
        [block] * 2, (local, wide), relay, False)[0][0]
    assert torch.equal(fused, block(local, relay)[0])


def test_separate_blocks_start_as_copies_and_part():
    settings = {k: v for k, v in VIT.items() if k != 'type'}
    torch.manual_seed(0)
    model = SeparateViT(**settings)
    model.init_weights()
    shared = build(VIT)
    shared.load_state_dict({k: v for k, v in model.state_dict().items()
                            if 'of_global_view' not in k})
    a = views()
    for x, y in zip(model.eval()(a), shared.eval()(a)):
        torch.testing.assert_close(x[-1], y[-1])
    before = local_output(model, a)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'of_global_view' in name:
                p.add_(torch.randn_like(p))
    assert not torch.allclose(local_output(model, a), before)


@pytest.mark.parametrize('kind, base', [
    ('SharedStemViT', VIT), ('SharedStemSwinV2', SWIN)], ids=['vit', 'swin'])
def test_shared_stem_is_one(kind, base):
    model = build(base, type=kind)
    same = views()[0]
    model.fusion = 'mean'  # all views alike: only stems could differ
    local, wide = model.eval()((same, same))
    assert torch.equal(local[-1], wide[-1])
    plain = sum(p.numel() for p in build(base, num_views=1).parameters())
    assert sum(p.numel() for p in model.parameters()) == plain


def test_scaled_bias_of_one_changes_nothing_and_of_four_does():
    settings = {k: v for k, v in SWIN.items() if k != 'type'}
    torch.manual_seed(0)
    model = ScaledBiasSwinV2(wider=1, **settings)
    shared = build(SWIN)
    shared.load_state_dict(model.state_dict())
    a = views()
    torch.testing.assert_close(
        local_output(model, a), local_output(shared, a))
    block = model.stages[0].blocks[0]
    with torch.no_grad():
        near = block.bias_of_wide_view((8, 8), 4)
        block.wider = 4
        far = block.bias_of_wide_view((8, 8), 4)
    assert not torch.allclose(near, far)
    # As the host's blocks would have it, were tokens four steps apart.
    msa = block.attn.w_msa
    span = torch.arange(1 - 4, 4) * 4 * 8 / 3  # steps of a window of 4 tokens
    rows, columns = torch.meshgrid(span, span, indexing='ij')
    steps = torch.stack((rows, columns), -1)[None]
    msa.relative_coords_table = steps.sign() * torch.log2(
        steps.abs() + 1) / np.log2(8)
    with torch.no_grad():
        torch.testing.assert_close(block._attention_bias((8, 8), 4), far)


def segmentor(kind, **options):
    torch.manual_seed(0)
    return kind(
        **options, backbone=dict(
            type='mmpretrain.SwinTransformerV2', img_size=32, window_size=4,
            arch=SWIN['arch'], out_indices=[1], drop_path_rate=0.,
            pretrained_window_sizes=[0, 0]),
        decode_head=dict(
            type='FCNHead', in_channels=32, channels=8, num_classes=3,
            num_convs=1, in_index=0, dropout_ratio=0.)).eval()


def test_global_only_looks_at_nothing_else():
    model = segmentor(GlobalOnly, context_factors=(4, ))
    a, b = views(), views(1)
    with torch.no_grad():
        logits = model.window_logits(a)
        assert logits.shape == (2, 3, 32, 32)
        assert torch.equal(logits, model.window_logits((b[0], a[1])))
        assert not torch.equal(logits, model.window_logits((a[0], b[1])))


def test_decision_fusion_adds_what_each_view_says():
    model = segmentor(DecisionFusion, context_factors=(4, ))
    a, b = views(), views(1)
    with torch.no_grad():
        aa, ab, ba, bb = (model.window_logits((x[0], y[1]))
                          for x in (a, b) for y in (a, b))
    torch.testing.assert_close(aa + bb, ab + ba)
    assert not torch.allclose(aa, ab) and not torch.allclose(aa, ba)


def test_reduced_images_of_any_size_stay_in_place():
    model = segmentor(Reduced, factor=4)
    image = torch.rand(1, 3, 70, 100)
    padded = torch.nn.functional.pad(image, (0, 28, 0, 58), mode='replicate')
    with torch.no_grad():
        logits = model.window_logits((image, ))
        whole = model.window_logits((padded, ))
    assert logits.shape[-2:] == (70, 100)
    assert torch.equal(logits, whole[..., :70, :100])


@pytest.mark.parametrize('factor, cells', [(2, 1), (4, 1), (8, 1), (4, 2),
                                           (4, 4)])
def test_neither_view_of_a_puzzle_tells_alone(factor, cells):
    puzzle = Puzzle(factor=factor, cells=cells, noise=0.)
    (local, wide), label = puzzle.draw(16, torch.Generator().manual_seed(0))
    assert label.shape == (16, 32, 32)
    assert local.abs().min() == 1  # stripes everywhere, no cue on them
    inner = (32 - 32 // factor) // 2
    middle = wide[..., inner:32 - inner, inner:32 - inner]
    assert (middle == 0).all()  # no stripes
    assert (wide.flatten(1).abs().max(1)[0] > 0.1).all()  # the cues


def test_bits():
    assert passed(1.) == 1 and passed(0.5) == 0
    assert passed(0.3) == 0  # no better than chance
    assert passed(0.89) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize('kind', KINDS)
def test_a_trial_runs(kind):
    trial = Trial('x', 'ViT', kind, passes=2.)
    found = solve(trial, seed=0, steps=10, device='cpu')
    assert 0 <= found['accuracy'] <= 1 and 0 <= found['bits'] <= 1
    assert found['steps'] == 20


def test_cues_must_fit_beside_the_window():
    with pytest.raises(ValueError, match='larger factor'):
        Puzzle(factor=2, cells=4)
    Puzzle(factor=2, cells=2), Puzzle(factor=4, cells=4)


@pytest.mark.parametrize('base', [VIT, SWIN], ids=['vit', 'swin'])
def test_attention_is_found_where_it_was_put(base):
    model = build(base)
    given = tuple(v[:1] for v in views())
    found = attention(model, given)
    depth = 3 if base is VIT else 4
    assert [a.view for a in found] == [1, 0] * depth
    for a in found:
        assert a.of_relay.sum() == pytest.approx(1, abs=1e-5)
        assert 0 < a.to_relay < 1
    # Equal attention everywhere gives relay tokens their equal share.
    with torch.no_grad():
        flat = copy.deepcopy(model)
        for name, p in flat.named_parameters():
            if 'qkv' in name or 'logit_scale' in name or 'cpb_mlp' in name:
                p.mul_(0)
            if 'logit_scale' in name:
                p.fill_(-30.)
    for a in attention(flat, given):
        assert a.to_relay == pytest.approx(a.equal, abs=1e-4)


def a_run(variant, task, seed, miou):
    test = dict(metrics=dict(mIoU=miou), seconds=1.,
                classes=[dict([('class', 'soil'), ('IoU', miou)])])
    return dict(variant=variant, task=task, seed=seed, lr=1e-3,
                train_seconds=1., train_flops=1e12, parameters=10**6,
                tests={'overlap 0, mean': test})


def test_rates_are_judged_by_all_seeds():
    assert best_rate({1e-3: [9., 1.], 2e-3: [6., 6.], 4e-3: [5., 6.]}) == 2e-3


def test_report_pairs_seeds(tmp_path):
    plain = [a_run('SwinV2 plain', 'dubai', i, m)
             for i, m in enumerate((50., 60., 70.))]
    relay = [a_run('SwinV2 relay', 'dubai', i, m)
             for i, m in enumerate((52., 62., 72.))]
    assert paired(relay[::-1], plain) == [2., 2., 2.]
    middle, half = interval([1., 2., 3.])
    assert middle == 2 and half == pytest.approx(2.484, abs=1e-3)
    # Tasks share seeds: a seed counts once.
    other = [a_run('SwinV2 relay', 'carrot last', i, 50.) for i in range(3)]
    twin = [a_run('SwinV2 plain', 'carrot last', i, 44.) for i in range(3)]
    assert paired(relay + other, plain + twin) == [4., 4., 4.]
    results = dict(facts={}, runs=plain + relay)
    write_experiment(tmp_path, 'main', results)
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert any('SwinV2 relay | 62.0 ± 10.0 | +2.0 ± 0.0' in x for x in lines)
    more = [a_run('SwinV2 plain, trained twice as long', 'dubai', i, m)
            for i, m in enumerate((53., 63., 73.))]
    text = make_table('main', plain + relay + more)
    assert '| SwinV2 relay | 62.0 ± 10.0 | +2.0 ± 0.0 | -1.0 ± 0.0' in text
    assert (tmp_path / 'plot.png').stat().st_size > 1000
    assert json.loads((tmp_path / 'results.json').read_text()) == results


def test_puzzles_are_drawn_with_their_bits(tmp_path):
    names = {2: '4 cues, R = 2', 16: '16 cues, R = 16'}
    runs = [dict(family=family, name=name, kind='relay', seed=seed,
                 accuracy=0.5, bits=number / 2, seconds=1.)
            for number, name in names.items() for seed in range(2)
            for family in ('ViT', 'SwinV2')]
    assert bits_of('graded', runs) == {4: {2: [1., 1.]}, 16: {16: [8., 8.]}}
    write_experiment(tmp_path, 'graded', dict(facts={}, runs=runs))
    assert '4 cues, R = 2 | ViT | 50.0 ± 0.0' in (
        tmp_path / 'table.md').read_text()
    assert (tmp_path / 'plot.png').stat().st_size > 1000


def test_the_page_is_what_the_results_give():
    assert (DOCS / 'evidence_tables.md').read_text() == page(), (
        'run python benchmarks/evidence/report.py')


def test_results_are_taken_over_small_and_drawn_anew(tmp_path):
    runs = [a_run(f'SwinV2 {x}', 'dubai', 0, 50.) for x in ('plain', 'relay')]
    budget = asdict(Budget(2, 8, 32, 2, 'fp32'))
    results = dict(facts=dict(machine='m', workers=1, seeds=1, budget=budget,
                              rates={}), runs=runs)
    work, docs = tmp_path / 'work', tmp_path / 'docs'
    write_experiment(work / 'main', 'main', results)
    take_over(work, docs)
    kept = docs / 'evidence/main.json.gz'
    first = kept.read_bytes()
    assert len(first) < (work / 'main/results.json').stat().st_size / 2
    (work / 'main/plot.png').unlink()  # results are enough
    take_over(work, docs)
    write_page(docs)
    assert kept.read_bytes() == first
    assert (docs / 'images/evidence/main.png').stat().st_size > 1000
    text = (docs / 'evidence_tables.md').read_text()
    assert 'SwinV2 relay | 50.0 | +0.0' in text
    assert '`longer`' in text.split('## Not run yet')[1]


def test_every_experiment_with_results_is_in_the_conclusions():
    """What docs/evidence.md says by hand leaves no experiment out."""
    text = (DOCS / 'evidence.md').read_text()
    linked = set(re.findall(r'evidence_tables\.md#([\w-]+)', text))
    titles = {e.title for name, e in EXPERIMENTS.items()
              if results_of(name, DOCS)}
    assert linked == {slugify(t, '-') for t in titles | {'Inside'}}
