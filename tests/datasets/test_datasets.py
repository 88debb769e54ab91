"""Data sets: what they find, how they map labels, what they refuse."""
import numpy as np
import pytest
import rasterio
from mmengine.dataset import pseudo_collate
from mmseg.datasets import CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.registry import DATASETS

from relay_seg.data_preprocessor import ViewsDataPreprocessor
from relay_seg.datasets import (
    CityscapesSceneDataset,
    DubaiDataset,
    GleasonDataset,
    SceneDataset,
)
from relay_seg.datasets.labels import label_lookup, map_labels
from relay_seg.transforms import (
    FlipViews,
    PackViews,
    PhotoMetricViews,
    ReadScene,
    ReadViews,
    SampleWindow,
)
from relay_seg.views import Window

CLASSES = ('building', 'land', 'road', 'vegetation', 'water')
MEAN, STD = (110., 115., 120.), (80., 82., 84.)
SHAPE = 150, 170
TRAIN = [
    SampleWindow((48, 64)), ReadViews(MEAN), FlipViews(), PhotoMetricViews(),
    PackViews()
]
TEST = [ReadScene(num_bands=3), PackSegInputs()]


def build(root, split='train', **kwargs):
    """A data set of five classes in MMSeg's layout."""
    settings = dict(
        data_root=str(root), metainfo=dict(classes=CLASSES),
        serialize_data=False,  # spares a slow collection of garbage
        data_prefix=dict(img_path=f'img_dir/{split}',
                         seg_map_path=f'ann_dir/{split}')) | kwargs
    return SceneDataset(**settings)


# Scenes


def test_scenes_are_found_with_shape_and_label(scenes):
    data = build(scenes, context_factors=[2, 4])
    assert len(data) == 2
    for i, name in enumerate('ab'):
        scene = data.get_data_info(i)
        for key, folder in (('img_path', 'img'), ('seg_map_path', 'ann')):
            assert scene[key] == str(
                scenes / f'{folder}_dir/train/{name}.tif')
        assert scene['scene_shape'] == SHAPE
        assert scene['contexts'] == ((2, 2), (4, 4))


def test_an_argument_that_is_none_is_named(scenes):
    with pytest.raises(ValueError, match=(
            r"SceneDataset takes no \['class_balancd'\].*'class_balanced'")):
        build(scenes, class_balancd=True)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_only_files_with_the_suffix_are_scenes(scenes, make_scene, suffix):
    make_scene(scenes, 'train', 'other', suffix=suffix)
    data = build(scenes, img_suffix=suffix)
    assert [data.get_data_info(i)['img_path'] for i in range(len(data))] == [
        str(scenes / f'img_dir/train/other{suffix}')]
    assert len(build(scenes)) == 2


def test_a_list_of_names_chooses_the_scenes(scenes):
    (scenes / 'split.txt').write_text('b\n')
    data = build(scenes, ann_file='split.txt')
    assert [data.get_data_info(i)['img_path'][-5:]
            for i in range(len(data))] == ['b.tif']


def test_a_test_set_needs_no_labels(scenes):
    data = build(scenes, data_prefix=dict(img_path='img_dir/test'),
                 test_mode=True, pipeline=TEST)
    assert data[0]['inputs'].shape == (3, *SHAPE)
    assert 'gt_sem_seg' not in data[0]['data_samples']


