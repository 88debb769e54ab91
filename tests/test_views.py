"""Geometry of views, against loops over single pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relay_seg.views import (
    BLENDS,
    Context,
    Window,
    area_mean,
    batched,
    blend_weights,
    center,
    contexts_of,
    crop,
    cut_views,
    fit,
    plan_windows,
    points_of,
    reader,
    resample,
    surroundings,
    view_grid,
    window_starts,
)

KINDS = {'numpy': np.asarray, 'torch': torch.from_numpy}
kinds = pytest.mark.parametrize('kind', KINDS)
factors = st.integers(1, 5)


@st.composite
def axes(draw):
    """Length of an axis, window size and a stride that covers it."""
    size = draw(st.integers(1, 40))
    return draw(st.integers(1, 90)), size, draw(st.integers(1, size))


@st.composite
def windows(draw, height=12, width=14, side=9):
    """Windows of any sides: within, over the border and off the scene."""
    h, w = draw(st.integers(1, side)), draw(st.integers(1, side))
    top = draw(st.integers(-h - 3, height + 3))
    return Window(top, draw(st.integers(-w - 3, width + 3)), h, w)


def noise(*shape, dtype=np.float32):
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


def naive_pixel(image, y, x, fill):
    """Value of one pixel (C,) of an image (C, H, W) or of its outside."""
    if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
        return image[:, y, x]
    return np.broadcast_to(np.asarray(fill, image.dtype), image.shape[:1])


def naive_crop(image, window, fill):
    return np.stack([
        np.stack([
            naive_pixel(image, window.top + y, window.left + x, fill)
            for x in range(window.width)
        ], axis=-1) for y in range(window.height)
    ], axis=-2)


def naive_mean(image, k):
    height, width = image.shape[-2] // k, image.shape[-1] // k
    out = np.zeros((*image.shape[:-2], height, width))
    for y in range(height):
        for x in range(width):
            block = image[..., y * k:(y + 1) * k, x * k:(x + 1) * k]
            out[..., y, x] = block.astype(np.float64).mean((-2, -1))
    return out


def native_places(window, size):
    """Where the centres of a grid of pixels lie, y and x of each.

    Written from the definition: pixel (i, j) of an upright window, turned
    about the window's centre, counter-clockwise as seen on the image (rows
    grow downwards).
    """
    turn = np.exp(1j * np.deg2rad(window.angle))
    for i in range(size[0]):
        for j in range(size[1]):
            right = ((j + 0.5) / size[1] - 0.5) * window.width
            up = (0.5 - (i + 0.5) / size[0]) * window.height
            turned = (right + 1j * up) * turn
            yield (i, j, window.top + window.height / 2 - turned.imag,
                   window.left + window.width / 2 + turned.real)


# Planning


@given(axes())
def test_window_starts_cover_the_axis(axis):
    length, size, stride = axis
    starts = window_starts(length, size, stride)
    covered = {i for start in starts for i in range(start, start + size)}
    assert covered >= set(range(length))
    assert starts == sorted(set(starts))
    assert all(b - a <= stride for a, b in zip(starts, starts[1:]))


@given(axes())
def test_last_window_ends_with_the_scene(axis):
    length, size, stride = axis
    starts = window_starts(length, size, stride)
    assert starts[0] == 0
    if length <= size:
        assert starts == [0]
    else:
        assert starts[-1] + size == length


@given(axes(), axes())
def test_planned_windows_cover_every_pixel(vertical, horizontal):
    (height, h, dy), (width, w, dx) = vertical, horizontal
    planned = plan_windows((height, width), (h, w), (dy, dx))
    seen = np.zeros((height, width), int)
    for top, left, rows, cols, angle in planned:
        assert (rows, cols, angle) == (h, w, 0)
        seen[top:top + rows, left:left + cols] += 1
    assert seen.min() >= 1
    assert len(set(planned)) == len(planned)
    assert planned == sorted(planned)


@pytest.mark.parametrize('stride', [0, -1, 17])
def test_stride_that_leaves_pixels_out_is_refused(stride):
    with pytest.raises(ValueError, match=f'stride={stride} .* 16'):
        window_starts(40, 16, stride)


# Blending


@pytest.mark.parametrize('blend', BLENDS)
@given(axis=axes())
def test_weights_sum_to_one_at_every_pixel(blend, axis):
    length, size, stride = axis
    weights = blend_weights(length, size, stride, blend)
    assert list(weights) == window_starts(length, size, stride)
    total = torch.zeros(max(length, size), dtype=torch.float64)
    for start, weight in weights.items():
        assert weight.shape == (size, ) and weight.min() >= 0
        total[start:start + size] += weight
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize('blend', BLENDS)
def test_products_of_weights_sum_to_one_in_the_plane(blend):
    shape, size, stride = (37, 50), (16, 13), (7, 13)
    y, x = (blend_weights(*axis, blend) for axis in zip(shape, size, stride))
    total = torch.zeros(shape, dtype=torch.float64)
    for top, left, h, w, _ in plan_windows(shape, size, stride):
        total[top:top + h, left:left + w] += y[top][:, None] * x[left]
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)


@given(axes())
def test_center_takes_each_pixel_from_the_nearest_window(axis):
    length, size, stride = axis
    for start, weight in blend_weights(length, size, stride,
                                       'center').items():
        for i in range(start, min(start + size, length)):
            away = {
                other: abs(i + 0.5 - (other + size / 2))
                for other in window_starts(length, size, stride)
            }
            if weight[i - start]:
                assert weight[i - start] == 1
                assert away[start] == min(away.values())


def test_mean_counts_windows_alike():
    weights = blend_weights(24, 16, 8, 'mean')
    assert weights[0].tolist() == [1] * 8 + [0.5] * 8
    assert weights[8].tolist() == [0.5] * 8 + [1] * 8


def test_gaussian_deviation_is_an_eighth_of_the_window():
    weights = blend_weights(24, 16, 8, 'gaussian')
    for i in range(8, 16):
        first, second = i + 0.5 - 8, i + 0.5 - 16  # from the two centres
        ratio = np.exp((second**2 - first**2) / 2 / (16 / 8)**2)
        assert weights[0][i] / weights[8][i - 8] == pytest.approx(ratio)


def test_unknown_blend_is_refused():
    with pytest.raises(ValueError, match="'cosine'.*mean.*gaussian.*center"):
        blend_weights(24, 16, 8, 'cosine')


# Cutting


@kinds
@given(window=windows())
def test_crop_equals_a_loop(kind, window):
    image, fill = noise(3, 12, 14), (1.5, -2., 7.)
    out = crop(KINDS[kind](image), window, fill)
    assert isinstance(out, type(KINDS[kind](image)))
    np.testing.assert_array_equal(
        np.asarray(out), naive_crop(image, window, fill))


@kinds
@pytest.mark.parametrize('shape', [(12, 14), (1, 12, 14), (2, 3, 12, 14)])
@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float64])
@given(window=windows())
def test_crop_keeps_leading_axes_and_type(kind, shape, dtype, window):
    image = noise(*shape, dtype=dtype)
    out = np.asarray(crop(KINDS[kind](image), window, 9))
    expected = naive_crop(image.reshape(-1, 12, 14), window, 9)
    assert out.dtype == dtype
    np.testing.assert_array_equal(
        out, expected.reshape(*shape[:-2], *expected.shape[-2:]))


@kinds
def test_crop_fills_each_band_of_a_batch(kind):
    out = crop(KINDS[kind](noise(2, 3, 4, 4)), Window(-1, 0, 1, 2), (1, 2, 3))
    expected = np.array([1, 2, 3])[:, None, None] + np.zeros((2, 3, 1, 2))
    np.testing.assert_array_equal(np.asarray(out), expected)


@kinds
def test_crop_copies_nothing_inside_and_writes_nothing(kind):
    image = KINDS[kind](noise(3, 12, 14))
    before = np.array(image)
    inside = crop(image, Window(2, 3, 5, 6), 0)
    outside = crop(image, Window(-2, 3, 5, 6), 0)
    assert np.shares_memory(np.asarray(inside), np.asarray(image))
    assert not np.shares_memory(np.asarray(outside), np.asarray(image))
    np.testing.assert_array_equal(np.asarray(image), before)


@kinds
@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float32,
                                   np.float64])
@given(k=factors, h=st.integers(1, 5), w=st.integers(1, 5))
def test_area_mean_equals_a_loop(kind, dtype, k, h, w):
    for lead in ((), (3, ), (2, 3)):
        image = noise(*lead, k * h, k * w, dtype=dtype)
        out = area_mean(KINDS[kind](image), k)
        assert isinstance(out, type(KINDS[kind](image)))
        assert out.shape == (*lead, h, w)
        np.testing.assert_allclose(
            np.asarray(out), naive_mean(image, k), rtol=1e-6)


def test_area_mean_is_exact_in_double():
    image = noise(2, 12, 20, dtype=np.float64)
    out = area_mean(image, 4)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, naive_mean(image, 4), rtol=1e-14)


@kinds
@given(window=windows(side=5), k=factors)
def test_cut_views_equals_a_loop(kind, window, k):
    image, fill = noise(2, 12, 14), (3., 4.)
    read = reader(KINDS[kind](image), fill)
    local, wide = cut_views(read, window, contexts_of((k, )))
    np.testing.assert_array_equal(
        np.asarray(local), naive_crop(image, window, fill))
    assert wide.shape == local.shape
    y0 = window.top - (k - 1) * window.height // 2
    x0 = window.left - (k - 1) * window.width // 2
    for y in range(window.height):
        for x in range(window.width):
            block = [
                naive_pixel(image, y0 + k * y + i, x0 + k * x + j, fill)
                for i in range(k) for j in range(k)
            ]
            np.testing.assert_allclose(
                np.asarray(wide)[:, y, x], np.mean(block, axis=0), rtol=1e-5)


@kinds
def test_cut_views_gives_one_view_more_than_factors(kind):
    read = reader(KINDS[kind](noise(3, 60, 60, dtype=np.uint8)), 0)
    views = cut_views(read, Window(20, 20, 6, 8), contexts_of((2, 3, 5)))
    assert [tuple(view.shape) for view in views] == [(3, 6, 8)] * 4
    views = [torch.as_tensor(view) for view in views]
    assert all(view.is_floating_point() for view in views)
    assert len(cut_views(read, Window(0, 0, 6, 8), ())) == 1


@given(windows(), factors, st.floats(-180, 180))
def test_surroundings_have_the_same_centre(window, k, angle):
    window = window._replace(angle=angle)
    wide = surroundings(window, k)
    assert (wide.height, wide.width) == (k * window.height, k * window.width)
    assert wide.angle == angle
    for start, side in ((0, 2), (1, 3)):
        moved = (wide[start] + wide[side] / 2
                 - window[start] - window[side] / 2)
        assert abs(moved) == (0.5 if (k - 1) * window[side] % 2 else 0)


def test_surroundings_of_factor_one_are_the_window():
    assert surroundings(Window(3, -4, 7, 9, 12.), 1) == (3, -4, 7, 9, 12.)


@pytest.mark.parametrize('k', [0, -2, 1.5])
def test_factors_that_are_no_count_are_refused(k):
    with pytest.raises(ValueError, match='integer >= 1'):
        surroundings(Window(0, 0, 4, 4), k)


@given(factors, st.integers(1, 40), st.integers(1, 40))
def test_center_leaves_equal_margins_or_says_which_sides_do(k, h, w):
    try:
        out = center(torch.arange(h * w).view(1, h, w), k)
    except ValueError as error:
        step = int(str(error).split('multiples of ')[1].rstrip('.'))
        assert h % step or w % step
        for n in (1, 2, 3):
            side = n * step
            out = center(torch.zeros(side, side), k)
            assert out.shape == (side // k, side // k)
        return
    assert out.shape == (1, h // k, w // k)
    first, last = divmod(out[0, 0, 0].item(), w), divmod(
        out[0, -1, -1].item(), w)
    assert first == (h - 1 - last[0], w - 1 - last[1])


@kinds
@pytest.mark.parametrize('k, side', [(1, 5), (2, 8), (3, 9), (4, 16),
                                     (5, 15)])
def test_center_of_a_global_view_is_what_the_local_view_shows(kind, k, side):
    read = reader(KINDS[kind](noise(3, 80, 90)), 0)
    local, wide = cut_views(
        read, Window(30, 35, side, side), contexts_of((k, )))
    local, wide = torch.as_tensor(local), torch.as_tensor(wide)
    assert torch.allclose(center(wide, k), area_mean(local, k), rtol=1e-5)


# Turned and scaled regions


@pytest.mark.parametrize('smooth', [True, False])
@given(window=windows(side=9))
def test_resample_upright_and_native_is_crop(smooth, window):
    image, fill = noise(2, 12, 14), (5., 6.)
    read = reader(image, fill)
    out = resample(read, window, window[2:4], smooth=smooth)
    np.testing.assert_allclose(
        out, naive_crop(image, window, fill), rtol=0, atol=1e-3)
    assert out.dtype == np.float32


def test_right_of_a_quarter_turned_window_is_above_the_centre():
    image = np.zeros((1, 41, 41), np.float32)
    image[0, 10, 20] = 1  # ten pixels above the centre
    read = reader(image, 0)
    window = Window(0, 0, 41, 41)
    for angle, place in ((90., (20, 30)), (-90., (20, 10)), (180., (30, 20))):
        for smooth in (True, False):
            out = resample(read, window._replace(angle=angle), (41, 41),
                           smooth=smooth)[0]
            assert np.unravel_index(out.argmax(), out.shape) == place
            assert out.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('smooth', [True, False])
@pytest.mark.parametrize('turns', [-2, -1, 0, 1, 2, 3])
@given(window=windows(side=9))
def test_quarter_turns_turn_the_content_clockwise(smooth, turns, window):
    window = window._replace(width=window.height, angle=90. * turns)
    image = noise(2, 12, 14)
    read = reader(image, (5., 6.))
    out = resample(read, window, window[2:4], smooth=smooth)
    expected = np.rot90(crop(image, window, (5., 6.)), -turns, (1, 2))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-2)


@given(window=windows(), power=st.integers(0, 3))
def test_coarse_resample_on_the_grid_is_the_area_mean(window, power):
    image, k = noise(2, 12, 14), 2**power
    read = reader(image, (5., 6.))
    size = window[2:4]
    window = Window(k * window.top, k * window.left, k * size[0], k * size[1])
    out = resample(read, window, size, smooth=True)
    np.testing.assert_allclose(out, read(window, k), rtol=0, atol=1e-2)


@given(
    angle=st.floats(-180, 180),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    height=st.integers(1, 50),
    width=st.integers(1, 50))
def test_smooth_resample_looks_where_the_window_says(angle, size, height,
                                                     width):
    # Area mean and bilinear interpolation of a ramp are the ramp.
    y, x = np.mgrid[:160, :170].astype(np.float32)
    read = reader(np.stack([y, x]), 0)
    window = Window(60, 65, height, width, angle)
    out = resample(read, window, size, smooth=True)
    assert out.shape == (2, *size) and out.dtype == np.float32
    for i, j, y, x in native_places(window, size):
        assert out[:, i, j] == pytest.approx((y - 0.5, x - 0.5), abs=0.05)


@pytest.mark.parametrize('angle', [0., 17.3, -64.2, 121.7])
@pytest.mark.parametrize('scale', [0.5, 0.8, 1., 1.7])
def test_smooth_resample_is_bilinear_below_two_native_pixels(angle, scale):
    image, fill = noise(2, 30, 32), (90., 110.)
    side = round(14 * scale)
    window = Window(-3, 14, side, side + 1, angle)
    out = resample(reader(image, fill), window, (14, 15),
                   smooth=True)
    for i, j, y, x in native_places(window, (14, 15)):
        top, left = int(np.floor(y - 0.5)), int(np.floor(x - 0.5))
        expected = sum(
            naive_pixel(image, top + a, left + b, fill)
            * (1 - abs(y - 0.5 - top - a)) * (1 - abs(x - 0.5 - left - b))
            for a in (0, 1) for b in (0, 1))
        # Older OpenCV rounds places to 1/32 pixel.
        np.testing.assert_allclose(out[:, i, j], expected, atol=7)


@pytest.mark.parametrize('angle', [0., 17.3, -64.2, 121.7])
@pytest.mark.parametrize('scale', [0.5, 0.8, 1., 1.7, 3.1])
def test_labels_come_from_the_nearest_pixel(angle, scale):
    label = np.random.randint(0, 200, (1, 40, 42), np.uint8)
    side = round(14 * scale)
    window = Window(-3, 20, side, side + 1, angle)
    out = resample(reader(label, 255), window, (14, 15),
                   smooth=False)
    assert out.dtype == np.uint8
    clear = 0
    for i, j, y, x in native_places(window, (14, 15)):
        if min(abs(y - round(y)), abs(x - round(x))) > 0.02:  # no tie
            clear += 1
            expected = naive_pixel(label, int(y // 1), int(x // 1), 255)
            assert out[:, i, j] == expected
    assert clear > 0.7 * 14 * 15


@pytest.mark.parametrize('angle', [0., 30., 77.])
@pytest.mark.parametrize('scale', [2, 3.3, 4])
def test_fine_detail_does_not_alias(angle, scale):
    stripes = np.zeros((1, 200, 200), np.float32)
    stripes[..., ::2] = 200
    side = round(16 * scale)
    out = resample(reader(stripes, 100),
                   Window(70, 70, side, side, angle), (16, 16), smooth=True)
    assert abs(out - 100).max() <= 100 / int(scale) * (int(scale) % 2) + 1


@pytest.mark.parametrize('k', [2, 3, 4])
@pytest.mark.parametrize('angle', [0., 25., -61.])
@pytest.mark.parametrize('side', [12, 24, 38])
def test_turned_views_nest_as_upright_ones(k, angle, side):
    y, x = np.mgrid[:300, :300].astype(np.float32)
    read = reader(np.stack([y, x]), 0)
    window = Window(140, 130, side, side, angle)
    local, wide = (
        torch.from_numpy(
            resample(read, surroundings(window, factor), (24, 24),
                     smooth=True)) for factor in (1, k))
    assert torch.allclose(center(wide, k), area_mean(local, k), atol=0.1)


def label_canvas(k, size, window):
    """Labels under a local and a global view, the latter's centre."""
    label = np.random.randint(0, 250, (1, 400, 410), np.uint8)
    read = reader(label, 255)
    local = resample(read, window, (size, size), smooth=False)
    wide = resample(read, surroundings(window, k), (k * size, k * size),
                    smooth=False)
    return local, center(torch.from_numpy(wide), k).numpy()


