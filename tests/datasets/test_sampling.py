"""Which samples training draws."""
import json
import multiprocessing

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from relay_seg.datasets import DubaiDataset, WindowSampler
from relay_seg.datasets.balance import band_statistics, class_places
from relay_seg.datasets.sampling import NUMBERS
from relay_seg.engine import RelayRunner
from relay_seg.transforms import SampleWindow
from relay_seg.views import points_of


@pytest.fixture
def build():
    init_default_scope('mmseg')

    def dataset(root, **kwargs):
        return DubaiDataset(
            data_root=str(root), context_factors=(2, ),
            data_prefix=kwargs.pop('data_prefix', None) or dict(
                img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline=[
                dict(type='SampleWindow', window=(16, 16)),
                dict(type='ReadViews', fill=(0, 0, 0)),
                dict(type='FlipViews'),
                dict(type='PackViews')
            ], **kwargs)

    return dataset


def drawn(dataset, workers, epoch=0, seed=3):
    sampler = WindowSampler(dataset, 12, seed)
    sampler.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, sampler=sampler, num_workers=workers,
        collate_fn=pseudo_collate)
    return [view for batch in loader for view in batch['inputs'][1]]


def alike(ours, theirs):
    return [torch.equal(a, b) for a, b in zip(ours, theirs)]


def test_a_run_repeats_for_any_number_of_workers(scenes, build):
    dataset = build(scenes)
    alone = drawn(dataset, 0)
    assert len(alone) == 12
    for workers in (1, 2, 3):
        np.random.seed(workers)  # what was drawn before does not matter
        assert all(alike(alone, drawn(dataset, workers)))
    assert not any(alike(alone, drawn(dataset, 0, epoch=1)))
    assert not any(alike(alone, drawn(dataset, 0, seed=4)))


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_processes_share_the_samples_of_an_epoch(monkeypatch, world_size):
    numbers = []
    for epoch in (0, 1):
        for rank in range(world_size):
            monkeypatch.setattr('relay_seg.datasets.sampling.get_dist_info',
                                lambda r=rank: (r, world_size))
            sampler = WindowSampler(None, 10, seed=7)
            sampler.set_epoch(epoch)
            mine = list(sampler)
            assert len(mine) == len(sampler) == -(-10 // world_size)
            numbers += mine
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) == 8 * NUMBERS


def test_samples_per_epoch_below_one_is_refused():
    with pytest.raises(ValueError, match='0 samples.*use 1'):
        WindowSampler(None, 0, seed=0)


def test_scenes_are_drawn_by_their_pixels(tmp_path, make_scene, build):
    for name, side in (('small', 32), ('large', 96)):
        label = np.zeros((side, side), np.uint8)
        make_scene(tmp_path, 'train', name, np.stack([label] * 3), label)
    dataset = build(tmp_path)
    samples = [dataset[NUMBERS + i]['data_samples'] for i in range(300)]
    share = np.mean(['large' in s.img_path for s in samples])
    assert abs(share - 0.9) < 0.06  # 96 * 96 of 96 * 96 + 32 * 32 pixels


def test_an_index_of_a_scene_shows_that_scene(scenes, build):
    dataset = build(scenes)
    assert len(dataset) == 2
    for i, name in enumerate('ab'):
        assert f'{name}.tif' in dataset[i]['data_samples'].img_path
    assert len(list(dataset)) == 2  # a loop over scenes ends


@pytest.fixture
def rare(tmp_path, make_scene):
    """Class 4 covers a 32 x 32 corner of one of two scenes."""
    records = []
    for name in 'ab':
        label = np.zeros((256, 256), np.uint8)
        label[:, 128:] = 1
        if name == 'b':
            label[200:232, 16:48] = 4
        make_scene(tmp_path, 'train', name, np.stack([label] * 3), label)
        records.append(dict(
            image=dict(path=f'img_dir/train/{name}.tif'),
            class_pixels=np.bincount(label.ravel(), minlength=5).tolist()))
    (tmp_path / 'manifest.json').write_text(json.dumps(dict(scenes=records)))
    return tmp_path


def test_class_balance_shows_rare_classes_as_often_as_others(rare, build):
    shares = {}
    for balanced in (False, True):
        dataset = build(rare, class_balanced=balanced)
        labels = [dataset[NUMBERS + i]['data_samples'].gt_sem_seg.data
                  for i in range(200)]
        shares[balanced] = np.mean([bool((x == 4).any()) for x in labels])
    assert shares[False] < 0.05
    assert 0.2 < shares[True] < 0.5  # three classes, drawn alike


