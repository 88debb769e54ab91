"""From a window on disk to a batch: pixels, labels, and nothing moved."""
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmcv.transforms import Compose
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion
from torch.utils.data._utils.pin_memory import pin_memory

from relay_seg.data_preprocessor import ViewsDataPreprocessor
from relay_seg.datasets.labels import label_lookup
from relay_seg.rasters import EXACT_OVERVIEWS
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.structures import view_labels
from relay_seg.transforms import (
    FlipViews,
    PackViews,
    PhotoMetricViews,
    ReadScene,
    ReadViews,
    SampleWindow,
)
from relay_seg.transforms.reading import ids_of_model
from relay_seg.views import (
    Window,
    area_mean,
    center,
    contexts_of,
    crop,
    cut_views,
    plan_windows,
    reader,
    resample,
    surroundings,
)

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IGNORE = 255
SHAPE = 150, 170
CORNER = Window(0, 0, 32, 48)
#: Windows (32 x 48) inside, over each border and corner, and off the scene.
WINDOWS = [(60, 60), (-10, 50), (130, 50), (60, -20), (60, 150), (-5, -7),
           (140, 160), (-200, 60), (60, 400), (3, 5)]


def pixels(path):
    with rasterio.open(path) as raster:
        return raster.read()


def asked(scene, window=CORNER, factors=(2, 4), size=None):
    """What a data set and ``SampleWindow`` hand to the reading transforms."""
    return dict(
        img_path=str(scene[0]), seg_map_path=str(scene[1]),
        label_lookup=label_lookup(5, None, False), window=window,
        window_size=size or window[2:4], input_size=size or window[2:4],
        scene_shape=SHAPE,
        contexts=contexts_of(factors), reduce_zero_label=False)


@pytest.fixture
def scene(tmp_path, make_scene):
    return make_scene(tmp_path, 'train', 'a')