@pytest.mark.parametrize('k', [2, 3, 4, 5])
@pytest.mark.parametrize('side', [14, 24, 32, 48])
@pytest.mark.parametrize('angle', [0., 30., -61.7])
def test_middle_of_a_label_canvas_is_the_local_label(k, side, angle):
    local, middle = label_canvas(k, 24, Window(180, 177, side, side, angle))
    np.testing.assert_array_equal(middle, local)


def test_middle_of_a_label_canvas_is_the_local_label_but_for_ties():
    for angle in (45., 90., *np.random.uniform(-90, 90, 20)):
        for side in (14, 24, 48, 130):
            for k in (2, 3, 4):
                window = Window(180, 177, side, side, angle)
                local, middle = label_canvas(k, 64, window)
                assert (middle == local).mean() > 0.97


# Batches


@given(st.integers(0, 20), st.integers(1, 9))
def test_batches_hold_every_window_once_in_order(count, batch_size):
    planned = [Window(i, 0, 4, 4) for i in range(count)]
    groups = list(batched(planned, batch_size))
    assert [window for group in groups for window in group] == planned
    assert all(len(group) == batch_size for group in groups[:-1])
    assert all(groups)


def test_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match='batch_size=0; use 1'):
        list(batched([Window(0, 0, 4, 4)], 0))