@pytest.mark.parametrize('classes, settings', [
    (('water', 'building', 'land', 'road', 'vegetation'), {}),
    (('land', 'water'), {}),  # 'building', most of the pixels, is ignored
    (('land', 'water'), dict(area='labelled')),
])
def test_class_balance_counts_the_classes_that_are_asked_for(
        rare, build, classes, settings):
    dataset = build(rare, class_balanced=True,
                    metainfo=dict(classes=classes), **settings)
    samples = [dataset[NUMBERS + i]['data_samples'] for i in range(200)]
    asked = {'building', 'land', 'water'} & set(classes)
    water = classes.index('water')
    share = np.mean([bool((x.gt_sem_seg.data == water).any())
                     for x in samples])
    # Each class is drawn alike, and each finds its pixels.
    assert abs(share - 1 / len(asked)) < 0.12
    if settings:
        assert dataset.areas.tolist() == [256 * 128, 256 * 128 + 32 * 32]


def test_class_balance_leaves_out_a_class_that_is_reduced_to_nothing(
        rare, make_scene, build):
    label = np.full((64, 64), 5, np.uint8)
    label[:32] = 0
    make_scene(rare, 'reduced', 'a', np.stack([label] * 3), label)
    (rare / 'manifest.json').write_text(json.dumps(dict(scenes=[dict(
        image=dict(path='img_dir/reduced/a.tif'),
        class_pixels=[2048, 0, 0, 0, 0, 2048])])))
    dataset = build(rare, class_balanced=True, reduce_zero_label=True,
                    data_prefix=dict(img_path='img_dir/reduced',
                                     seg_map_path='ann_dir/reduced'))
    for i in range(20):
        label = dataset[NUMBERS + i]['data_samples'].gt_sem_seg.data
        assert (label == 4).any()


def test_class_places_lie_in_the_class(rare):
    places = class_places(str(rare / 'ann_dir/train/b.tif'), 4)
    assert len(places) == 4
    assert ((places >= (200, 16)) & (places < (232, 48))).all()


def test_class_balance_without_a_manifest_says_what_to_do(scenes, build):
    with pytest.raises(FileNotFoundError, match='manifest.json.*data_prep'):
        build(scenes, class_balanced=True)


def test_manifest_of_other_scenes_is_refused(rare, make_scene, build):
    make_scene(rare, 'train', 'c')
    with pytest.raises(ValueError, match='c.tif; convert again'):
        build(rare, class_balanced=True)


def test_large_files_that_are_not_tiled_are_mentioned_once(
        tmp_path, make_scene, build, monkeypatch):
    told = []
    monkeypatch.setattr('relay_seg.datasets.scene_dataset.UNTILED', 100)
    monkeypatch.setattr('mmengine.logging.MMLogger.info',
                        lambda self, text, *a: told.append(text))
    make_scene(tmp_path, 'train', 'tiled')
    build(tmp_path)
    assert not told
    for name in 'ab':
        make_scene(tmp_path, 'train', name, suffix='.png')
    dataset = build(tmp_path, img_suffix='.png')
    assert len(dataset) == 2
    assert len(told) == 1 and '2 of 2 scenes' in told[0]


# Area, statistics and options of a conversion


@pytest.fixture
def parcels(tmp_path, make_scene):
    """Two scenes with a manifest; of one, three quarters have no label."""
    records = []
    for name, labelled, mean in (('a', 256, 10.), ('b', 128, 40.)):
        label = np.full((256, 256), 255, np.uint8)
        label[:labelled, :labelled] = 1
        make_scene(tmp_path, 'train', name, np.stack([label] * 3), label)
        records.append(dict(
            image=dict(path=f'img_dir/train/{name}.tif'), split='train',
            class_pixels=[0, labelled**2, 0, 0, 0],
            bands=[dict(mean=mean + band, std=3., valid=1000 + 2000 * (
                name == 'b')) for band in range(3)]))
    records.append(records[0] | dict(split='test', bands=[
        dict(mean=1000., std=1000., valid=10)] * 3))
    (tmp_path / 'manifest.json').write_text(json.dumps(dict(
        scenes=records, options=dict(votes='classes'))))
    return tmp_path


@pytest.mark.parametrize('area, pixels', [
    ('scene', 2 * 256**2), ('labelled', 256**2 + 128**2)])
