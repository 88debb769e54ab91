"""Which samples training draws."""
import json

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from relay_seg.datasets import DubaiDataset, WindowSampler
from relay_seg.datasets.balance import class_places
from relay_seg.datasets.sampling import NUMBERS


@pytest.fixture
def build():
    init_default_scope('mmseg')

    def dataset(root, **kwargs):
        return DubaiDataset(
            data_root=str(root), context_factors=(2, ),
            data_prefix=dict(
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
    with pytest.raises(ValueError, match='samples_per_epoch=0; use 1'):
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