def test_a_training_set_gives_batches(scenes):
    data = build(scenes, context_factors=(2, 4), pipeline=TRAIN,
                 serialize_data=True)
    batch = ViewsDataPreprocessor(MEAN, STD)(
        pseudo_collate([data[0], data[1]]), training=True)
    assert [view.shape for view in batch['inputs']] == [(2, 3, 48, 64)] * 3
    for sample in batch['data_samples']:
        for field, k in (('gt_sem_seg', 1), ('gt_global_seg_1', 2),
                         ('gt_global_seg_2', 4)):
            label = sample.get(field).data
            assert label.shape == (1, 48 * k, 64 * k)
            assert set(label.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


def test_a_test_set_gives_whole_scenes_and_their_labels(scenes):
    sample = build(scenes, 'test', test_mode=True, pipeline=TEST)[0]
    with rasterio.open(scenes / 'ann_dir/test/a.tif') as raster:
        label = raster.read()
    np.testing.assert_array_equal(
        sample['data_samples'].gt_sem_seg.data, label)
    assert sample['data_samples'].ori_shape == SHAPE


@pytest.mark.parametrize('name, kind', [
    ('SceneDataset', SceneDataset), ('DubaiDataset', DubaiDataset),
    ('GleasonDataset', GleasonDataset)])
def test_data_sets_are_registered_with_a_colour_for_each_class(
        name, kind, scenes):
    settings = dict(
        type=name, data_root=str(scenes),
        data_prefix=dict(img_path='img_dir/train'))
    if name == 'SceneDataset':
        settings['metainfo'] = dict(classes=CLASSES)
    data = DATASETS.build(settings)
    assert type(data) is kind
    classes, palette = data.metainfo['classes'], data.metainfo['palette']
    assert len(set(classes)) == len(classes) == len(palette)
    if name != 'SceneDataset':
        assert len(set(map(tuple, palette))) == len(classes)


def test_cityscapes_has_the_classes_of_the_host():
    assert CityscapesSceneDataset.METAINFO == CityscapesDataset.METAINFO


# Labels


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [
    None, {0: 0, 1: 255, 2: 1, 3: 255, 4: 2}, {0: 4, 1: 3, 2: 2, 3: 1, 4: 0}])
def test_labels_are_mapped_as_in_the_host(tmp_path, write_raster, label_map,
                                          reduce_zero_label):
    ids = [*range(5 + reduce_zero_label), 255]
    label = np.random.choice(ids, (20, 30)).astype(np.uint8)
    path = write_raster(tmp_path / 'label.png', label)
    theirs = dict(seg_map_path=str(path), label_map=label_map, seg_fields=[],
                  reduce_zero_label=reduce_zero_label)
    LoadAnnotations().transform(theirs)
    ours = map_labels(label, label_lookup(5, label_map, reduce_zero_label),
                      str(path))
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs['gt_seg_map'])


def test_a_subset_of_the_classes_ignores_the_others(scenes, make_scene):
    label = np.repeat(np.arange(5, dtype=np.uint8), 30)[:, None].repeat(
        SHAPE[1], 1)
    make_scene(scenes, 'part', 'a', label=label)
    prefix = dict(img_path='img_dir/part', seg_map_path='ann_dir/part')
    data = DubaiDataset(
        data_root=str(scenes), data_prefix=prefix, pipeline=TEST,
        metainfo=dict(classes=('water', 'land')))
    mapped = data[0]['data_samples'].gt_sem_seg.data[0, ::30, 0]
    assert mapped.tolist() == [255, 1, 255, 255, 0]


def test_reduced_labels_reach_the_views(scenes, make_scene):
    label = np.zeros(SHAPE, np.uint8)
    label[:, 80:] = 5
    make_scene(scenes, 'reduced', 'a', label=label)
    data = build(scenes, 'reduced', reduce_zero_label=True,
                 context_factors=(2, ), pipeline=[ReadViews(MEAN)])
    scene = data.get_data_info(0)
    results = data.pipeline(scene | dict(
        window=Window(60, 70, 20, 20), window_size=(20, 20),
        input_size=(20, 20)))
    for out, border in zip(results['labels'], (10, 20)):
        assert (out[:, :border] == 255).all() and (out[:, border:] == 4).all()


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int32,
                                   np.int64, np.float32])
def test_labels_of_any_type_become_bytes(dtype):
    label = np.array([[0, 4, 255]], dtype)
    mapped = map_labels(label, label_lookup(5, None, False), 'label.tif')
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[0, 4, 255]]


