"""The page as a user meets it, in a Chromium without a screen."""
import io
import re

import numpy as np
import pytest
from browser import find_browser, is_required, open_browser
from PIL import Image
from shown_rasters import COLOURS, NAMES, save, serving

from relay_seg.viewing.tiles import ERROR_COLOUR

SCENE_COLOUR = 90, 120, 150
pytestmark = pytest.mark.skipif(
    find_browser() is None and not is_required(),
    reason='no Chromium; on Debian and Ubuntu: apt-get install chromium')


@pytest.fixture(scope='module')
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def plain_server(tmp_path_factory):
    """A scene of one colour; class 0 left, 1 right; the truth is all 0."""
    folder = tmp_path_factory.mktemp('plain')
    image = np.empty((3, 1000, 1400), np.uint8)
    image[:] = np.array(SCENE_COLOUR)[:, None, None]
    ids = np.zeros((1000, 1400), np.uint8)
    ids[:, 700:] = 1
    paths = [save(folder / 'scene.tif', image),
             save(folder / 'prediction.tif', ids, colours=COLOURS, tags=dict(
                 CLASS_NAMES=NAMES, WINDOW=[100, 100], CONTEXT_FACTORS=[4])),
             save(folder / 'truth.tif', np.zeros_like(ids))]
    with serving(*paths) as server:
        yield server


@pytest.fixture
def page(browser, plain_server):
    """The page, loaded; nothing outside was asked for, nothing failed."""
    context = browser.new_context(viewport=dict(width=1200, height=700))
    page = context.new_page()
    page.asked, troubles = [], []
    page.on('request', lambda request: page.asked.append(request.url))
    page.on('console', lambda message: troubles.append(message.text)
            if message.type in ('error', 'warning') else None)
    page.on('pageerror', lambda error: troubles.append(str(error)))
    page.on('dialog', lambda dialog: troubles.append(dialog.message))
    page.goto(plain_server.url)
    page.wait_for_selector('body[data-counted]')
    settle(page)
    yield page
    page.wait_for_load_state('networkidle')
    assert not troubles
    assert page.inner_text('#problem') == ''
    assert all(url.startswith((plain_server.url, 'data:'))
               for url in page.asked), page.asked
    context.close()


def until(page, condition):
    """Wait for a condition. The page's policy forbids Playwright's own way."""
    for _ in range(1500):
        if condition():
            return
        page.wait_for_timeout(20)
    raise TimeoutError(f'{condition} is not met after 30 s')


def settle(page):
    """Wait until all tiles on the map are there."""
    page.wait_for_load_state('networkidle')
    until(page, lambda: page.locator(
        '.leaflet-tile:not(.leaflet-tile-loaded)').count() == 0)


def tiles(page, layer):
    return page.locator(f'.tiles-{layer} img.leaflet-tile-loaded').count()


def move_slider(page, layer, value):
    page.locator(f'#opacity-{layer}').fill(str(value))


def pixel(page, x, y):
    """The colour on the screen at a share of the map."""
    box = page.locator('#map').bounding_box()
    settle(page)
    picture = Image.open(io.BytesIO(page.screenshot()))
    return np.array(picture.convert('RGB').getpixel((
        int(box['x'] + x * box['width']), int(box['y'] + y * box['height']))))


def wait_for_colour(page, x, y, colour, tolerance=0):
    """Leaflet may fade for a fifth of a second."""
    until(page, lambda: (
        abs(pixel(page, x, y) - colour) <= tolerance).all())


def hover(page, x, y):
    """Put the cursor at a share of the map."""
    box = page.locator('#map').bounding_box()
    page.mouse.move(box['x'] + x * box['width'],
                    box['y'] + y * box['height'])


def place(page):
    """Pixel of the scene under the cursor, as the page says it."""
    until(page, lambda: page.inner_text('#pixel'))
    return [int(number) for number in
            re.findall(r'\d+', page.inner_text('#pixel'))]


def test_it_loads_and_fades(page):
    assert 'scene.tif' in page.title()
    assert tiles(page, 'scene') and tiles(page, 'prediction')
    assert not tiles(page, 'truth') and not tiles(page, 'error')
    page.uncheck('#windows')
    for opacity in (0, 40, 100):
        move_slider(page, 'prediction', opacity)
        for x, class_id in ((.3, 0), (.7, 1)):
            mixed = (np.array(SCENE_COLOUR) * (100 - opacity)
                     + np.array(COLOURS[class_id]) * opacity) / 100
            wait_for_colour(page, x, .3, mixed, tolerance=2)


def test_layers_are_toggled(page):
    page.uncheck('#windows')
    page.uncheck('#show-prediction')
    assert not tiles(page, 'prediction')
    wait_for_colour(page, .7, .3, SCENE_COLOUR)
    assert page.locator('#opacity-prediction').is_disabled()

    page.check('#show-truth')
    move_slider(page, 'truth', 100)
    page.wait_for_selector('.tiles-truth img.leaflet-tile-loaded')
    wait_for_colour(page, .7, .3, COLOURS[0])

    page.check('#show-error')
    move_slider(page, 'error', 100)
    page.wait_for_selector('.tiles-error img.leaflet-tile-loaded')
    wait_for_colour(page, .7, .3, ERROR_COLOUR)
    wait_for_colour(page, .3, .3, COLOURS[0])
    page.uncheck('#show-error')
    wait_for_colour(page, .7, .3, COLOURS[0])


