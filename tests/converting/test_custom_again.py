"""A conversion that is run again, over other files or beside the raw ones."""
import json
import shutil

import custom
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from mmengine.config import Config
from raw_folders import UTM, box_at, save, save_raster, save_vectors

IDS = '--classes', 'a:0', 'b:1'
SIDE = 96


def picture(number, side=SIDE):
    return np.random.default_rng(number).integers(
        1, 250, (3, side, side), np.uint8)


def ids(side=SIDE):
    return (np.add.outer(*2 * [np.arange(side) // 12]) % 2).astype(np.uint8)


def place_of(number):
    return Affine(1, 0, 400000 + 1000 * number, 0, -1, 1500000)


def fill(raw, labels, splits=('', '', '', ''), side=SIDE):
    for number, split in enumerate(splits):
        save_raster(raw / split / f's{number}.tif', picture(number, side),
                    place_of(number))
        save_raster(labels / split / f's{number}.tif', ids(side)[None],
                    place_of(number))


def convert(raw, out, *arguments):
    return custom.main([str(x) for x in (raw, out, '--jobs', '1', *arguments)])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*.tif'))}


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.fixture
def raw(tmp_path):
    return tmp_path / 'raw'


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def test_raw_files_in_the_place_of_the_result_stay(tmp_path, capsys):
    town = tmp_path / 'town'
    fill(town / 'img_dir', town / 'ann_dir', ('train', 'train', 'val', 'test'))
    before = contents(town)
    for again in ('--dry-run', '--yes'):
        assert convert(town / 'img_dir', town, '--labels', town / 'ann_dir',
                       *IDS, again) == 2
        assert 'one of the files that are read' in ' '.join(
            capsys.readouterr().out.split())
    assert contents(town) == before


def test_files_of_others_under_the_names_of_scenes_stay(raw, out, capsys):
    fill(raw, raw.parent / 'labels')
    (out / 'img_dir/train').mkdir(parents=True)
    precious = out / 'img_dir/train/s0.tif'
    save_raster(precious, picture(7), place_of(7))
    before = precious.read_bytes()
    assert convert(raw, out, '--labels', raw.parent / 'labels', *IDS, '--test',
                   's3', '--clean') == 2
    assert 'is not the result of a converter' in capsys.readouterr().out
    assert precious.read_bytes() == before


def test_what_belongs_to_a_raw_file_is_looked_at(raw, out, tmp_path, capsys):
    """Attributes of a shapefile, sources of a VRT."""
    fill(raw, tmp_path / 'labels')
    save_raster(tmp_path / 'other.tif', picture(9), place_of(0))
    (raw / 's0.tif').rename(tmp_path / 'source.tif')
    with rasterio.open(tmp_path / 'source.tif') as source:
        rasterio.shutil.copy(source, raw / 's0.vrt', driver='VRT')
    boxes = [box_at(place_of(number), left, 10, left + 30, 80)
             for number in range(4) for left in (10, 50)]
    polygons = tmp_path / 'p.shp'
    arguments = ('--polygons', polygons, '--class-column', 'kind', '--classes',
                 'road', 'water', '--test', 's3')
    for kinds in ('road', 'water'), ('water', 'road'):
        pyogrio.raw.write(
            tmp_path / 'new.shp', shapely.to_wkb(np.array(boxes, object)),
            [np.array(4 * [*kinds], object)], ['kind'],
            driver='ESRI Shapefile', geometry_type='Polygon',
            crs=UTM.to_wkt())
        for new in tmp_path.glob('new.*'):
            old = polygons.with_suffix(new.suffix)
            if new.suffix == '.dbf' or not old.exists():
                shutil.copy(new, old)
        assert convert(raw, out, *arguments) == 0
        label = read(out / 'ann_dir/train/s1.tif')[0]
        assert label[20, 20] == (kinds[0] == 'water')
    shutil.copy(tmp_path / 'other.tif', tmp_path / 'source.tif')
    capsys.readouterr()
    assert convert(raw, out, *arguments, '--check') == 1
    assert 'has changed since img_dir/train/s0.tif' in ' '.join(
        capsys.readouterr().out.split())
    assert convert(raw, out, *arguments) == 0
    np.testing.assert_array_equal(read(out / 'img_dir/train/s0.tif'),
                                  picture(9))


def test_a_block_with_another_margin_is_cut_anew(raw, out, tmp_path):
    labels = tmp_path / 'labels'
    arguments = ('--labels', labels, *IDS, '--split', 'blocks', '--block',
                 300, '--margin', 100, '--model', 'swin2_n')
    fill(raw, labels, ('', ''), 900)
    assert convert(raw, out, *arguments) == 0
    fill(tmp_path / 'more', tmp_path / 'more/labels', ('', '', ''), 900)
    for folder, more in (raw, 'more'), (labels, 'more/labels'):  # other draws
        shutil.copy(tmp_path / more / 's2.tif', folder)
    assert convert(raw, out, *arguments, '--clean') == 0
    fresh = tmp_path / 'fresh'
    assert convert(raw, fresh, *arguments) == 0
    assert {path.relative_to(out): read(path).shape for path in contents(out)
            } == {path.relative_to(fresh): read(path).shape
                  for path in contents(fresh)}


def test_configs_of_all_windows_have_the_classes_of_now(raw, out, tmp_path):
    labels = tmp_path / 'labels'
    fill(raw, labels)
    first = convert(raw, out, '--labels', labels, *IDS, '--test', 's3',
                    '--model', 'swin2_n')
    second = convert(raw, out, '--labels', labels, '--classes', 'b:1', 'a:0',
                     '--test', 's3', '--model', 'swin2_t')
    assert first == second == 0
    found = sorted((out / 'configs/datasets').glob('*.py'))
    assert len(found) == 2
    for path in found:
        assert Config.fromfile(path).metainfo.classes == ('b', 'a')


def test_configs_of_other_data_of_one_name_stay(raw, tmp_path, capsys):
    labels, configs = tmp_path / 'labels', tmp_path / 'configs'
    fill(raw, labels)
    arguments = ('--labels', labels, *IDS, '--test', 's3', '--configs',
                 configs)
    assert convert(raw, tmp_path / "x's/town", *arguments) == 0
    before = {path: path.read_text() for path in configs.rglob('*.py')}
    assert convert(raw, tmp_path / 'y/town', *arguments) == 2
    assert 'choose another --name' in ' '.join(
        capsys.readouterr().out.split())
    assert {path: path.read_text() for path in configs.rglob('*.py')
            } == before


def test_pixels_of_training_are_told_to_prediction(raw, out, tmp_path, capsys):
    fill(raw, tmp_path / 'labels')
    save_vectors(tmp_path / 'p.gpkg', [
        box_at(place_of(number), 0, 0, 90, 90) for number in range(4)],
        'kind', 4 * ['field'], UTM)
    assert convert(raw, out, '--polygons', tmp_path / 'p.gpkg', '--classes',
                   'field', '--test', 's3', '--pixel-size', 2) == 0
    assert '-o maps/ --pixel-size 2' in capsys.readouterr().out
    (path, ) = (out / 'configs/datasets').glob('*.py')
    assert Config.fromfile(path).metainfo.pixel_size == 2


@pytest.mark.parametrize('size', [0, 'inf', 'nan', -1])
def test_no_pixel_size(raw, out, tmp_path, size, capsys):
    fill(raw, tmp_path / 'labels')
    save_vectors(tmp_path / 'p.gpkg', [box_at(place_of(0), 0, 0, 90, 90)],
                 'kind', ['field'], UTM)
    with pytest.raises(SystemExit):
        convert(raw, out, '--polygons', tmp_path / 'p.gpkg', '--classes',
                'field', '--pixel-size', size)
    assert 'is no size' in capsys.readouterr().err


def test_parts_of_a_photograph_that_overlap_are_told(raw, out, tmp_path,
                                                     capsys):
    save(raw / 's0.png', picture(0).transpose(1, 2, 0))
    save(tmp_path / 'labels/s0.png', ids())
    save_vectors(tmp_path / 'areas.gpkg', [
        box_at(Affine.identity(), left, 0, left + 60, SIDE)
        for left in (0, 30)], 'split', ['train', 'test'], None)
    assert convert(raw, out, '--labels', tmp_path / 'labels', *IDS, '--areas',
                   tmp_path / 'areas.gpkg') == 0
    assert 'show the same ground' in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('bands', [2, 4])
def test_a_band_that_is_not_marked_as_alpha(raw, out, tmp_path, bands, capsys):
    labels = tmp_path / 'labels'
    fill(raw, labels)
    for path in sorted(labels.glob('*')):
        # Without a meaning that GDAL would guess.
        save_raster(path, np.repeat(ids()[None], bands, 0), place_of(0),
                    photometric='minisblack', alpha='unspecified')
    arguments = '--labels', labels, *IDS, '--test', 's3'
    assert convert(raw, out, *arguments) == 2
    assert 'marked as alpha' in ' '.join(capsys.readouterr().out.split())


def test_markup_in_names_of_classes(raw, out, tmp_path, capsys):
    fill(raw, tmp_path / 'labels')
    assert convert(raw, out, '--labels', tmp_path / 'labels', '--classes',
                   'a[/b]:0', '[red]b:1', '--test', 's3') == 0
    assert '[red]b 50.0%' in capsys.readouterr().out


def test_labels_that_hold_other_values_can_be_left_out(raw, out, tmp_path,
                                                       capsys):
    labels = tmp_path / 'labels'
    fill(raw, labels)
    spoiled = ids()
    spoiled[0, 0] = 7
    save_raster(labels / 's0.tif', spoiled[None], place_of(0))
    arguments = '--labels', labels, *IDS, '--test', 's3'
    assert convert(raw, out, *arguments) == 2
    assert convert(raw, out, *arguments, '--leave-out') == 0
    assert 'Left out:' in capsys.readouterr().out
    assert {path.stem for path in (out / 'img_dir').glob('*/*.tif')} == {
        's1', 's2', 's3'}


def test_a_link_to_a_folder_around_it_has_an_end(raw, out, tmp_path):
    fill(raw, tmp_path / 'labels')
    (raw / 'loop').symlink_to(raw, target_is_directory=True)
    assert convert(raw, out, '--labels', tmp_path / 'labels', *IDS, '--test',
                   's3') == 0
    assert len(json.loads((out / 'manifest.json').read_text())['scenes']) == 4


@pytest.mark.parametrize('name, text, words', [
    ('split.csv', 'name,split,old_split\ns0,train,train\ns1,train,test\n'
     's2,val,val\ns3,test,train\n', 'several columns of splits'),
    ('split.csv', 's0,tarin\ns1,train\ns2,val\ns3,test\n', "'tarin'"),
    ('train.txt', 'b/s0\n', 'fit no image'),
])
def test_lists_that_are_not_clear(raw, out, tmp_path, name, text, words,
                                  capsys):
    fill(raw, tmp_path / 'labels', ('a', 'b', 'b', 'b'))
    (tmp_path / name).write_text(text)
    assert convert(raw, out, '--labels', tmp_path / 'labels', *IDS,
                   '--split-lists', tmp_path / name) == 2
    assert words in ' '.join(capsys.readouterr().out.split())


def test_a_split_without_names(raw, out, tmp_path):
    fill(raw, tmp_path / 'labels')
    (tmp_path / 'data.yaml').write_text(
        'train: [s0, s1]\nval: [s2, s3]\ntest:\n')
    assert convert(raw, out, '--labels', tmp_path / 'labels', *IDS,
                   '--split-lists', tmp_path / 'data.yaml') == 0
