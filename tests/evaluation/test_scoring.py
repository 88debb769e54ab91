"""Predictions of any size compared with the truth, whole and by area."""
import csv
import json
import runpy
import sys

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from test_loops import runner_of
from test_tools import ROOT

from relay_seg.evaluation import scoring
from relay_seg.evaluation.report import means
from relay_seg.evaluation.scoring import (
    Count,
    Counts,
    Score,
    count_raster,
    score_prediction,
    write_scores,
)
from relay_seg.inference import predict_raster
from relay_seg.rasters import Grid, is_prediction

NAMES = 'a', 'b', 'c'
PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 1_500_000)
GRID = Grid(40, 60, rasterio.CRS.from_epsg(32648), PLACE)


@pytest.fixture
def write(tmp_path):
    """``write(name, ids, grid=GRID, ...)``: a raster of ids."""

    def one(name, ids, grid=GRID, **options):
        path = tmp_path / name
        with rasterio.open(
                path, 'w', driver='GTiff', count=1, height=ids.shape[0],
                width=ids.shape[1], crs=grid.crs, transform=grid.transform,
                **dict(dtype=ids.dtype, nodata=None) | options) as raster:
            raster.write(ids[None])
        return path

    return one


@pytest.fixture
def pair():
    """Prediction and truth, with 255 in both."""
    rng = np.random.default_rng(0)
    ids, truth = rng.integers(0, 3, (2, *GRID.shape)).astype(np.uint8)
    ids[:3], truth[:, :5], truth[2, 7] = 255, 255, 0
    return ids, truth


def by_hand(ids, truth):
    both = (ids != 255) & (truth != 255)
    found = np.zeros((3, 3), np.int64)
    np.add.at(found, (truth[both], ids[both]), 1)
    return found


def test_blocks_add_up(pair, write, monkeypatch):
    ids, truth = pair
    score = Score(write('truth.tif', truth), NAMES, GRID)
    monkeypatch.setattr(scoring, 'SIDE', 7)
    counts = count_raster(write('ids.tif', ids, nodata=255), score)
    np.testing.assert_array_equal(counts.whole.matrix, by_hand(*pair))
    assert counts.whole.ignored == (truth == 255).sum()
    assert counts.whole.unpredicted == 3 * 55
    assert (counts.whole.matrix.sum() + counts.whole.ignored
            + counts.whole.unpredicted) == ids.size


@pytest.mark.parametrize('top, left', [(5, 8), (-6, -9), (30, 50)])
def test_a_truth_of_a_part(pair, write, top, left):
    """Elsewhere, it is not known."""
    ids, truth = pair
    part = truth[::-1, ::-1]
    path = write('truth.tif', part, Grid(
        *GRID.shape, GRID.crs, PLACE @ Affine.translation(left, top)))
    there = np.full((100, 160), 255, np.uint8)
    there[30 + top:70 + top, 50 + left:110 + left] = part
    counts = Score(path, NAMES, GRID).count(ids, 0, 0)
    np.testing.assert_array_equal(
        counts.whole.matrix, by_hand(ids, there[30:70, 50:110]))