@pytest.fixture
def nested():
    """Views and labels of a scene of 4 x 4 blocks of one colour and class.

    Each pixel of the global view (k = 4) is one block: its middle must show
    the local view, every fourth pixel of it.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 16, 24)).astype(np.float32)
    classes = rng.integers(0, 5, (16, 24), np.uint8)
    fine = np.kron(coarse, np.ones((1, 4, 4), np.float32))
    label = np.kron(classes, np.ones((4, 4), np.uint8))
    window = Window(24, 36, 16, 24)
    return dict(
        views=cut_views(reader(fine, 0), window, contexts_of((4, ))),
        labels=(crop(label, window, IGNORE), label))


def assert_nested(views):
    local, wide = views
    np.testing.assert_array_equal(
        local[..., ::4, ::4], center(torch.from_numpy(wide.copy()), 4))


# Windows


def draws(count=2000, shape=(1000, 1200), size=(64, 96), **kwargs):
    sample = SampleWindow(size, **kwargs)
    return [sample(dict(scene_shape=shape))['window'] for _ in range(count)]


@pytest.mark.parametrize('law, median, above', [
    ('log', 1., 0.5), ('uniform', 1.25, 2 / 3)])
def test_scales_follow_their_law(law, median, above):
    scales = np.array([w.height / 64 for w in draws(
        4000, scale_prob=1., scale_law=law)])
    assert scales.min() >= 0.5 and scales.max() <= 2.
    assert abs(np.median(scales) - median) < 0.05
    assert abs((scales > 1).mean() - above) < 0.04


def test_whole_angles_of_a_range():
    angles = {w.angle for w in draws(
        4000, rotate_prob=1., angles=(0, 89), whole_angles=True)}
    assert angles == set(map(float, range(90)))


@pytest.mark.parametrize('settings, message', [
    (dict(scale_law='normal'), "scale_law='normal'"),
    (dict(min_inside=0.), 'min_inside=0.0 is no share'),
    (dict(min_inside=1.5), 'min_inside=1.5 is no share')])
def test_settings_of_windows_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleWindow((64, 64), **settings)


def test_windows_lie_on_the_grid_of_the_coarsest_view():
    sample = SampleWindow((64, 64), (32, 32), scale_prob=0., rotate_prob=0.)
    for _ in range(50):
        window = sample(dict(scene_shape=(500, 500),
                             contexts=contexts_of((4, ))))['window']
        for at in window[:2]:
            assert at % 8 == 0 or at == 500 - 64


@pytest.mark.parametrize('side', [570, 571, 576, 480])
def test_both_borders_are_seen_as_often(side):
    sample = SampleWindow((512, 512), (128, 128), scale_prob=0.,
                          rotate_prob=0.)
    info = dict(scene_shape=(side, side), contexts=contexts_of((4, )))
    starts = np.array([sample(dict(info))['window'][:2] for _ in range(2000)])
    low, high = sorted((0, side - 512))
    assert starts.min() == low and starts.max() == high
    assert (starts == low).mean() == pytest.approx(
        (starts == high).mean(), abs=0.04)


def test_half_of_the_windows_are_scaled_and_half_are_turned():
    windows = draws()
    scaled = np.array([w[2:4] != (64, 96) for w in windows])
    turned = np.array([w.angle != 0 for w in windows])
    for share, expected in ((scaled, 0.5), (turned, 0.5),
                            (scaled & turned, 0.25)):
        # One in 32 scaled windows rounds to the native size.
        assert share.mean() == pytest.approx(expected, abs=0.04)


def test_scale_is_logarithmic_and_the_same_for_both_sides():
    windows = draws(scale_prob=1.)
    scales = np.array([w.height / 64 for w in windows])
    assert 0.5 <= scales.min() < 0.55 and 1.9 < scales.max() <= 2
    assert np.log(scales).mean() == pytest.approx(0, abs=0.04)
    assert (scales < np.sqrt(0.5)).mean() == pytest.approx(0.25, abs=0.04)
    assert all(abs(w.width / 96 - w.height / 64) < 0.03 for w in windows)


def test_scaled_sides_are_even_and_never_zero():
    for size in ((64, 96), (33, 1)):
        for window in draws(300, size=size, scale_prob=1.):
            assert window.height % 2 == window.width % 2 == 0
            assert min(window[2:4]) > 0


def test_angles_are_uniform_in_both_directions():
    angles = np.array([w.angle for w in draws(rotate_prob=1.,
                                              angles=(-40., 40.))])
    assert -40 <= angles.min() < -38 and 38 < angles.max() <= 40
    assert np.abs(angles).mean() == pytest.approx(20, abs=1.5)
    assert angles.mean() == pytest.approx(0, abs=2)


def test_windows_lie_inside_a_larger_scene_and_reach_its_ends():
    windows = draws(shape=(150, 170), size=(64, 64))
    assert all(w.top >= 0 and w.left >= 0 and w.top + w.height <= 150
               and w.left + w.width <= 170 for w in windows)
    native = [w for w in windows if w.height == 64]
    assert min(w.top for w in native) == min(w.left for w in native) == 0
    assert max(w.top for w in native) == 150 - 64
    assert max(w.left for w in native) == 170 - 64


def test_windows_cover_a_smaller_scene_at_varied_places():
    windows = draws(200, shape=(40, 170), scale_prob=0.)
    assert all(w.top <= 0 and w.top + w.height >= 40 for w in windows)
    assert {w.top for w in windows} == set(range(40 - 64, 1))


def test_without_augmentation_the_window_is_native():
    for window in draws(50, size=(33, 51), scale_prob=0., rotate_prob=0.):
        assert window[2:] == (33, 51, 0)


def test_sampling_follows_the_seed():
    first = draws(20)
    np.random.seed(0)
    assert draws(20) == first


# Reading


@pytest.mark.parametrize('suffix', ['.tif', '.png', '.jpg'])
@pytest.mark.parametrize('place', WINDOWS)
def test_upright_views_are_cut_views_of_the_file(suffix, place, tmp_path,
                                                 make_scene):
    scene = make_scene(tmp_path, 'train', 'a', suffix=suffix)
    window = Window(*place, 32, 48)
    out = ReadViews(fill=MEAN)(asked(scene, window))
    image = pixels(scene[0]).astype(np.float32)
    expected = cut_views(reader(image, MEAN), window, contexts_of((2, 4)))
    assert len(out['views']) == 3
    for ours, theirs in zip(out['views'], expected):
        assert ours.dtype == np.float32 and ours.shape == (3, 32, 48)
        np.testing.assert_array_equal(ours, theirs)
    label = pixels(scene[1])[0]
    for k, ours in zip((1, 2, 4), out['labels']):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(
            ours, crop(label, surroundings(window, k), IGNORE))


@pytest.mark.parametrize('angle, extent', [
    (35., (32, 48)), (0., (18, 26)), (0., (64, 96)), (-80., (18, 26)),
    (170., (64, 96))])
@pytest.mark.parametrize('place', [(60, 60), (-12, 150)])
def test_turned_views_are_resampled_from_the_file(scene, angle, extent,
                                                  place):
    window = Window(*place, *extent, angle)
    out = ReadViews(fill=MEAN)(asked(scene, window, size=(32, 48)))
    image, label = map(pixels, scene)
    for i, k in enumerate((1, 2, 4)):
        wide = surroundings(window, k)
        np.testing.assert_allclose(
            out['views'][i],
            resample(reader(image.astype(np.float32), MEAN),
                     wide, (32, 48), smooth=True), atol=1e-3)
        np.testing.assert_array_equal(
            out['labels'][i],
            resample(reader(label, IGNORE), wide,
                     (k * 32, k * 48), smooth=False)[0])


@pytest.mark.parametrize('angle', [0., 90., 20.])
def test_labels_turn_and_scale_with_their_image(tmp_path, make_scene, angle):
    # One band says the class: views and labels must go on agreeing.
    coarse = np.random.randint(0, 5, (15, 17), np.uint8)
    label = np.kron(coarse, np.ones((10, 10), np.uint8))
    image = np.stack([label * 50] * 3)
    scene = make_scene(tmp_path, 'train', 'a', image, label)
    window = Window(40, 30, 48, 72, angle)
    out = ReadViews(fill=MEAN)(asked(scene, window, (), size=(32, 48)))
    agree = np.abs(out['views'][0][0] - out['labels'][0] * 50.) < 1
    assert agree.mean() > 0.7  # all but the pixels between two blocks
    turned = np.rot90(out['labels'][0], 2) * 50.
    assert (np.abs(out['views'][0][0] - turned) < 1).mean() < 0.5


@pytest.mark.parametrize('dtype', [
    'int8', 'int16', 'uint16', 'int32', 'uint32', 'float32'])
def test_label_files_of_any_type_are_read(tmp_path, make_scene, dtype):
    label = np.random.randint(0, 5, SHAPE).astype(dtype)
    scene = make_scene(tmp_path, 'train', 'a', label=label)
    plain = make_scene(tmp_path, 'train', 'b', label=label.astype('uint8'))
    for angle in (0., 30.):
        window = Window(-9, 50, 32, 48, angle)
        for ours, theirs in zip(
                ReadViews(MEAN)(asked(scene, window))['labels'],
                ReadViews(MEAN)(asked(plain, window))['labels']):
            assert ours.dtype == np.uint8
            np.testing.assert_array_equal(ours, theirs)


def test_local_label_is_the_middle_of_the_global_one(scene):
    for angle in (45., *np.random.uniform(-90, 90, 20)):
        window = Window(20, 30, 48, 48, angle)
        local, *wide = ReadViews(fill=MEAN)(
            asked(scene, window, (2, 4), size=(32, 32)))['labels']
        np.testing.assert_array_equal(center(wide[0], 2), local)
        assert (center(wide[1], 4) == local).mean() > 0.99


def test_a_plain_model_gets_the_local_view_only(scene):
    out = ReadViews(fill=MEAN)(asked(scene, Window(9, 9, 32, 32), ()))
    assert len(out['views']) == len(out['labels']) == 1
    assert out['img_shape'] == out['ori_shape'] == (32, 32)


@pytest.mark.parametrize('window', [
    Window(-20, 150, 32, 48), Window(-20, 140, 40, 60),
    Window(-10, -10, 32, 48, 30.)])
def test_outside_is_zero_for_the_model_and_ignored(scene, window):
    out = ReadViews(fill=MEAN)(asked(scene, window, size=(32, 48)))
    inside = np.ones((1, *SHAPE), np.float32)
    normalise = ViewsDataPreprocessor(MEAN, STD).normalise
    for i, k in enumerate((1, 2, 4)):
        wide = surroundings(window, k)
        share = resample(reader(inside, 0), wide, (32, 48),
                         smooth=True)[0]
        view = normalise([torch.from_numpy(out['views'][i])])[0]
        assert (share == 0).any() and (share == 1).any()
        assert view[:, share == 0].abs().max() < 1e-5
        assert view[:, share == 1].abs().mean() > 0.1
        share = resample(reader(inside, 0), wide,
                         (32 * k, 48 * k), smooth=False)[0]
        assert (out['labels'][i][share == 0] == IGNORE).all()
        assert (out['labels'][i][share == 1] != IGNORE).mean() > 0.5


def test_outside_of_a_local_view_is_exactly_zero(scene):
    out = ReadViews(fill=MEAN)(asked(scene, Window(-8, 160, 32, 48), ()))
    view = ViewsDataPreprocessor(MEAN, STD).normalise(
        [torch.from_numpy(out['views'][0])])[0]
    assert (view[:, :8] == 0).all() and (view[:, :, 10:] == 0).all()
    assert (view[:, 8:, :10] != 0).float().mean() > 0.9


# Bands


@pytest.mark.parametrize('bands, count', [
    ((1, 2, 3, 4), 4), ((3, 2, 1), 4), ((4, ), 4), (None, 4), ((1, ), 1),
    (None, 1)])
def test_bands_are_chosen_and_ordered(tmp_path, make_scene, bands, count):
    image = np.random.randint(0, 4000, (count, *SHAPE), np.uint16)
    label = np.zeros(SHAPE, np.uint8)
    scene = make_scene(tmp_path, 'train', 'a', image, label)
    chosen = image[[i - 1 for i in bands or range(1, count + 1)]]
    fill = tuple(range(100, 100 + len(chosen)))
    window = Window(-3, 7, 32, 48)
    views = ReadViews(fill, bands)(asked(scene, window))['views']
    expected = cut_views(
        reader(chosen.astype(np.float32), fill), window,
        contexts_of((2, 4)))
    for ours, theirs in zip(views, expected):
        np.testing.assert_array_equal(ours, theirs)
    whole = ReadScene(len(chosen), bands)(asked(scene, window))['img']
    np.testing.assert_array_equal(whole, chosen.transpose(1, 2, 0))


@pytest.mark.parametrize('bands, count', [
    (None, 1), (None, 5), ((1, 2), 4)])
@pytest.mark.parametrize('whole', [False, True])
def test_other_bands_than_the_models_are_refused(tmp_path, make_scene, bands,
                                                 count, whole):
    scene = make_scene(tmp_path, 'train', 'odd',
                       np.zeros((count, *SHAPE), np.uint8))
    read = ReadScene(3, bands) if whole else ReadViews(MEAN, bands)
    with pytest.raises(ValueError, match=f'odd.tif.* {count} bands.*in_chan'):
        read(asked(scene))


@pytest.mark.parametrize('bands', [(1, 2, 4), (0, 1, 2)])
def test_bands_that_the_file_lacks_are_refused(scene, bands):
    for read in (ReadViews(MEAN, bands), ReadScene(3, bands)):
        with pytest.raises(ValueError, match='a.tif has.* 3.*1 is the first'):
            read(asked(scene))


# Whole scenes


def test_read_scene_gives_what_is_in_the_files(scene):
    out = ReadScene(3)(asked(scene))
    image, label = map(pixels, scene)
    assert out['img'].dtype == np.uint8
    np.testing.assert_array_equal(out['img'], image.transpose(1, 2, 0))
    np.testing.assert_array_equal(out['gt_seg_map'], label[0])
    assert out['img_shape'] == out['ori_shape'] == SHAPE


def test_read_scene_needs_no_label(scene):
    out = ReadScene(3)(dict(img_path=str(scene[0]), scene_shape=SHAPE))
    assert 'gt_seg_map' not in out


# Damaged files


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes(b'no image' * 99 if how == 'garbage'
                     else data[:len(data) // 2])


@pytest.mark.parametrize('how', ['garbage', 'half'])
@pytest.mark.parametrize('whole', [False, True])
def test_a_damaged_label_is_named(scene, how, whole):
    damage(scene[1], how)
    read = ReadScene(3) if whole else ReadViews(MEAN)
    with pytest.raises(ValueError, match='ann_dir.*a.tif.*Replace it'):
        read(asked(scene, Window(100, 100, 32, 48)))


@pytest.mark.parametrize('suffix', ['.tif', '.png', '.jpg'])
def test_a_file_that_is_no_image_is_named(tmp_path, make_scene, suffix):
    scene = make_scene(tmp_path, 'train', 'a', suffix=suffix)
    damage(scene[0], 'garbage')
    for read in (ReadViews(MEAN), ReadScene(3)):
        with pytest.raises(ValueError, match=f'img_dir.*a{suffix}.*Replace'):
            read(asked(scene, Window(100, 100, 32, 48)))


@pytest.mark.parametrize('suffix', ['.tif', '.jpg', '.png'])
def test_a_scene_that_ends_too_early_is_named(tmp_path, make_scene, suffix):
    scene = make_scene(tmp_path, 'train', 'a', suffix=suffix)
    damage(scene[0], 'half')
    with pytest.raises(ValueError, match=f'img_dir.*a{suffix}.*Replace'):
        ReadScene(3)(asked(scene))


@pytest.mark.parametrize('suffix', ['.tif', '.jpg', '.png'])
def test_a_window_of_a_file_that_ends_too_early_is_named(
        tmp_path, make_scene, suffix):
    scene = make_scene(tmp_path, 'train', 'a', suffix=suffix)
    damage(scene[0], 'half')
    with pytest.raises(ValueError, match=f'img_dir.*a{suffix}.*Replace'):
        ReadViews(MEAN)(asked(scene, Window(100, 100, 32, 48)))


def test_a_whole_small_scene_that_ends_too_early_is_named(
        tmp_path, make_scene):
    """GDAL reads a whole PNG in another way, which does not notice."""
    scene = make_scene(tmp_path, 'train', 'a', suffix='.png')
    damage(scene[0], 'half')
    window = Window(0, 0, *SHAPE)
    for _ in range(2):
        with pytest.raises(ValueError, match='img_dir.*a.png'):
            ReadViews(MEAN)(asked(scene, window, ()))


def test_a_file_that_is_gone_is_named(scene):
    scene[0].unlink()
    for read in (ReadViews(MEAN), ReadScene(3)):
        with pytest.raises(FileNotFoundError, match='a.tif.*data_root'):
            read(asked(scene, Window(100, 100, 32, 48)))


@pytest.mark.parametrize('window', [Window(0, 0, 64, 64),
                                    Window(0, 0, 64, 64, 30.)])
def test_an_unknown_class_is_named(tmp_path, make_scene, window):
    label = np.full(SHAPE, 3, np.uint8)
    label[20:40, 20:40] = 7
    scene = make_scene(tmp_path, 'train', 'odd', label=label)
    for read in (ReadViews(MEAN), ReadScene(3)):
        with pytest.raises(ValueError, match=r'odd.tif.*\[7\].*4, 255'):
            read(asked(scene, window))


# Augmentation


@pytest.mark.parametrize('horizontal', [0., 1.])
@pytest.mark.parametrize('vertical', [0., 1.])
def test_flips_keep_views_nested(nested, horizontal, vertical):
    before = [x.copy() for x in (*nested['views'], *nested['labels'])]
    assert_nested(nested['views'])
    out = FlipViews(horizontal, vertical)(dict(nested))
    axes = [axis for axis, on in ((-1, horizontal), (-2, vertical)) if on]
    for ours, x in zip((*out['views'], *out['labels']), before):
        np.testing.assert_array_equal(ours, np.flip(x, axes))
    assert_nested(out['views'])
    np.testing.assert_array_equal(
        out['labels'][0], center(torch.from_numpy(out['labels'][1].copy()),
                                 4))
    for x, copy in zip((*nested['views'], *nested['labels']), before):
        np.testing.assert_array_equal(x, copy)


def test_each_flip_comes_in_its_share(nested):
    flip = FlipViews(horizontal=0.25, vertical=0.5)
    corner = {tuple(np.flip(nested['views'][0], axes)[:, 0, 0]): axes
              for axes in ((), (-1, ), (-2, ), (-2, -1))}
    assert len(corner) == 4
    seen = [corner[tuple(flip(dict(nested))['views'][0][:, 0, 0])]
            for _ in range(800)]
    assert np.mean([-1 in axes for axes in seen]) == pytest.approx(
        0.25, abs=0.05)
    assert np.mean([-2 in axes for axes in seen]) == pytest.approx(
        0.5, abs=0.05)


def test_colours_change_alike_in_all_views(nested):
    distort, changed = PhotoMetricViews(), 0
    before = nested['views']
    for _ in range(20):
        views = distort(dict(nested))['views']
        assert [x.shape for x in views] == [x.shape for x in before]
        assert all(x.dtype == np.uint8 for x in views)
        assert_nested(views)
        changed += not np.array_equal(views[0], before[0])
    assert changed >= 10
    assert nested['views'] is before


def host_colours(views):
    """Views that the host's transform made of one image of all of them."""
    image = np.concatenate([view[2::-1] for view in views], axis=1)
    image = np.nan_to_num(image, nan=0.).round().astype(np.uint8)
    image = np.ascontiguousarray(image.transpose(1, 2, 0))
    image = PhotoMetricDistortion()(dict(img=image))['img']
    return np.split(image.transpose(2, 0, 1)[::-1], len(views), axis=1)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('flipped', [False, True])