@pytest.mark.parametrize('dtype', [np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize('value', [256, 1000])
def test_ids_that_are_no_bytes_are_named(dtype, value):
    label = np.array([[0, value, 255]], dtype)
    with pytest.raises(ValueError, match=f'odd.tif holds ids.*{value}'):
        map_labels(label, label_lookup(5, None, False), 'odd.tif')


def test_negative_ids_are_named():
    with pytest.raises(ValueError, match='odd.tif.*-1 to 3'):
        map_labels(np.array([[-1, 3]], np.int16),
                   label_lookup(5, None, False), 'odd.tif')


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('value', [1.5, np.nan])
def test_ids_that_are_no_integers_are_refused(value):
    with pytest.raises(ValueError, match='odd.tif'):
        map_labels(np.array([[0, value]], np.float32),
                   label_lookup(5, None, False), 'odd.tif')


@pytest.mark.parametrize('reduce_zero_label, unknown', [
    (False, 5), (False, 254), (True, 6)])
def test_unknown_ids_are_named(reduce_zero_label, unknown):
    lookup = label_lookup(5, None, reduce_zero_label)
    with pytest.raises(ValueError, match=rf'odd.tif.*\[{unknown}\].*mend'):
        map_labels(np.array([[0, 1, unknown, 255]], np.uint8), lookup,
                   'odd.tif')


def test_an_empty_label_is_no_error():
    empty = np.zeros((0, 5), np.uint8)
    assert map_labels(empty, label_lookup(5, None, False), '').shape == (0, 5)


# What is refused, before training


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='img_dir/train.*data_root'):
        build(tmp_path)


def test_an_empty_split_is_named(scenes):
    (scenes / 'img_dir/none').mkdir()
    with pytest.raises(ValueError, match='img_dir/none.*img_suffix'):
        build(scenes, 'none')
    with pytest.raises(ValueError, match=r'img_dir/train.*\*.png'):
        build(scenes, img_suffix='.png')


def test_an_empty_list_is_named(scenes):
    (scenes / 'split.txt').write_text('')
    with pytest.raises(ValueError, match='split.txt'):
        build(scenes, ann_file='split.txt')


def test_a_listed_scene_that_is_missing_is_named(scenes):
    (scenes / 'split.txt').write_text('b\nlost\n')
    with pytest.raises(FileNotFoundError, match='train/lost.tif.*data_root'):
        build(scenes, ann_file='split.txt')


def test_an_image_without_label_is_named(scenes):
    (scenes / 'ann_dir/train/b.tif').unlink()
    with pytest.raises(FileNotFoundError, match='ann_dir/train/b.tif.*add it'):
        build(scenes)


def test_a_label_of_another_size_is_named(scenes, write_raster):
    write_raster(scenes / 'ann_dir/train/b.tif', np.zeros((150, 171), 'u1'))
    with pytest.raises(ValueError, match='b.tif.*150 x 171.*150 x 170'):
        build(scenes)


def test_a_label_in_colours_is_named(scenes, write_raster):
    write_raster(scenes / 'ann_dir/train/a.tif', np.zeros((3, *SHAPE), 'u1'))
    with pytest.raises(ValueError, match='a.tif.*3 bands.*Convert'):
        build(scenes)


@pytest.mark.parametrize('folder', ['img_dir', 'ann_dir'])
@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_a_file_that_is_no_image_is_named(scenes, folder, content):
    (scenes / folder / 'train/b.tif').write_bytes(content)
    with pytest.raises(ValueError, match=f'{folder}/train/b.tif.*Replace it'):
        build(scenes)


def test_a_class_that_is_unknown_is_named_when_it_is_read(scenes, make_scene):
    label = np.full(SHAPE, 5, np.uint8)
    make_scene(scenes, 'odd', 'a', label=label)
    for pipeline in (TRAIN, TEST):
        data = build(scenes, 'odd', pipeline=pipeline)
        with pytest.raises(ValueError, match=r'a.tif.*\[5\].*4, 255'):
            data[0]