def test_samples_by_coverage(parcels, build, area, pixels):
    dataset = build(parcels, area=area)
    assert dataset.areas.sum() == pixels
    sampler = WindowSampler(
        dataset, coverage=0.7, window=(32, 48), seed=0)
    assert len(sampler) == -(-pixels * 7 // (32 * 48 * 10))


def test_scenes_are_drawn_by_their_labelled_pixels(parcels, build):
    dataset = build(parcels, area='labelled')
    samples = [dataset[NUMBERS + i]['data_samples'] for i in range(300)]
    share = np.mean(['a.tif' in s.img_path for s in samples])
    assert abs(share - 0.8) < 0.07


@pytest.mark.parametrize('settings, message', [
    (dict(samples_per_epoch=5, coverage=1.), 'give one of them'),
    (dict(), 'give one of them'),
    (dict(coverage=1.), 'needs the window'),
    (dict(coverage=1e-9, window=(8, 8)), None)])
def test_number_of_samples_is_said_in_one_way(parcels, build, settings,
                                              message):
    dataset = build(parcels)
    if message is None:  # at least one
        assert len(WindowSampler(dataset, seed=0, **settings)) == 1
        return
    with pytest.raises(ValueError, match=message):
        WindowSampler(dataset, seed=0, **settings)


@pytest.mark.parametrize('min_inside', [0.2, 0.6, 1.])
def test_windows_lie_in_the_labelled_part(parcels, build, min_inside):
    dataset = build(parcels, area='labelled')
    scene = dataset.get_data_info(1)
    assert scene['area'] == 'labelled'
    draw = SampleWindow((48, 48), min_inside=min_inside)
    shares, centres = [], []
    for _ in range(300):
        window = draw(scene)['window']
        points = points_of(window, 33)
        shares.append(((points >= 0) & (points <= 128)).all(1).mean())
        centres.append((window.top + window.height / 2,
                        window.left + window.width / 2))
    assert np.min(shares) >= min_inside - 0.05  # labels are looked at coarsely
    assert np.min(shares) < min_inside + 0.2 or min_inside == 1
    assert np.max(centres) <= 128 + 8 and np.min(centres) >= 0


def test_turned_windows_lie_in_the_scene(parcels, build):
    scene = build(parcels).get_data_info(0)
    draw = SampleWindow((48, 48), min_inside=1.)
    loose = SampleWindow((48, 48))
    reach = {}
    for name, sample in (('all', draw), ('upright', loose)):
        corners = np.array([points_of(sample(scene)['window'], 2)
                            for _ in range(400)])
        reach[name] = corners.min(), corners.max()
    assert reach['all'][0] >= -1e-3 and reach['all'][1] <= 256 + 1e-3
    assert reach['upright'][0] < -5 and reach['upright'][1] > 261


def test_a_scene_without_room_is_named(parcels, build):
    scene = build(parcels).get_data_info(0)
    with pytest.raises(ValueError, match='a.tif.*300 x 300.*min_inside=1'):
        SampleWindow((300, 300), min_inside=1., scale_prob=0.)(scene)


def test_statistics_of_the_data(parcels):
    """By valid pixels; what differs between scenes is no deviation."""
    found = band_statistics(str(parcels), ['train', 'val'])
    for band, (mean, std) in enumerate(found):
        assert mean == pytest.approx(band + (10 * 1000 + 40 * 3000) / 4000)
        assert std == pytest.approx(3.)
    with pytest.raises(ValueError, match='no scene of'):
        band_statistics(str(parcels), ['val'])


def test_another_conversion_is_refused(parcels, build):
    build(parcels, conversion=dict(votes=['classes', 'x']))
    with pytest.raises(ValueError, match='--votes released or --votes x'):
        build(parcels, conversion=dict(votes=['released', 'x']))
    (parcels / 'manifest.json').unlink()
    with pytest.raises(FileNotFoundError, match='manifest.json'):
        build(parcels, conversion=dict(votes=['released', 'x']))


@pytest.mark.parametrize('spread, names', [
    (1, 'd'), (2, 'bf'), (3, 'bdf'), (7, 'abcdefg'), (9, 'abcdefg')])
def test_a_spread_of_the_scenes(tmp_path, make_scene, build, spread, names):
    for name in 'abcdefg':
        make_scene(tmp_path, 'train', name)
    dataset = build(tmp_path, spread=spread)
    found = [dataset.get_data_info(i)['img_path'][-5] for i in
             range(len(dataset))]
    assert ''.join(found) == names


@pytest.mark.parametrize('pixel, crs, ok', [
    (0.5, 'EPSG:32648', True), (0.502, 'EPSG:32648', True),
    (0.4, 'EPSG:32648', False), (0.5, None, True), (1., None, False),
    (0.5 / 0.3048, 'EPSG:2263', True)])  # in feet
def test_scenes_have_the_pixel_size_of_the_data_set(
        tmp_path, make_scene, build, pixel, crs, ok):
    image, _ = make_scene(tmp_path, 'train', 'a')
    with rasterio.open(image, 'r+') as raster:
        raster.transform = Affine(pixel, 0, 400000, 0, -pixel, 1500000)
        raster.crs = crs or rasterio.crs.CRS()
    settings = dict(metainfo=dict(pixel_size=0.5))
    if ok:
        build(tmp_path, **settings)
        return
    with pytest.raises(ValueError, match=r'a.tif.*pixels of.*256 pixels'):
        build(tmp_path, **settings)


class Seen(Hook):
    """Keeps the windows of each batch; may end a run as a kill would."""

    priority = 'LOWEST'

    def __init__(self, stop=None):
        self.stop, self.windows = stop, []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.windows.append(data_batch)
        if self.stop == runner.iter + 1:
            raise KeyboardInterrupt


class Numbers(torch.utils.data.Dataset):
    """Gives the numbers it is asked for, and counts."""

    metainfo = dict(classes=('a', ), palette=[[0, 0, 0]])
    asked = multiprocessing.Value('i', 0)  # by all processes

    def __len__(self):
        return 5

    def __getitem__(self, index):
        with self.asked.get_lock():
            self.asked.value += 1
        return index


class Nothing(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self.weight.square().sum())
        return dict(loss=self.weight.sum())

    def forward(self, x):
        return x


def windows(folder, workers, sampler, stop=None, resume=False):
    seen = Seen(stop)
    runner = RelayRunner(
        model=Nothing(), work_dir=str(folder), default_scope='mmseg',
        train_dataloader=dict(
            dataset=Numbers(), batch_size=2, num_workers=workers,
            sampler=sampler,
            collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=12),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=None, timer=None, checkpoint=dict(
            type='CheckpointHook', by_epoch=False, interval=stop or 99)),
        custom_hooks=[seen], log_level='ERROR', resume=resume,
        randomness=dict(seed=3), experiment_name=f'{folder}{stop}{resume}')
    if stop:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return seen.windows


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('stop', [3, 7])
@pytest.mark.parametrize('sampler', [
    dict(type='WindowSampler', samples_per_epoch=5),
    dict(type='InfiniteSampler'), dict(type='DefaultSampler', shuffle=True)],
    ids=lambda x: x['type'])
