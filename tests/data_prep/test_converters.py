"""Raw folder -> converter -> manifest -> data set, for each data set."""
import hashlib
import json

import archaeoscape
import cityscapes
import dubai
import gleason
import numpy as np
import pytest
import rasterio
import raw_folders
import urur
from PIL import Image
from writing import write_label

from relay_seg.datasets import (
    ArchaeoscapeDataset,
    CityscapesSceneDataset,
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
    assert gleason.split_of(name) == split


def test_archaeoscape_split_rule():
    splits = [archaeoscape.split_of(name)
              for name in raw_folders.ARCHAEOSCAPE_NAMES]
    assert splits == ['train'] * 16 + ['val'] * 3 + ['test'] * 4
    for name in ('24_nowhere', 'olinda', '00_x'):
        with pytest.raises(ValueError, match='01_olinda'):
            archaeoscape.split_of(name)


@pytest.mark.parametrize('name', CASES)
def test_a_folder_of_something_else_is_refused(name, places, capsys):
    raw, out = places
    (raw / 'holiday').mkdir(parents=True)
    assert CASES[name][1].main([str(raw), str(out)]) == 2
    told = capsys.readouterr().out
    assert 'looked for' in told and str(raw) in told
    assert not out.exists()


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
    image, found = dubai.read_scene(raw, 1)
    assert image.shape == (3, 95, 122)
    assert np.abs(image.transpose(1, 2, 0).astype(int) - whole).max() < 9
    np.testing.assert_array_equal(found, label)
    write_label(out / 'a.tif', found, dubai.DubaiDataset.METAINFO['palette'])
    np.testing.assert_array_equal(read(out / 'a.tif')[0], label)