# Windows brought to another size


@pytest.mark.parametrize('size, factor, input_size, reduction', [
    (256, 1, 256, 1), (256, 4, 256, 4), (512, 1, 256, 2), (512, 4, 256, 8),
    (384, 1, 256, 1), (384, 4, 256, 6), (384, 3, 256, 4), (128, 1, 256, 1),
    (128, 4, 256, 2), (128, 16, 256, 8), (250, 3, 100, 6), (7, 1, 2, 1)])
def test_cells_are_whole_and_as_large_as_they_can_be(
        size, factor, input_size, reduction):
    grid = view_grid(
        (size, size), Context(factor, factor), (input_size, input_size))
    window = Window(30, -8, size, size)
    assert grid.reduction == reduction
    assert grid.region(30, -8) == surroundings(window, factor)
    assert grid.height == grid.width >= input_size or reduction == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('ratio, factors', [(2, (2, 4)), (3, (5, ))])
def test_whole_ratios_are_area_means(kind, ratio, factors):
    image = noise(2, 60, 70)
    read = reader(KINDS[kind](image), 7.)
    window = Window(11, -4, 12 * ratio, 8 * ratio)
    views = cut_views(read, window, contexts_of(factors), (12, 8))
    for view, k in zip(views, (1, *factors)):
        region = naive_crop(image, surroundings(window, k), 7.)
        np.testing.assert_allclose(
            np.asarray(view), naive_mean(region, k * ratio), rtol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('side, size', [
    (24, 12), (24, 16), (12, 24), (16, 24), (30, 22), (24, 24)])
def test_every_pixel_stays_where_it_is(kind, side, size):
    """The value of a slope says where a pixel of a view looks."""
    rows, columns = np.mgrid[:200, :220].astype(np.float64)
    image = np.stack([rows, columns])
    window = Window(80, 90, side, side)
    for view, k in zip(cut_views(reader(KINDS[kind](image), 0.), window,
                                 contexts_of((2, 4)), (size, size)),
                       (1, 2, 4)):
        region = surroundings(window, k)
        step = region.height / size
        places = (np.arange(size) + 0.5) * step - 0.5
        inner = slice(2, -2)  # the filter ends at the edge of the region
        view = np.asarray(view)[:, inner, inner]
        for found, start in ((view[0, :, 0], region.top),
                             (view[1, 0], region.left)):
            apart = found - start - places[inner]
            # The filter has few taps where a ratio is not whole.
            exact = step >= 1 and step % 1 == 0
            assert np.abs(apart).max() < (1e-3 if exact else 0.1 * step)
            assert abs(apart.mean()) < 1e-3


@pytest.mark.parametrize('kind', KINDS)
def test_no_data_does_not_count_in_other_sizes(kind):
    image = np.full((1, 30, 30), 5., np.float32)
    image[:, :9, :9] = np.nan
    for size in (20, 45):
        out = np.asarray(fit(KINDS[kind](image), (size, size)))[0]
        known = out[~np.isnan(out)]
        np.testing.assert_allclose(known, 5., rtol=1e-6)
        hole = 9 * size // 30
        assert np.isnan(out[:hole - 2, :hole - 2]).all()
        assert not np.isnan(out[hole + 2:]).any()


def test_an_image_of_the_right_size_is_given_back():
    image = noise(3, 8, 9)
    assert fit(image, (8, 9)) is image
    window = Window(2, 1, 4, 6)
    read = reader(image, 0.)
    contexts = contexts_of((1, 2))
    for ours, same in zip(cut_views(read, window, contexts),
                          cut_views(read, window, contexts, (4, 6))):
        np.testing.assert_array_equal(ours, same)


@pytest.mark.parametrize('angle', [0., 30., -75.])
def test_points_of_a_window_lie_where_its_pixels_lie(angle):
    window = Window(40, 50, 20, 30, angle)
    rows, columns = np.mgrid[:120, :140].astype(np.float64)
    slope = np.stack([rows, columns])
    seen = resample(reader(slope, 0.), window, (20, 30), smooth=True)
    points = points_of(window, 3).reshape(3, 3, 2)
    # Corners of the window, from the centres of its corner pixels.
    corner = seen[:, [0, 0, -1, -1], [0, -1, 0, -1]].T + 0.5
    outer = points[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(outer - corner).max() < 0.75
    middle = seen.mean((1, 2)) + 0.5
    np.testing.assert_allclose(points[1, 1], middle, atol=0.01)