@pytest.mark.parametrize('down, right', [(-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize('top, left', [(0, 0), (5, 8), (-6, -9)])
def test_a_truth_upside_down(pair, write, monkeypatch, down, right, top,
                             left):
    """With the south at the top, as some files have it."""
    ids, truth = pair
    turned = Grid(*GRID.shape, GRID.crs, PLACE @ Affine.translation(
        left + 60 * (right < 0), top + 40 * (down < 0)
    ) @ Affine.scale(right, down))
    path = write('truth.tif', truth[::down, ::right], turned)
    there = np.full((100, 160), 255, np.uint8)
    there[30 + top:70 + top, 50 + left:110 + left] = truth
    monkeypatch.setattr(scoring, 'SIDE', 17)
    found = count_raster(
        write('ids.tif', ids, nodata=255), Score(path, NAMES, GRID))
    np.testing.assert_array_equal(
        found.whole.matrix, by_hand(ids, there[30:70, 50:110]))


@pytest.mark.parametrize('options', [
    dict(nodata=2), dict(nodata=2., dtype='float32'), dict(reduce=True)])
def test_what_a_truth_does_not_know(pair, write, options):
    ids, truth = pair
    options = dict(options)
    reduce = options.pop('reduce', False)
    path = write('truth.tif', truth, **options)
    expected = truth.copy()
    if reduce:
        expected[truth < 255] -= 1  # 0 becomes 255
    else:
        expected[truth == 2] = 255
    counts = Score(path, NAMES, GRID, reduce_zero_label=reduce).count(
        ids, 0, 0)
    np.testing.assert_array_equal(
        counts.whole.matrix, by_hand(ids, expected))


def test_a_truth_that_does_not_fit(pair, write):
    ids, truth = pair
    truth[30, 40] = 9
    with pytest.raises(ValueError, match=r'odd.tif holds ids \[9\]'):
        Score(write('odd.tif', truth), NAMES, GRID).count(ids, 0, 0)
    coarse = Grid(40, 60, GRID.crs, PLACE @ Affine.scale(2))
    shifted = Grid(40, 60, GRID.crs, PLACE @ Affine.translation(.3, 0))
    zone = Grid(40, 60, rasterio.CRS.from_epsg(32647), PLACE)
    for grid in (coarse, shifted, zone):
        with pytest.raises(ValueError, match=(
                'other.tif.*-te 400000.0 1499980.0 400030.0 1500000.0 '
                '-ts 60 40')):
            Score(write('other.tif', truth, grid), NAMES, GRID)
    away = Grid(40, 60, GRID.crs, PLACE @ Affine.translation(60, 0))
    with pytest.raises(ValueError, match='away.tif.*do not overlap'):
        Score(write('away.tif', truth, away), NAMES, GRID)
    with pytest.raises(ValueError, match='rgb.tif has 3 bands'):
        with rasterio.open(write('rgb.tif', truth)) as raster:
            profile = raster.profile | dict(count=3)
        path = write('rgb.tif', truth)
        with rasterio.open(path, 'w', **profile) as raster:
            raster.write(np.stack([truth] * 3))
        Score(path, NAMES, GRID)


@pytest.fixture
def areas(tmp_path):
    """Two squares of one name that overlap, a triangle, and one far away;
    in degrees."""
    shapes = [shapely.box(10, 10, 22, 22), shapely.box(20, 20, 30.2, 33),
              shapely.Polygon([(40.1, 2.3), (59.2, 8.1), (45.4, 39.3)]),
              shapely.box(900, 900, 950, 950)]

    def degrees(xy):
        return np.column_stack(rasterio.warp.transform(
            GRID.crs, 'EPSG:4326', *(PLACE @ tuple(xy.T))))

    path = tmp_path / 'areas.gpkg'
    pyogrio.raw.write(
        path, shapely.to_wkb(shapely.transform(shapes, degrees)),
        [np.array(['x', 'x', 'y', 'z'], object)], ['parish'],
        geometry_type='Polygon', crs='EPSG:4326')
    return path, shapes


def test_areas_are_scored_one_by_one(pair, write, areas, monkeypatch,
                                     tmp_path):
    ids, truth = pair
    path, shapes = areas
    score = Score(write('truth.tif', truth), NAMES, GRID, areas=path,
                  area_column='parish')
    monkeypatch.setattr(scoring, 'SIDE', 9)
    counts = count_raster(write('ids.tif', ids, nodata=255), score)
    assert sorted(counts.areas) == ['x', 'y']
    for name, own in (('x', shapes[:2]), ('y', shapes[2:3])):
        inside = rasterio.features.rasterize(own, GRID.shape).astype(bool)
        expected = by_hand(ids, np.where(inside, truth, 255))
        np.testing.assert_array_equal(counts.areas[name].matrix, expected)
        assert counts.areas[name].ignored == (inside & (truth == 255)).sum()

    out = tmp_path / 'ids_scores.json'
    write_scores(out, counts, score)
    assert is_prediction(out) and is_prediction(out.with_suffix('.csv'))
    found = json.loads(out.read_text())
    assert found['confusion'] == counts.whole.matrix.tolist()
    assert found['metrics'] == pytest.approx(means(counts.whole.matrix))
    with out.with_suffix('.csv').open() as table:
        whole, *lines = csv.DictReader(table)
    assert [line['area'] for line in lines] == ['x', 'y']
    assert [x['area'] for x in found['areas']] == ['x', 'y']
    assert float(lines[1]['mIoU']) == pytest.approx(
        means(counts.areas['y'].matrix)['mIoU'])
    assert float(whole['IoU/b']) == pytest.approx(found['classes'][1]['IoU'])
    assert int(whole['unpredicted']) == found['unpredicted'] == 3 * 55


def test_areas_have_names(write, pair, areas):
    path, _ = areas
    truth = write('truth.tif', pair[1])
    score = Score(truth, NAMES, GRID, areas=path)
    assert sorted(score.count(pair[0], 0, 0).areas) == ['1', '2', '3']
    with pytest.raises(ValueError, match=r"areas.gpkg.*town.*\['parish'\]"):
        Score(truth, NAMES, GRID, areas=path, area_column='town')
    away = Grid(40, 60, GRID.crs, PLACE @ Affine.translation(9e3, 0))
    with pytest.raises(ValueError, match='areas.gpkg has no polygon'):
        Score(write('away.tif', pair[1], away), NAMES, away, areas=path)


def test_nothing_that_counts_is_null(write, tmp_path):
    """No number is made up, in a form that every reader takes."""
    empty = np.full(GRID.shape, 255, np.uint8)
    score = Score(write('truth.tif', empty), NAMES, GRID)
    out = tmp_path / 'scores.json'
    write_scores(out, Counts(Count(np.zeros((3, 3), np.int64))), score)
    assert json.loads(out.read_text())['metrics']['mIoU'] is None
    assert ',,' in out.with_suffix('.csv').read_text()


def test_scores_are_those_of_a_test(scenes, tmp_path, capsys):
    """The same scene, model and windows."""
    (scenes / 'img_dir/test/b.tif').unlink()
    runner = runner_of(scenes, tmp_path)
    runner.test_loop.run()
    expected = runner.test_loop.evaluator.metrics[0].report
    out = tmp_path / 'out.tif'
    runner.model.cfg = runner.cfg
    runner.model.dataset_meta = dict(
        classes=[line['class'] for line in expected['classes']])
    predict_raster(runner.model, scenes / 'img_dir/test/a.tif', out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [
            'score.py', str(out), str(scenes / 'ann_dir/test/a.tif')])
        runpy.run_path(str(ROOT / 'tools/score.py'), run_name='__main__')
    assert f"mIoU {expected['metrics']['mIoU']:.2f}" in capsys.readouterr().out
    found = json.loads((tmp_path / 'out_scores.json').read_text())
    assert found['confusion'] == expected['confusion']
    for kind in ('metrics', 'classes'):
        assert str(found[kind]) == str(expected[kind]).replace('nan', 'None')


def test_what_is_scored_was_predicted(write, pair, tmp_path):
    """It names its classes; and no other file is lost."""
    with pytest.raises(ValueError, match='ids.tif does not name its classes'):
        score_prediction(write('ids.tif', pair[0]), write('t.tif', pair[1]))
    (tmp_path / 'ids_scores.csv').touch()
    with pytest.raises(ValueError, match='ids_scores.csv exists'):
        score_prediction(tmp_path / 'ids.tif', tmp_path / 't.tif')


@pytest.mark.parametrize('shape', [
    shapely.LineString([(0, 0), (20, 20)]), shapely.Point(3, 4)])
def test_areas_without_an_area_are_refused(pair, write, tmp_path, shape):
    _, truth = pair
    shapes = shapely.transform([shapely.box(0, 0, 9, 9), shape],
                               lambda xy: np.column_stack(PLACE @ xy.T))
    pyogrio.raw.write(
        tmp_path / 'areas.gpkg', shapely.to_wkb(shapes), [], [],
        geometry_type='Unknown', crs='EPSG:32648', driver='GPKG')
    with pytest.raises(ValueError, match='feature 2 is a .*no area'):
        Score(write('truth.tif', truth), NAMES, GRID,
              areas=tmp_path / 'areas.gpkg')