def test_colours_change_as_in_the_host(dtype, flipped):
    """Draw by draw and value by value, with all kinds of changes."""
    views = tuple(np.random.uniform(0, 255, (3, 16, 24)).astype(dtype)
                  for _ in range(3))
    if flipped:
        views = tuple(view[..., ::-1] for view in views)
    changed = 0
    for seed in range(60):
        np.random.seed(seed)
        ours = PhotoMetricViews()(dict(views=views))['views']
        drawn = np.random.rand()
        np.random.seed(seed)
        theirs = host_colours(views)
        assert np.random.rand() == drawn
        for a, b, before in zip(ours, theirs, views):
            assert a.dtype == np.uint8
            np.testing.assert_array_equal(a, b)
            changed += (a != before.round()).any()
    assert changed > 60


def test_places_without_data_and_other_bands_stay():
    views = tuple(np.random.uniform(0, 255, (5, 16, 24)).astype(np.float32)
                  for _ in range(2))
    views[0][:, 3:5] = np.nan
    views[1][1, 0, 0] = np.nan
    for seed in range(10):
        np.random.seed(seed)
        ours = PhotoMetricViews()(dict(views=views))['views']
        np.random.seed(seed)
        for a, b, before in zip(ours, host_colours(views), views):
            hidden = np.isnan(before[:3])
            assert a.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(a[:3]), hidden)
            np.testing.assert_array_equal(a[:3][~hidden], b[~hidden])
            np.testing.assert_array_equal(a[3:], before[3:])


