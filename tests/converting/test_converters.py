"""Raw folder -> converter -> manifest -> data set, for each data set."""
import hashlib
import json
import shutil
import sys

import archaeoscape
import cityscapes
import gleason
import numpy as np
import pytest
import rasterio
import raw_folders
import urur
from options import library
from PIL import Image

from relay_seg.converting.writing import write_label
from relay_seg.datasets import (
    ArchaeoscapeDataset,
    CityscapesSceneDataset,
    DubaiDataset,
    GleasonDataset,
    URURDataset,
)
from relay_seg.datasets.labels import map_labels

CASES = {
    'urur': (raw_folders.make_urur, urur, URURDataset),
    'cityscapes': (raw_folders.make_cityscapes, cityscapes,
                   CityscapesSceneDataset),
    'gleason': (raw_folders.make_gleason, gleason, GleasonDataset),
    'archaeoscape': (raw_folders.make_archaeoscape, archaeoscape,
                     ArchaeoscapeDataset),
}


@pytest.fixture(scope='module', params=CASES)
def converted(request, tmp_path_factory):
    make, converter, dataset = CASES[request.param]
    raw = tmp_path_factory.mktemp(request.param) / 'raw'
    out = raw.parent / 'out'
    truth = make(raw)
    assert converter.main([str(raw), str(out), '--jobs', '1']) == 0
    return raw, out, truth, dataset, converter


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def test_every_class_id_is_exact(converted):
    _, out, truth, dataset, _ = converted
    for (split, name), expected in truth.items():
        found = read(out / 'ann_dir' / split / f'{name}.tif')[0]
        np.testing.assert_array_equal(found, expected)
    seen = set(np.unique(np.stack(list(truth.values()))))
    assert seen - {255} == set(range(len(dataset.METAINFO['classes'])))


def test_splits_are_disjoint_and_complete(converted):
    _, out, truth, _, _ = converted
    for folder in ('img_dir', 'ann_dir'):
        files = {(path.parent.name, path.stem)
                 for path in (out / folder).glob('*/*')}
        assert files == set(truth)
        assert len({name for _, name in files}) == len(files)


def test_manifest_tells_what_is_there(converted):
    raw, out, truth, dataset, _ = converted
    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['classes'] == list(dataset.METAINFO['classes'])
    assert manifest['failures'] == {}
    assert sum(manifest['splits'].values()) == len(truth)
    for record in manifest['scenes']:
        label = truth[record['split'], record['name']]
        assert (record['height'], record['width']) == label.shape
        counts = np.bincount(label.ravel(), minlength=256)
        classes = len(manifest['classes'])
        assert record['class_pixels'] == counts[:classes].tolist()
        assert record['ignored_pixels'] == counts[255]
        assert all((raw / s['path']).exists() for s in record['sources'])
        for key in ('image', 'label'):
            content = (out / record[key]['path']).read_bytes()
            assert record[key]['bytes'] == len(content)
            assert record[key]['sha256'] == hashlib.sha256(
                content).hexdigest()
        image = read(out / record['image']['path']).astype(np.float64)
        for band, pixels in zip(record['bands'], image):
            pixels = pixels[~np.isnan(pixels)]
            assert band['valid'] == pixels.size
            assert band['mean'] == pytest.approx(pixels.mean())
            assert band['std'] == pytest.approx(pixels.std())