def test_a_resumed_run_sees_the_same_windows(tmp_path, workers, stop,
                                             sampler):
    """Three batches an epoch, the last one smaller; nothing read twice."""
    whole = windows(tmp_path / 'whole', 0, sampler)
    windows(tmp_path / 'parts', 0, sampler, stop)
    Numbers.asked.value = 0
    rest = windows(tmp_path / 'parts', workers, sampler, resume=True)
    assert rest == whole[stop:]
    if sampler['type'] == 'WindowSampler':
        assert Numbers.asked.value == sum(map(len, rest))


def test_several_data_sets_are_drawn_from_by_their_areas(tmp_path, make_scene):
    init_default_scope('mmseg')
    for name, side in (('small', 32), ('large', 96)):
        label = np.zeros((side, side), np.uint8)
        make_scene(tmp_path / name, 'train', name, np.stack([label] * 3),
                   label)
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[dict(
        type='DubaiDataset', data_root=str(tmp_path / name),
        data_prefix=dict(img_path='img_dir/train',
                         seg_map_path='ann_dir/train'),
        pipeline=[dict(type='SampleWindow', window=(16, 16)),
                  dict(type='ReadViews', fill=(0, 0, 0)),
                  dict(type='PackViews')]) for name in ('small', 'large')]))
    numbers = list(WindowSampler(both, 200, seed=1))
    share = np.mean(['large' in both[i]['data_samples'].img_path
                     for i in numbers])
    assert abs(share - 0.9) < 0.07  # 96 * 96 of 96 * 96 + 32 * 32 pixels
    one, again = (both[numbers[5]] for _ in range(2))
    assert one['data_samples'].window == again['data_samples'].window
    assert len(both) == 2 and 'small' in both[0]['data_samples'].img_path
    sampler = WindowSampler(both, coverage=2., window=(16, 16))
    assert len(sampler) == 2 * (32**2 + 96**2) / 16**2