def test_colour_arguments_are_the_hosts():
    image = np.full((3, 8, 8), 100, np.float32)
    still = PhotoMetricViews(brightness_delta=0, contrast_range=(1, 1),
                             saturation_range=(1, 1), hue_delta=1)
    for _ in range(10):
        out = still(dict(views=(image, )))['views'][0]
        assert abs(out - image).max() <= 1


def test_other_bands_keep_their_values():
    image = np.random.rand(5, 8, 8).astype(np.float32) * 200
    for _ in range(10):
        out = PhotoMetricViews()(dict(views=(image, image[:, ::-1])))
        np.testing.assert_array_equal(out['views'][0][3:], image[3:])
        np.testing.assert_array_equal(out['views'][1][3:], image[3:, ::-1])


@pytest.mark.parametrize('bands', [1, 2])
def test_colours_of_one_band_are_refused(bands):
    view = np.zeros((bands, 8, 8), np.float32)
    for _ in range(20):
        with pytest.raises(ValueError, match='PhotoMetricViews'):
            PhotoMetricViews()(dict(views=(view, )))


@pytest.mark.parametrize('value', [-1, 256, 9000])
def test_colours_that_are_not_of_8_bits_are_refused(value):
    view = np.full((3, 8, 8), np.nan, np.float32)
    PhotoMetricViews()(dict(views=(view, )))  # no data at all is fine
    view[:, 4:] = value
    with pytest.raises(ValueError, match=f'a.tif has values.* {value}'):
        PhotoMetricViews()(dict(views=(view, ), img_path='a.tif'))