def test_dataset_reads_what_the_converter_wrote(converted):
    _, out, truth, dataset, _ = converted
    for split in {split for split, _ in truth}:
        scenes = dataset(
            data_root=str(out), data_prefix=dict(
                img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
            lazy_init=False)
        assert len(scenes) == sum(s == split for s, _ in truth)
        for scene in scenes:
            name = scene['seg_map_path'].split('/')[-1][:-4]
            mapped = map_labels(read(scene['seg_map_path'])[0],
                                scene['label_lookup'], name)
            np.testing.assert_array_equal(mapped, truth[split, name])


def test_files_are_tiled_lossless_with_overviews_and_colours(converted):
    _, out, truth, dataset, _ = converted
    for split, name in truth:
        path = out / 'img_dir' / split / f'{name}.tif'
        with rasterio.open(path) as image:
            assert image.profile['tiled']
            assert image.block_shapes[0] == (256, 256)
            assert image.compression.value == 'ZSTD'
            assert len(image.overviews(1)) == 4
            shape = image.shape
        for level, k in enumerate((2, 4, 8, 16)):
            with rasterio.open(path, overview_level=level) as overview:
                assert overview.shape == (-(-shape[0] // k), -(-shape[1] // k))
        with rasterio.open(out / 'ann_dir' / split / f'{name}.tif') as label:
            assert label.dtypes == ('uint8', )
            for i, colour in enumerate(dataset.METAINFO['palette']):
                assert label.colormap(1)[i][:3] == tuple(colour)


def test_second_run_keeps_everything(converted):
    raw, out, truth, _, converter = converted
    before = {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}
    assert converter.main([str(raw), str(out), '--jobs', '1']) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.glob('*_dir/*/*')}


def test_check_accepts_the_result(converted, capsys):
    raw, out, truth, _, converter = converted
    arguments = [str(raw), str(out), '--jobs', '1', '--check']
    assert converter.main(arguments) == 0
    assert f'{len(truth)} scenes checked, 0 problem(s)' in (
        capsys.readouterr().out)


@pytest.mark.parametrize('name', ['urur', 'cityscapes', 'gleason'])
def test_images_are_lossless(name, tmp_path):
    make, converter, _ = CASES[name]
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    make(raw)
    assert converter.main([str(raw), str(out), '--jobs', '2']) == 0
    manifest = json.loads((out / 'manifest.json').read_text())
    for record in manifest['scenes']:
        np.testing.assert_array_equal(
            read(out / record['image']['path']),
            read(raw / record['sources'][0]['path']))


def test_cityscapes_lists_part_val_by_city(tmp_path):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    truth = raw_folders.make_cityscapes(raw)
    cityscapes.main([str(raw), str(out), '--jobs', '1'])
    lists = {name: (out / name).read_text().split()
             for name in ('frankfurt.txt', 'lindau_munster.txt')}
    assert lists['frankfurt.txt'] == [
        'frankfurt_000294_000019', 'frankfurt_000576_000019']
    val = {name for split, name in truth if split == 'val'}
    assert set(sum(lists.values(), [])) == val
    tested = CityscapesSceneDataset(
        data_root=str(out), ann_file='frankfurt.txt', lazy_init=False,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'))
    assert len(tested) == 2


def test_gleason_votes_where_there_is_no_majority(places):
    raw, out = places
    truth = raw_folders.make_gleason(raw, majority=False)
    assert gleason.main([str(raw), str(out), '--jobs', '1']) == 0
    for (split, name), expected in truth.items():
        found = read(out / 'ann_dir' / split / f'{name}.tif')[0]
        # Two of three agree everywhere.
        np.testing.assert_array_equal(found, expected)


#: Raw ids of Maps1_T to Maps6_T in a pixel, and its class by both rules.
VOTES = {
    'zeros and ones': ((0, 1, 6, 3, 3, 1), 0, 1),
    'tie of raw ids, the lowest is a grade': ((6, 6, 6, 3, 3, 0), 0, 1),
    'tie of raw ids, the lowest is benign': ((4, 4, 4, 2, 2, 4), 2, 0),
    'the fifth counts twice': ((3, 3, 1, 4, 4, 3), 1, 2),
    'the sixth does not count': ((5, 5, 4, 4, 3, 5), 3, 1),
    'all agree': ((5, 5, 5, 5, 5, 5), 3, 3),
    'outside': ((0, 0, 3, 3, 5, 5), 0, 0),
}


def make_votes(raw, experts=range(1, 7), majority=False):
    """One core; in each of its blocks the votes of one line of the table."""
    name = 'slide001_core016'
    file = f'{name}_classimg_nonconvex.png'
    size = 40, 8 * len(VOTES)
    raw_folders.save(raw / 'Train Imgs' / f'{name}.jpg',
                     raw_folders.noise(*size))
    shown = np.array([votes for votes, *_ in VOTES.values()], np.uint8)
    for i in experts:
        pixels = np.tile(shown[:, i - 1].repeat(8), (size[0], 1))
        raw_folders.save(raw / f'Maps{i}_T' / f'Maps{i}_T' / file, pixels)
    if majority:
        raw_folders.save(raw / 'Maps_majority' / file,
                         np.full(size, 5, np.uint8))
    return f'ann_dir/train/{name}.tif'


def voted(raw, out, label, *arguments):
    """Class of each block, and the remarks of the core."""
    assert gleason.main([str(raw), str(out), '--jobs', '1', *arguments]) == 0
    pixels = read(out / label)[0]
    assert (pixels == pixels[:1, ::8].repeat(8, axis=1)).all()
    manifest = json.loads((out / 'manifest.json').read_text())
    (scene, ) = manifest['scenes']
    return pixels[0, ::8].tolist(), scene['notes'], manifest['options']


def test_gleason_votes_by_both_rules(places):
    """Changing the rule converts anew, and the manifest tells the rule."""
    raw, out = places
    label = make_votes(raw)
    for rule, column in (('classes', 1), ('released', 2), ('classes', 1)):
        classes, notes, options = voted(raw, out, label, '--votes', rule)
        assert classes == [line[column] for line in VOTES.values()]
        assert options == dict(zero='benign', trim=False, votes=rule)
        assert notes == ['majority of 6 map(s)' if rule == 'classes' else
                         'mode of the raw ids of Maps1_T, Maps2_T, Maps3_T, '
                         'Maps4_T, Maps5_T, Maps5_T']
    assert voted(raw, out, label)[2]['votes'] == 'classes'


def test_gleason_released_votes_are_not_those_of_a_majority(places, capsys):
    raw, out = places
    label = make_votes(raw, majority=True)
    assert set(voted(raw, out, label)[0]) == {3}
    capsys.readouterr()
    classes, *_ = voted(raw, out, label, '--votes', 'released')
    assert classes == [line[2] for line in VOTES.values()]
    assert 'Maps_majority is left alone' in capsys.readouterr().out


def test_gleason_takes_a_majority_when_told_to(places, capsys):
    raw, out = places
    label = make_votes(raw, majority=True)
    classes, _, options = voted(raw, out, label, '--votes', 'majority')
    assert set(classes) == {3} and options['votes'] == 'majority'
    assert 'nobody votes' not in capsys.readouterr().out
    voted(raw, out, label)
    assert '--votes majority says so' in capsys.readouterr().out
    shutil.rmtree(raw / 'Maps_majority')
    assert gleason.main([str(raw), str(out), '--votes', 'majority']) == 2
    assert 'holds no Maps_majority/' in capsys.readouterr().out


@pytest.mark.parametrize('experts', [(), (6, )])
def test_gleason_released_votes_need_maps_of_pathologists(
        experts, places, capsys):
    raw, out = places
    make_votes(raw, experts, majority=True)
    assert gleason.main([str(raw), str(out), '--votes', 'released']) == 2
    told = capsys.readouterr().out
    assert 'holds no Maps1_T/ to Maps5_T/' in told
    assert '--votes majority' in told
    assert not list(out.glob('*_dir/*/*'))


def test_gleason_released_votes_of_a_core_that_lacks_maps(places, capsys):
    """Those that are there vote, and it is said who did."""
    raw, out = places
    label = make_votes(raw, (1, 2, 5, 6))
    classes, notes, _ = voted(raw, out, label, '--votes', 'released')
    assert notes == ['mode of the raw ids of Maps1_T, Maps2_T, Maps5_T, '
                     'Maps5_T']
    assert classes == [1, 1, 0, 1, 1, 3, 0]  # of 0 1 3 3, 6 6 3 3, ...
    assert 'counts twice' not in capsys.readouterr().out
    for path in raw.glob('Maps5_T/*/*'):
        path.unlink()
    classes, notes, _ = voted(raw, out, label, '--votes', 'released')
    assert notes == ['mode of the raw ids of Maps1_T, Maps2_T']
    assert classes == [0, 0, 2, 1, 3, 3, 0]
    assert ('1 core(s), e.g. slide001_core016, have no map in Maps5_T/' in
            capsys.readouterr().out)


def test_gleason_zero_that_wins_a_released_vote_is_ignored_on_request(places):
    raw, out = places
    label = make_votes(raw)
    classes, *_ = voted(
        raw, out, label, '--votes', 'released', '--zero', 'ignore')
    assert classes == [1, 1, 0, 2, 1, 3, 255]


def test_gleason_zero_is_ignored_on_request(places):
    raw, out = places
    raw_folders.make_gleason(raw)
    arguments = [str(raw), str(out), '--jobs', '1']
    assert gleason.main(arguments) == 0
    assert gleason.main([*arguments, '--zero', 'ignore']) == 0
    for path in (out / 'ann_dir').glob('*/*'):
        shown = np.asarray(Image.open(
            raw / 'Maps_majority' / f'{path.stem}_classimg_nonconvex.png'))
        np.testing.assert_array_equal(read(path)[0] == 255, shown == 0)


@pytest.mark.parametrize('name, split', [
    ('slide007_core001', 'test'), ('slide007_core099', 'test'),
    ('slide001_core015', 'val'), ('slide001_core016', 'train')])
def test_gleason_split_rule(name, split):
    assert library('gleason').split_of(name) == split


def test_archaeoscape_split_rule():
    splits = [library('archaeoscape').split_of(name)
              for name in raw_folders.ARCHAEOSCAPE_NAMES]
    assert splits == ['train'] * 16 + ['val'] * 3 + ['test'] * 4
    for name in ('24_nowhere', 'olinda', '00_x'):
        with pytest.raises(ValueError, match='01_olinda'):
            library('archaeoscape').split_of(name)


@pytest.mark.parametrize('name', CASES)
def test_a_folder_of_something_else_is_refused(name, places, capsys):
    raw, out = places
    (raw / 'holiday').mkdir(parents=True)
    assert CASES[name][1].main([str(raw), str(out)]) == 2
    told = capsys.readouterr().out
    assert 'looked for' in told and str(raw) in told
    assert not out.exists()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'relay_seg', None)
    with pytest.raises(ModuleNotFoundError, match='run `pip install -e .`'):
        library('urur')


def test_archives_unpacked_into_folders_of_their_names(places):
    raw, out = places
    truth = raw_folders.make_cityscapes(raw)
    for name in ('leftImg8bit', 'gtFine'):
        (raw / f'{name}_trainvaltest').mkdir()
        (raw / name).rename(raw / f'{name}_trainvaltest' / name)
    assert cityscapes.main([str(raw), str(out), '--jobs', '1']) == 0
    assert len(list(out.glob('img_dir/*/*'))) == len(truth)


def test_parts_of_a_dubai_scene_may_be_a_pixel_off(places):
    raw, out = places
    whole = raw_folders.noise(95, 122)
    label = raw_folders.blocks([0, 1, 2, 3, 4, 255], 95, 122).astype(np.uint8)
    rows, columns = (0, 30, 62, 95), (0, 41, 80, 122)
    for part in range(9):
        i, j = divmod(part, 3)
        name = f'tile1_part{part + 1:03d}'
        place = np.s_[rows[i]:rows[i + 1], columns[j]:columns[j + 1]]
        extra = int(part in (2, 7))  # one pixel more at the lower end
        raw_folders.save(
            raw / 'images' / f'{name}.jpg',
            np.pad(whole[place], ((0, extra), (0, 0), (0, 0)), mode='edge'),
            quality=100, subsampling=0)
        raw_folders.save(raw / 'masks' / f'{name}.png',
                         np.pad(label[place], ((0, extra), (0, 0))))
    image, found = library('dubai').read_scene(raw, 1)
    assert image.shape == (3, 95, 122)
    assert np.abs(image.transpose(1, 2, 0).astype(int) - whole).max() < 9
    np.testing.assert_array_equal(found, label)
    write_label(out / 'a.tif', found, DubaiDataset.METAINFO['palette'])
    np.testing.assert_array_equal(read(out / 'a.tif')[0], label)
