"""Blocks of a scene: the same whoever computes them, in whatever order."""
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from relay_seg.inference import (
    Settings,
    find_scenes,
    join_scenes,
    predict_raster,
)
from relay_seg.inference.blocks import STATE, BlockWriter, root_of
from relay_seg.inference.forward import Forward
from relay_seg.inference.inputs import Scene
from relay_seg.inference.job import Job
from relay_seg.inference.joining import holding
from relay_seg.inference.model import bands_of
from relay_seg.inference.plan import block_side, share
from relay_seg.inference.settings import plan_for
from relay_seg.inference.source import ArraySource
from relay_seg.inference.stream import Timer, stream

BLOCKS = (1, 1), (16, 24), (40, 300), (33, 50)


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.is_file()}


@pytest.fixture
def scene(noise, scene_file, tmp_path):
    """A scene with a hole, which does not begin or end with a window."""
    image = noise(141, 93)
    image[:, 50:70, 30:80] = 0
    (tmp_path / 'in').mkdir()
    return scene_file(tmp_path / 'in/scene.tif', image, 0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out/classes.tif'


def logits_of(model, image, block):
    """Blended logits and what holds something, put together from blocks."""
    source = ArraySource(image, bands_of(model), 0)
    plan = plan_for(model, source, Settings(block=block))
    found = np.full((model.out_channels, *source.shape), np.nan, np.float32)
    valid = np.zeros(source.shape, int)
    for band in stream(
            model, source, plan.blocks, threads=2, timer=Timer(),
            forward=Forward(model, plan.size, plan.batch_size),
            advance=lambda count: None):
        _, left, _, width, _ = band.block.region
        place = np.s_[band.top:band.bottom, left:left + width]
        assert np.isnan(found[(slice(None), *place)]).all()
        found[(slice(None), *place)] = band.logits
        valid[place] = band.valid
    return found, valid


@pytest.mark.parametrize('options', [
    dict(), dict(context_factors=()), dict(context_factors=(2, 5)),
    dict(stride=(5, 11)), dict(stride=(16, 16), blend='center'),
    dict(size=(24, 24), input_size=(16, 16), stride=(7, 10)),
    dict(context_factors=(4, ), context_reductions=(8, ))])
def test_any_block_gives_the_same(cheap, noise, options):
    image = noise(97, 141)
    image[:, 20:60, 15:70] = 0
    model = cheap(**options)
    expected, holds = logits_of(model, image, (1000, 1000))
    for block in BLOCKS:
        found, valid = logits_of(model, image, block)
        # A window of nothing may be computed, in a batch with others.
        np.testing.assert_allclose(found[:, valid > 0], expected[:, holds > 0],
                                   atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(valid, holds)


def test_blocks_cover_a_scene_once(cheap, noise):
    for shape in ((16, 16), (5, 200), (97, 141)):
        source = ArraySource(noise(*shape), bands_of(cheap()))
        for block in BLOCKS:
            plan = plan_for(cheap(), source, Settings(block=block))
            seen = np.zeros(shape, int)
            for one in plan.blocks:
                top, left, height, width, _ = one.region
                seen[top:top + height, left:left + width] += 1
            assert (seen == 1).all()
            assert plan.whole.region == (0, 0, *shape, 0)


def test_sides_of_blocks():
    """A 36th of a scene, many windows, and no more than memory takes."""
    assert block_side((60_000, 60_000), (128, 128)) == (8192, 8192)
    assert block_side((24_000, 24_000), (128, 128)) == (4000, 4000)
    assert block_side((3000, 3000), (128, 64)) == (3072, 1536)


def test_untiled_files_have_wide_blocks(cheap, noise):
    source = ArraySource(noise(40, 300), bands_of(cheap()))
    source.tiled = False
    assert len(plan_for(cheap(), source, Settings()).blocks) == 1


# Parts ----------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_each_block_belongs_to_one_part(cheap, noise, count):
    source = ArraySource(noise(141, 93), bands_of(cheap()))
    blocks = plan_for(cheap(), source, Settings(block=(16, 16))).blocks
    parts = [share(blocks, (i + 1, count)) for i in range(count)]
    tops = [[block.region for block in part] for part in parts]
    assert sorted(sum(tops, [])) == sorted(b.region for b in blocks)
    work = [sum(map(len, part)) for part in parts]
    assert max(work) - min(work) <= max(map(len, blocks))
    # From the top: rows of blocks become whole one after the other.
    assert all(part == sorted(part) for part in tops)
    assert [part[0] for part in tops] == [
        block.region for block in blocks[:count]]


def test_small_scenes_are_dealt_out(cheap, noise):
    source = ArraySource(noise(30, 30), bands_of(cheap()))
    blocks = plan_for(cheap(), source, Settings()).blocks
    whose = [[bool(share(blocks, (part, 3), turn)) for part in (1, 2, 3)]
             for turn in range(4)]
    assert whose == [[True, False, False], [False, True, False],
                     [False, False, True], [True, False, False]]


@pytest.mark.parametrize('form', ['gtiff', 'cog'])
@pytest.mark.parametrize('count', [2, 5])
def test_parts_write_the_same_bytes(cheap, scene, tmp_path, count, form):
    """The last one puts all together, whichever it is."""
    options = dict(block=(40, 40), probabilities='uint8', output_format=form,
                   polygons=None)
    predict_raster(cheap(), scene, tmp_path / 'one/a.tif', **options)
    out = tmp_path / 'parts/a.tif'
    for number in random.Random(count).sample(range(1, count + 1), count):
        assert not out.exists()
        report = predict_raster(
            cheap(), scene, out, part=(number, count), **options)
    assert not report.missing
    assert files(tmp_path / 'one') == files(tmp_path / 'parts')
    assert not root_of(out).exists()
    assert predict_raster(
        cheap(), scene, out, part=(1, count), **options).kept


def test_a_part_says_what_is_missing(cheap, scene, out):
    report = predict_raster(
        cheap(), scene, out, part=(1, 3), block=(40, 40))
    job = Job(cheap(), [scene], out, Settings(block=(40, 40)))
    assert report.missing == len(job.files.missing(job.plan.blocks)) > 0
    assert not out.exists()


def test_joining_only(cheap, scene, tmp_path, out, capsys):
    settings = Settings(block=(40, 40))
    scenes = [Scene((scene, ), out)]
    predict_raster(cheap(), scene, out, part=(1, 2), block=(40, 40))
    model = cheap()
    assert join_scenes(model, scenes, settings) == 1
    assert 'blocks are not there' in capsys.readouterr().err
    assert not out.exists()
    job = Job(cheap(), [scene], out, settings)
    job.compute(job.begin(job.plan.blocks), lambda progress: None)
    assert not out.exists()
    assert join_scenes(model, scenes, settings) == 0
    assert not model.calls
    predict_raster(cheap(), scene, tmp_path / 'b.tif', block=(40, 40))
    assert out.read_bytes() == (tmp_path / 'b.tif').read_bytes()
    assert join_scenes(model, scenes, settings) == 0  # it is there


def test_who_finds_another_at_joining_leaves_it(cheap, scene, out):
    job = Job(cheap(), [scene], out, Settings(block=(40, 40)))
    job.compute(job.begin(job.plan.blocks), lambda progress: None)
    with holding(job):
        done = in_child(lambda: os._exit(
            5 + job.join().elsewhere + 2 * out.exists()))
    assert done == 6
    job.join()
    assert out.exists()


def test_nobody_says_done_of_what_another_run_writes(cheap, scene, out):
    """One with other settings is refused, whenever it comes."""
    settings = Settings(block=(40, 40), threads=1)
    job = Job(cheap(), [scene], out, settings)
    model = cheap(blend='mean')
    other = Job(model, [scene], out, settings)
    blocks = other.plan.blocks
    with holding(job):
        def run():
            with pytest.raises(ValueError, match='classes.tif is being writ'):
                other.run(lambda progress: None)
            assert not model.calls
            other.compute(other.begin(blocks), lambda progress: None)
            with pytest.raises(ValueError, match='classes.tif is being writ'):
                other.join()
        assert in_child(run) == 0
    assert not out.exists()
    job.run(lambda progress: None)
    with pytest.raises(ValueError, match='classes.tif was written meanwhile'):
        other.compute(blocks, lambda progress: None)
    assert not root_of(out).exists()


def test_other_files_of_the_same_class_ids(cheap, scene, out):
    """Who wants them waits, and then writes them."""
    options = dict(block=(40, 40), threads=1)
    job = Job(cheap(), [scene], out, Settings(**options))
    picture = out.with_name('a.png')
    with holding(job):
        other = start(lambda: predict_raster(
            cheap(), scene, out, preview=picture, **options))
        other.join(2)
        assert other.is_alive()
    other.join(60)
    assert other.exitcode == 0 and picture.exists()
    picture.unlink()
    late = Job(cheap(), [scene], out, Settings(preview=picture, **options))
    late.begin(late.plan.blocks)
    assert late.join().kept and picture.exists()


@pytest.mark.parametrize('there', [False, True])
def test_several_that_ask_for_more(cheap, scene, out, there):
    """They do not remove each other's files, and leave nothing else."""
    options = dict(block=(40, 40), threads=1)
    if there:
        predict_raster(cheap(), scene, out, **options)
    more = dict(polygons=out.with_name('a.gpkg'),
                preview=out.with_name('a.png'))
    for _ in range(4):
        runs = [start(lambda i=i: predict_raster(
            cheap(), scene, out, part=(i, 3), **more, **options))
            for i in (1, 2, 3)]
        for process in runs:
            process.join(60)
        assert [process.exitcode for process in runs] == [0, 0, 0]
        assert {*files(out.parent)} == {
            'classes.tif', 'classes.tif.aux.xml', 'a.gpkg', 'a.png'}
        assert not root_of(out).exists()
        for path in more.values():
            path.unlink()
        if not there:
            out.unlink()


def test_the_first_looks_again_when_the_last_was_quicker(
        cheap, scene, out, monkeypatch):
    """A block may come between the look and the end of the lock."""
    job = Job(cheap(), [scene], out, Settings(block=(40, 40)))
    todo = job.begin(job.plan.blocks)
    compute = job.compute

    def other(blocks, progress, outputs=None):
        compute(blocks[:-1], progress, outputs)

    missing = iter([todo[-1:], []])
    monkeypatch.setattr(job, 'compute', other)
    found = job.files.missing
    monkeypatch.setattr(job.files, 'missing', lambda blocks: next(
        missing, None) or (compute(todo, lambda p: None), found(blocks))[1])
    monkeypatch.setattr(job, 'begin', lambda blocks: todo)
    assert not job.run(lambda p: None).missing
    assert out.exists()


def in_child(work):
    process = start(work)
    process.join(60)
    return process.exitcode


def start(work):
    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    return process


def test_two_that_do_the_same(cheap, scene, tmp_path):
    """Nothing is lost, and nobody fails."""
    predict_raster(cheap(), scene, tmp_path / 'one/a.tif', block=(40, 40))
    out = tmp_path / 'two/a.tif'
    twins = [start(lambda: predict_raster(
        cheap(), scene, out, threads=1, block=(40, 40))) for _ in range(3)]
    for process in twins:
        process.join(60)
    assert [process.exitcode for process in twins] == [0, 0, 0]
    assert files(out.parent) == files(tmp_path / 'one')
    assert not root_of(out).exists()


def test_a_block_that_others_put_together_meanwhile(
        cheap, scene, out, monkeypatch):
    """Its folder goes while it is written: it is not needed any more."""
    late = Job(cheap(), [scene], out, Settings(block=(40, 40)))
    todo = late.begin(late.plan.blocks)
    finish = BlockWriter.finish

    def slowly(writer, damage):
        monkeypatch.undo()
        predict_raster(cheap(), scene, out, block=(40, 40))
        finish(writer, damage)

    monkeypatch.setattr(BlockWriter, 'finish', slowly)
    late.compute(todo, lambda progress: None)
    assert late.join().kept
    assert not root_of(out).exists()


def test_who_comes_late_leaves_nothing(cheap, scene, out):
    """Its part begins before the output is there, and ends after it."""
    late = Job(cheap(), [scene], out, Settings(block=(40, 40)))
    predict_raster(cheap(), scene, out, block=(40, 40))
    late.begin(late.plan.blocks)
    assert late.join().kept
    assert not root_of(out).exists()


def test_ended_while_blocks_are_removed(cheap, scene, out, monkeypatch):
    """What is left of them is no other's file."""
    remove = shutil.rmtree

    def ended(path, **options):
        for state in Path(path).glob(STATE):
            state.unlink()
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, 'rmtree', ended)
        predict_raster(cheap(), scene, out, block=(40, 40))
    before = out.read_bytes()
    predict_raster(cheap(), scene, out, block=(40, 40), overwrite=True)
    assert out.read_bytes() == before and not root_of(out).exists()


def test_what_a_kill_hid_goes_with_the_next_output(cheap, scene, tmp_path):
    out = tmp_path / 'out/a.vrt'
    hidden = root_of(out) / '.0123456789abcdef.01234567'
    hidden.mkdir(parents=True)
    (hidden / 'classes_0000000_0000000.tif').touch()
    predict_raster(cheap(), scene, out, output_format='vrt', block=(40, 40))
    assert out.exists() and not hidden.exists()


@pytest.mark.slow
def test_parts_that_are_killed_and_run_again(cheap, scene, tmp_path):
    """Eight at a time, killed at twenty moments: the same bytes."""
    options = dict(block=(30, 30), probabilities='uint8', threads=1)
    predict_raster(cheap(), scene, tmp_path / 'one/a.tif', **options)
    out = tmp_path / 'parts/a.tif'
    rng = random.Random(0)

    def part(number):
        return start(lambda: predict_raster(
            cheap(batch_size=3), scene, out, part=(number, 8), **options))

    killed = 0
    while killed < 20:
        running = [part(number) for number in range(1, 9)]
        for process in rng.sample(running, 3):
            time.sleep(rng.random() * 0.05)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        for process in running:
            process.join(60)
            assert process.exitcode in (0, -signal.SIGKILL)
        if out.exists():
            assert files(out.parent) == files(tmp_path / 'one')
            shutil.rmtree(out.parent)
    while not out.exists():
        for number in range(1, 9):
            part(number).join(60)
    assert files(out.parent) == files(tmp_path / 'one')


def test_a_block_appears_when_it_is_whole(cheap, scene, out, monkeypatch):
    """Class ids last: they say that it is finished."""
    seen = []
    close = BlockWriter.finish

    def finish(writer, damage):
        folder = root_of(out)
        seen.append(sorted(p.name[:3] for p in folder.glob('*/*_*.tif')))
        close(writer, damage)

    monkeypatch.setattr(BlockWriter, 'finish', finish)
    predict_raster(cheap(), scene, out, block=(40, 40), probabilities='uint8')
    assert seen[0] == []
    assert seen[1] == ['cla', 'pro']


# Virtual rasters ------------------------------------------------------------


def test_a_virtual_raster_of_the_blocks(cheap, scene, tmp_path, out):
    options = dict(block=(40, 40), probabilities='uint8')
    predict_raster(cheap(), scene, out, **options)
    linked = tmp_path / 'linked/classes.vrt'
    picture = tmp_path / 'linked/a.png'
    report = predict_raster(cheap(), scene, linked, output_format='vrt',
                            preview=picture, **options)
    assert not report.missing and picture.exists()
    moved = (tmp_path / 'linked').rename(tmp_path / 'moved')
    for name in ('classes', 'classes_probabilities'):
        with (rasterio.open(out.with_name(f'{name}.tif')) as whole,
              rasterio.open(moved / f'{name}.vrt') as parts):
            np.testing.assert_array_equal(parts.read(), whole.read())
            for what in ('crs', 'transform', 'nodata', 'dtypes', 'scales',
                         'descriptions', 'colorinterp'):
                assert getattr(parts, what) == getattr(whole, what)
            tags = parts.tags(ns='RELAY_SEG')
            assert json.loads(tags['WINDOW']) == [16, 16]
            if name == 'classes':
                assert parts.colormap(1) == whole.colormap(1)
    (tmp_path / 'moved').rename(tmp_path / 'linked')
    model = cheap()
    assert predict_raster(model, scene, linked, output_format='vrt',
                          **options).kept
    assert not model.calls
    assert '<Category>' in linked.read_text()


def test_blocks_of_before_go_when_a_virtual_raster_is_whole(
        cheap, scene, tmp_path):
    linked = tmp_path / 'classes.vrt'
    for model in (cheap(), cheap(blend='mean')):
        predict_raster(model, scene, linked, output_format='vrt')
    assert len([x for x in root_of(linked).iterdir() if x.is_dir()]) == 1
    assert (read(linked) != 255).any()


def test_the_name_says_what_is_written(cheap, scene, out):
    with pytest.raises(ValueError, match=r'classes\.vrt'):
        predict_raster(cheap(), scene, out, output_format='vrt')
    with pytest.raises(ValueError, match=r'classes\.tif'):
        predict_raster(cheap(), scene, out.with_suffix('.vrt'))


# Devices --------------------------------------------------------------------


def test_the_next_block_is_read_meanwhile(cheap, noise, monkeypatch):
    """Its reading begins before the first band of the one before it."""
    from relay_seg.inference import stream as streams
    opened = []
    real = streams.SceneRows

    def noting(source, reader, block, *rest):
        opened.append(block)
        return real(source, reader, block, *rest)

    monkeypatch.setattr(streams, 'SceneRows', noting)
    model, image = cheap(), noise(97, 141)
    source = ArraySource(image, bands_of(model))
    plan = plan_for(model, source, Settings(block=(40, 40)))
    bands = stream(model, source, plan.blocks, threads=1, timer=Timer(),
                   forward=Forward(model, plan.size, plan.batch_size),
                   advance=lambda count: None)
    next(bands)
    assert len(opened) == 2
    assert len(list(bands)) > 5


# Mosaics --------------------------------------------------------------------


def test_tiles_of_a_mosaic_see_each_other(cheap, noise, scene_file, tmp_path,
                                          place):
    """The result is that of the scene that they were cut from."""
    image = noise(90, 120)
    folder = tmp_path / 'tiles'
    folder.mkdir()
    for top in (0, 45):
        for left in (0, 50):
            scene_file(
                folder / f'{top}_{left}.tif',
                image[:, top:top + 45, left:(50 if left == 0 else 120)],
                transform=place @ Affine.translation(left, top))
    whole = scene_file(tmp_path / 'whole.tif', image)
    out = tmp_path / 'out.tif'
    one, = find_scenes([str(folder)], out, mosaic=True)
    predict_raster(cheap(), one.paths, out)
    predict_raster(cheap(), whole, tmp_path / 'expected.tif')
    np.testing.assert_array_equal(read(out), read(tmp_path / 'expected.tif'))
    with rasterio.open(out) as found, rasterio.open(whole) as expected:
        assert found.transform == expected.transform
    again, = find_scenes([str(folder)], out, mosaic=True)
    model = cheap()
    assert predict_raster(model, again.paths, out).kept
    assert not model.calls


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_gaps_of_a_mosaic_are_no_data(cheap, noise, scene_file, tmp_path,
                                      place, dtype):
    image = noise(90, 120).astype(dtype)
    folder = tmp_path / 'tiles'
    folder.mkdir()
    for top, left in (0, 0), (0, 60), (45, 0):
        scene_file(folder / f'{top}_{left}.tif',
                   image[:, top:top + 45, left:left + 60],
                   transform=place @ Affine.translation(left, top))
    whole = scene_file(tmp_path / 'whole.tif', image)
    with rasterio.open(whole, 'r+') as raster:
        there = np.ones((90, 120), bool)
        there[45:, 60:] = False
        raster.write_mask(there)
    out = tmp_path / 'out.tif'
    one, = find_scenes([str(folder)], out, mosaic=True)
    predict_raster(cheap(), one.paths, out)
    predict_raster(cheap(), whole, tmp_path / 'expected.tif')
    np.testing.assert_array_equal(read(out), read(tmp_path / 'expected.tif'))
    np.testing.assert_array_equal(read(out)[0] != 255, there)


def test_what_is_no_mosaic(cheap, noise, scene_file, tmp_path):
    path = scene_file(tmp_path / 'a.tif', noise(40, 40))
    with pytest.raises(ValueError, match=r'maps\.tif'):
        find_scenes([str(path)], tmp_path / 'maps', mosaic=True)
    with pytest.raises(ValueError, match=r'a\.tif\+.*VRT'):
        find_scenes([f'{path}+{path}x'], tmp_path / 'b.tif', mosaic=True)
    mine = tmp_path / 'b_mosaic.vrt'
    mine.write_text('mine')
    with pytest.raises(ValueError, match=r'b_mosaic\.vrt'):
        find_scenes([str(path)], tmp_path / 'b.tif', mosaic=True)
    assert mine.read_text() == 'mine'