# Batches


def packed(scene, window, factors=(2, 4)):
    return PackViews()(ReadViews(MEAN)(asked(scene, window, factors)))


def test_a_batch_is_a_tuple_of_tensors_and_labels_of_each_view(
        tmp_path, make_scene):
    scenes = [make_scene(tmp_path, 'train', name) for name in 'ab']
    window = Window(-5, 60, 32, 48)
    flipped = [FlipViews(1., 1.)(ReadViews(MEAN)(asked(scene, window)))
               for scene in scenes]
    batch = ViewsDataPreprocessor(MEAN, STD)(
        pseudo_collate([PackViews()(x) for x in flipped]), training=True)
    views, samples = batch['inputs'], batch['data_samples']
    assert isinstance(views, tuple) and len(views) == 3
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    for i, view in enumerate(views):
        assert view.shape == (2, 3, 32, 48) and view.dtype == torch.float32
        label = view_labels(samples, i)
        k = (1, 2, 4)[i]
        assert label.shape == (2, 32 * k, 48 * k)
        assert label.dtype == (torch.uint8 if i else torch.int64)
        for b in range(2):
            expected = (torch.from_numpy(flipped[b]['views'][i].copy())
                        - mean) / std
            assert torch.allclose(view[b], expected, atol=1e-6)
            np.testing.assert_array_equal(label[b], flipped[b]['labels'][i])
    for scene, sample in zip(scenes, samples):
        assert sample.img_path == str(scene[0])
        assert sample.window == window
        assert sample.img_shape == (32, 48)