def test_it_pans_and_zooms(page):
    levels = {int(url.split('/')[-3]) for url in page.asked
              if '/tiles/scene/' in url}
    hover(page, .5, .5)
    before = place(page)
    page.mouse.down()
    hover(page, .4, .45)
    hover(page, .3, .4)
    page.mouse.up()
    hover(page, .5, .5)
    # The map followed the cursor: its middle shows what was to the right.
    until(page, lambda: np.subtract(place(page), before)[0] > 200
          and np.subtract(place(page), before)[1] > 50)
    page.wait_for_load_state('networkidle')

    # By the keyboard alone, down to the pixels of the scene.
    page.locator('#map').focus()
    for _ in range(3):
        zoom = page.inner_text('#zoom')
        page.keyboard.press('+')
        until(page, lambda old=zoom: page.inner_text('#zoom') != old)
    settle(page)
    deeper = {int(url.split('/')[-3]) for url in page.asked
              if '/tiles/scene/' in url}
    assert max(deeper) == 3 > max(levels)


@pytest.mark.parametrize('where', [(.5, .5), (.35, .6)])
def test_windows_follow_the_cursor(page, where):
    hover(page, *where)
    box = page.locator('#map').bounding_box()

    def is_under_cursor():
        found = page.locator('.window-1').bounding_box()
        return found is not None and all(
            abs(found[corner] + found[side] / 2 - box[corner]
                - share * box[side]) <= 2 for corner, side, share in
            zip('xy', ('width', 'height'), where))

    until(page, is_under_cursor)
    x, y = place(page)
    # fitBounds: half steps of zoom.
    scale = 2**-.5 if page.inner_text('#zoom') == 'zoom 71 %' else .5
    for factor, width in ((1, 3), (4, 2)):
        found = page.locator(f'.window-{factor}').bounding_box()
        assert abs(found['width'] - width - 100 * factor * scale) <= 3
        assert found['width'] == pytest.approx(found['height'], abs=1.5)
        middle = found['x'] + found['width'] / 2
        assert abs(middle - box['x'] - where[0] * box['width']) <= 2
        middle = found['y'] + found['height'] / 2
        assert abs(middle - box['y'] - where[1] * box['height']) <= 2
    assert f'prediction: {NAMES[x >= 700]}' in page.inner_text('#classes')
    assert page.inner_text('tr.here th') == NAMES[x >= 700]
    assert page.inner_text('#place') == (
        f'{500000.25 + x / 2:.2f}, {5999999.75 - y / 2:.2f} (EPSG:32633)')
    page.uncheck('#windows')
    assert page.locator('.window').count() == 0
    # Beside the scene there is nothing.
    page.check('#windows')
    hover(page, .001, .001)
    page.wait_for_selector('.window', state='detached')
    assert page.inner_text('#pixel') == ''


def test_legend_has_names_colours_and_areas(page):
    rows = page.locator('#legend tbody tr')
    text = [re.sub(r'\s+', ' ', row) for row in rows.all_inner_texts()]
    assert text == [
        'building 17.51 ha 50.0 % 35.03 ha 100.0 %',
        'tree 17.51 ha 50.0 % 0 m² 0.0 %',
        # A name is text, whatever it says.
        '<img src=x onerror=alert(1)> 0 m² 0.0 % 0 m² 0.0 %',
    ]
    colours = page.eval_on_selector_all(
        '#legend .swatch',
        'all => all.map(one => getComputedStyle(one).backgroundColor)')
    assert colours == [f'rgb{colour}' for colour in COLOURS.values()]
    assert '50.0 % of 1,400,000 pixels' in page.inner_text('#agreement')
    assert page.inner_text('#progress') == ''


def test_controls_have_names_and_are_reached_by_keyboard(page):
    reached = []
    for _ in range(20):
        page.keyboard.press('Tab')
        reached.append(page.evaluate('document.activeElement.id'))
    expected = ['map', 'show-scene', 'opacity-scene', 'show-prediction',
                'opacity-prediction', 'show-truth', 'show-error', 'windows',
                'legend-frame']
    assert [name for name in reached if name in expected][:9] == expected
    unnamed = page.eval_on_selector_all(
        'input', 'all => all.filter(one => !one.labels.length '
        '&& !one.ariaLabel).length')
    assert unnamed == 0


def test_many_classes_scroll(browser, tmp_path):
    ids = np.arange(255, dtype=np.uint8).reshape(15, 17)
    paths = [save(tmp_path / name, ids, crs=None, transform=None)
             for name in ('s.tif', 'p.tif')]
    with serving(*paths) as server:
        page = browser.new_page(viewport=dict(width=1200, height=700))
        page.goto(server.url)
        page.wait_for_selector('body[data-counted]')
        assert page.locator('#legend tbody tr').count() == 255
        assert page.inner_text('#legend tbody tr:last-child th') == 'class 254'
        frame = page.locator('#legend-frame')
        assert frame.bounding_box()['height'] < 500
        assert frame.evaluate('one => one.scrollHeight') > 5000
        assert 'Assumed' in page.inner_text('#window-key')
        assert page.locator('#show-truth').count() == 0
        page.close()