# What travels to the device


def piped(scene, window, fill=MEAN, colours=False, size=(32, 48)):
    """By the pipeline of the configs, or without changes of colour."""
    steps = [ReadViews(fill), FlipViews()]
    steps += [PhotoMetricViews()] if colours else []
    return Compose([*steps, PackViews()])(
        asked(scene, window, (4, ), size))


def bytes_of(sample):
    labels = [field.data for _, field in sample['data_samples'].items()]
    return sum(x.nbytes for x in (*sample['inputs'], *labels))


@pytest.mark.parametrize('window', [
    Window(60, 60, 32, 48), Window(60, 60, 50, 70), Window(60, 60, 32, 48, 9.),
    Window(-10, -10, 32, 48)])
def test_a_sample_weighs_its_pixels(scene, window):
    """A byte for each number: also turned, scaled, and outside."""
    sample = piped(scene, window, colours=True)
    assert bytes_of(sample) == (2 * 3 + 1 + 16) * 32 * 48


def test_a_usual_sample_weighs_less_than_half_of_floats(scene):
    """As float32, with the local label as int64, it would be 3 MiB."""
    sample = piped(scene, Window(-60, -50, 256, 256), colours=True,
                   size=(256, 256))
    assert bytes_of(sample) == 1507328  # 1.44 MiB


@pytest.mark.parametrize('window, fill, narrow, wide', [
    (Window(60, 60, 32, 48), MEAN, np.uint8, np.float32),
    (Window(60, 60, 32, 48, 9.), MEAN, np.float32, np.float32),
    (Window(60, 60, 50, 70), MEAN, np.float32, np.float32),
    # No byte lies outside, or one does.
    (Window(-10, 60, 32, 48), MEAN, np.float32, np.float32),
    (Window(-10, 60, 32, 48), (0, 0, 0), np.uint8, np.float32)])
def test_views_of_bytes_travel_as_bytes(scene, window, fill, narrow, wide):
    packed = piped(scene, window, fill)['inputs']
    assert [x.numpy().dtype for x in packed] == [narrow, wide]


def test_overviews_of_bytes_travel_as_bytes(tmp_path, make_scene):
    scene = make_scene(tmp_path, 'train', 'a',
                       np.random.randint(0, 256, (3, 320, 320), np.uint8),
                       np.zeros((320, 320), np.uint8))
    with rasterio.open(scene[0], 'r+') as raster:
        raster.build_overviews([4], rasterio.enums.Resampling.average)
        raster.update_tags(**{EXACT_OVERVIEWS: '1'})
    packed = piped(scene, Window(100, 100, 32, 48))['inputs']
    assert [x.dtype for x in packed] == [torch.uint8] * 2


def test_a_view_arrives_as_it_was(scene):
    """Whether it travels as bytes or not: bit by bit, in one batch."""
    windows = [Window(60, 60, 32, 48), Window(-9, 60, 32, 48, 9.),
               Window(50, 50, 32, 48)]
    read = [ReadViews(MEAN)(asked(scene, w, (4, ), (32, 48)))
            for w in windows]
    batch = pseudo_collate([PackViews()(x) for x in read])
    assert {x.dtype for x in batch['inputs'][0]} == {
        torch.uint8, torch.float32}
    arrived = ViewsDataPreprocessor(MEAN, STD)(batch, True)['inputs']
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    for i, view in enumerate(arrived):
        for found, before in zip(view, read):
            whole = torch.from_numpy(before['views'][i].copy())
            assert whole.dtype == torch.float32
            assert torch.equal(found, (whole - mean) / std)


@pytest.mark.parametrize('value, kept', [
    (0.5, False), (-1, False), (256, False), (1e9, False), (np.nan, False),
    (np.inf, False), (255, True), (0, True)])
def test_only_bytes_become_bytes(value, kept):
    view = np.full((3, 4, 4), 7, np.float32)
    view[1, 2, 3] = value
    packed = PackViews()(dict(views=(view, ), labels=()))['inputs'][0]
    assert packed.dtype == (torch.uint8 if kept else torch.float32)
    np.testing.assert_array_equal(packed, view)


def test_labels_are_pinned_with_their_views(scene, monkeypatch):
    """By what a data loader asks for (no memory is pinned without a GPU)."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, 'pin_memory',
                        lambda x: pinned.append(x.nbytes) or x.clone())
    batch = pseudo_collate([piped(scene, Window(60, 60, 32, 48))] * 2)
    again = pin_memory(batch)
    views = [x.nbytes for view in batch['inputs'] for x in view]
    pixels = 32 * 48
    assert sorted(pinned) == sorted(views + 2 * [pixels, 16 * pixels])
    for ours, theirs in zip(again['data_samples'], batch['data_samples']):
        assert ours.metainfo == theirs.metainfo
        for i in range(2):
            assert torch.equal(
                view_labels([ours], i), view_labels([theirs], i))


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_flips_of_any_type_and_shape_are_numpys(dtype):
    x = np.random.randint(0, 9, (4, 6, 10)).astype(dtype)
    for part in (x, x[:, 1:5, 2:7], x[0]):
        for axes in ((-1, ), (-2, ), (-1, -2)):
            out = FlipViews(-1 in axes, -2 in axes)(
                dict(views=(part, ), labels=(part, )))
            for found in (*out['views'], *out['labels']):
                np.testing.assert_array_equal(found, np.flip(part, axes))
                assert found.dtype == dtype


@pytest.mark.parametrize('lookup', [
    label_lookup(5, None, False), label_lookup(5, None, True),
    label_lookup(5, {0: 4, 1: 255, 3: 0}, False)])
def test_labels_are_looked_up_or_left(lookup):
    known = np.flatnonzero(lookup >= 0)
    label = np.random.choice(known, (40, 60)).astype(np.uint8)
    found = ids_of_model(label, lookup, 'a.tif')
    np.testing.assert_array_equal(found, lookup[label])
    label[3, 4] = 77
    with pytest.raises(ValueError, match=r'a.tif holds ids \[77\]'):
        ids_of_model(label, lookup, 'a.tif')


def test_a_missing_label_of_a_view_is_named(scene):
    sample = packed(scene, Window(0, 0, 32, 32), ())['data_samples']
    with pytest.raises(ValueError, match="a.tif.*view 1.*'center'"):
        view_labels([sample], 1)


def test_scenes_are_normalised_as_views_are(scene):
    batch = pseudo_collate([PackSegInputs()(
        ReadScene(3)(asked(scene)))])
    out = ViewsDataPreprocessor(MEAN, STD)(batch, training=False)['inputs']
    expected = ((pixels(scene[0]) - np.reshape(MEAN, (3, 1, 1)))
                / np.reshape(STD, (3, 1, 1)))
    assert out.shape == (1, 3, *SHAPE) and out.dtype == torch.float32
    np.testing.assert_allclose(out[0], expected, atol=1e-5)


def test_scenes_of_two_sizes_in_a_batch_are_refused():
    scenes = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    with pytest.raises(ValueError, match='differ in shape.*batch_size=1'):
        ViewsDataPreprocessor(MEAN, STD)(dict(inputs=scenes))


@pytest.mark.parametrize('bands', [1, 4])
def test_a_batch_of_other_bands_is_refused(bands):
    with pytest.raises(ValueError, match=f'have {bands} bands.*3.*in_chann'):
        ViewsDataPreprocessor(MEAN, STD)(
            dict(inputs=[torch.zeros(bands, 8, 8)]))


@pytest.mark.parametrize('mean, std', [((1, 2), (1, )), ((1, ), (0, ))])
def test_senseless_deviations_are_refused(mean, std):
    with pytest.raises(ValueError, match='each band'):
        ViewsDataPreprocessor(mean, std)


# Training sees what inference sees


class Recorder(SlideEncoderDecoder):
    """Slide inference that keeps the views it would give to a network."""

    def __init__(self, factors):
        torch.nn.Module.__init__(self)
        self.contexts, self.seen = contexts_of(factors), []
        self.relative_bands = ()
        self.decode_head = SimpleNamespace(out_channels=1)
        self.out_channels = 1

    def window_logits(self, views, size):
        self.seen.append(views)
        return torch.nn.functional.interpolate(views[0][:, :1], size)


@pytest.mark.parametrize('size, stride', [
    ((64, 64), (40, 64)),
    ((33, 51), (30, 51)),
    ((160, 64), (160, 32)),  # higher than the scene
    ((192, 192), (192, 192))  # larger than the scene
])
@pytest.mark.parametrize('suffix', ['.tif', '.png', '.jpg'])
def test_training_cuts_the_pixels_that_inference_cuts(
        tmp_path, make_scene, size, stride, suffix):
    scene, factors = make_scene(tmp_path, 'train', 'a', suffix=suffix), (2, 4)
    normalise = ViewsDataPreprocessor(MEAN, STD)
    whole = normalise(pseudo_collate([
        PackSegInputs()(ReadScene(3)(asked(scene)))]))
    model = Recorder(factors)
    model.test_cfg = ConfigDict(
        crop_size=size, stride=stride, batch_size=5)
    out = model._slide(whole['inputs'], model.slide())
    # All weights add up: where each window shows itself, the sum does too.
    assert torch.allclose(out, whole['inputs'][:, :1], atol=1e-5)
    tested = [torch.cat(view) for view in zip(*model.seen)]

    windows = plan_windows(SHAPE, size, stride)
    trained = normalise(
        pseudo_collate([packed(scene, w, factors) for w in windows]),
        training=True)
    assert len(tested) == len(trained['inputs']) == 3
    for ours, theirs in zip(trained['inputs'], tested):
        assert ours.shape == theirs.shape == (len(windows), 3, *size)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)

    label = pixels(scene[1])[0]
    truth = whole['data_samples'][0].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(truth, label)
    for i, k in enumerate((1, *factors)):
        for ours, w in zip(view_labels(trained['data_samples'], i), windows):
            np.testing.assert_array_equal(
                ours, crop(label, surroundings(w, k), IGNORE))


@pytest.mark.parametrize('size, input_size', [
    ((64, 64), (32, 32)), ((48, 96), (32, 64)), ((32, 32), (64, 64)),
    ((192, 192), (64, 64))])
@pytest.mark.parametrize('suffix', ['.tif', '.png'])
def test_training_sees_what_inference_sees_at_another_size(
        tmp_path, make_scene, size, input_size, suffix):
    """Two native pixels under one of the input, one and a half, a half."""
    scene, factors = make_scene(tmp_path, 'train', 'a', suffix=suffix), (2, 4)
    normalise = ViewsDataPreprocessor(MEAN, STD)
    whole = normalise(pseudo_collate([
        PackSegInputs()(ReadScene(3)(asked(scene)))]))
    model = Recorder(factors)
    model.test_cfg = ConfigDict(crop_size=size, stride=size, batch_size=5,
                                input_size=input_size)
    model._slide(whole['inputs'], model.slide())
    tested = [torch.cat(view) for view in zip(*model.seen)]

    windows = plan_windows(SHAPE, size, size)
    read = Compose([ReadViews(MEAN), PackViews()])
    trained = normalise(pseudo_collate([
        read(asked(scene, w, factors) | dict(input_size=input_size))
        for w in windows]), training=True)
    for ours, theirs in zip(trained['inputs'], tested, strict=True):
        assert ours.shape == theirs.shape == (len(windows), 3, *input_size)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)

    # Labels: the native pixel nearest to each pixel of the input.
    label = pixels(scene[1])[0]
    step = size[0] / input_size[0]
    for i, k in enumerate((1, *factors)):
        for ours, w in zip(view_labels(trained['data_samples'], i), windows):
            native = crop(label, surroundings(w, k), IGNORE)
            assert ours.shape == tuple(k * side for side in input_size)
            rows, columns = (
                (np.arange(k * side) + 0.5) * step - 0.5
                for side in input_size)
            # Between two pixels either is right.
            near = [native[np.ix_(
                np.round(rows + d).astype(int).clip(0, len(native) - 1),
                np.round(columns + e).astype(int).clip(
                    0, native.shape[1] - 1))]
                for d in (-1e-3, 1e-3) for e in (-1e-3, 1e-3)]
            assert np.any([ours.numpy() == n for n in near], axis=0).all()


def test_sampled_upright_windows_are_cut_as_in_inference(scene):
    sample = SampleWindow((48, 64), scale_prob=0., rotate_prob=0.)
    normalise = ViewsDataPreprocessor(MEAN, STD).normalise
    whole = normalise([torch.from_numpy(pixels(scene[0]))])[0]
    for _ in range(20):
        results = sample(asked(scene, size=(48, 64)))
        views = ReadViews(MEAN)(results)['views']
        tested = Recorder((2, 4))._cut(whole, [results['window']])
        for ours, theirs in zip(views, tested):
            assert torch.allclose(
                normalise([torch.from_numpy(ours)]), theirs, atol=1e-5)


def test_a_window_turned_by_nothing_is_the_upright_one(scene):
    # The path of turned windows meets the upright one; only its global views
    # are a little softer, their blocks do not start with the window.
    window = Window(50, 60, 32, 48)
    upright = ReadViews(MEAN)(asked(scene, window))
    turned = ReadViews(MEAN)(asked(scene, window._replace(angle=1e-9)))
    np.testing.assert_allclose(
        upright['views'][0], turned['views'][0], atol=0.01)
    for ours, theirs in zip(upright['labels'], turned['labels']):
        np.testing.assert_array_equal(ours, theirs)


def test_global_middle_is_the_reduced_local_view(scene):
    views = ReadViews(MEAN)(asked(scene, Window(50, 60, 32, 48), (4, )))[
        'views']
    np.testing.assert_allclose(
        center(torch.from_numpy(views[1]), 4), area_mean(views[0], 4),
        rtol=1e-5)
