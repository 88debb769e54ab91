import struct
import zlib

import numpy as np
import pytest
import raw_folders
from raw_folders import (
    CITYSCAPES_IDS,
    GLEASON_IDS,
    URUR_COLOURS,
    URUR_SATURATED,
    paint,
    save,
    save_palette,
)

from relay_seg.converting import cityscapes, gleason, urur
from relay_seg.converting.labels import colour_lookup, open_colours, open_ids
from relay_seg.converting.votes import majority


def convert(opening):
    with opening as label:
        found = label.rows(0, label.grid.height, label.grid.width)
        label.finish()
    return found


def test_tables_are_those_of_the_data_sets():
    assert urur.TABLES == dict(
        published=URUR_COLOURS, saturated=URUR_SATURATED)
    assert cityscapes.IDS == CITYSCAPES_IDS
    assert gleason.class_ids('benign') == GLEASON_IDS
    assert gleason.class_ids('ignore') == {**GLEASON_IDS, 0: 255}


@pytest.mark.parametrize('table', [URUR_COLOURS, URUR_SATURATED])
@pytest.mark.parametrize('colour', ['direct', 'alpha', 'palette', 'reversed'])
def test_each_colour_has_its_class(tmp_path, table, colour):
    truth = raw_folders.blocks(list(table.values()), 40, 50)
    path = tmp_path / 'a.png'
    if colour in ('direct', 'alpha'):
        pixels = paint(truth, table)
        if colour == 'alpha':
            pixels = np.dstack((pixels, np.full((40, 50), 255, np.uint8)))
        save(path, pixels)
    else:
        colours = list(table)[::-1 if colour == 'reversed' else 1]
        index = {table[c]: i for i, c in enumerate(colours)}
        save_palette(path, np.vectorize(index.get)(truth), colours)
    found = convert(open_colours(path, urur.TABLES))
    np.testing.assert_array_equal(found, truth)


def test_grey_without_palette_is_a_colour(tmp_path):
    grey = np.array([[0, 230], [100, 255]], dtype=np.uint8)
    path = save(tmp_path / 'a.png', grey)
    assert convert(open_colours(path, urur.TABLES)).tolist() == [
        [0, 1], [2, 255]]


def test_unknown_colour_is_named_with_file_and_count(tmp_path):
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[3, 4:9] = 1, 2, 3
    path = save(tmp_path / 'a.png', pixels)
    with pytest.raises(ValueError, match=r'a\.png.*\(1, 2, 3\) \(5 pixels\)'):
        convert(open_colours(path, urur.TABLES))


def test_tables_are_not_mixed(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0], pixels[1, 1] = (230, 230, 230), (255, 0, 0)
    path = save(tmp_path / 'a.png', pixels)
    with pytest.raises(ValueError, match='mixes colour tables'):
        convert(open_colours(path, urur.TABLES))


def test_black_alone_fits_any_table(tmp_path):
    path = save(tmp_path / 'a.png', np.zeros((4, 4, 3), np.uint8))
    assert not convert(open_colours(path, urur.TABLES)).any()


def test_index_outside_the_palette(tmp_path):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))

    path = tmp_path / 'a.png'
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 2, 1, 8, 3, 0, 0, 0))
        + chunk(b'PLTE', bytes([0, 0, 0, 230, 230, 230]))
        + chunk(b'IDAT', zlib.compress(bytes([0, 0, 200])))
        + chunk(b'IEND', b''))
    with pytest.raises(ValueError, match='its palette lacks'):
        convert(open_colours(path, urur.TABLES))


def test_transparent_label_is_refused(tmp_path):
    path = save(tmp_path / 'a.png', np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match='transparent'):
        convert(open_colours(path, urur.TABLES))


def test_one_colour_cannot_mean_two_classes():
    with pytest.raises(ValueError, match='two classes'):
        colour_lookup(((((0, 0, 0), 1), ), (((0, 0, 0), 2), )))


def test_unknown_ids_are_all_named(tmp_path):
    path = save(tmp_path / 'a.png', np.array([[0, 7, 7], [9, 1, 1]], np.uint8))
    with pytest.raises(ValueError, match=r'a\.png.*7 \(2 pix.*9 \(1 pix'):
        convert(open_ids(path, GLEASON_IDS))


def test_ids_may_be_stored_in_three_bands_alike(tmp_path):
    ids = raw_folders.blocks(range(7), 20, 30).astype(np.uint8)
    path = save(tmp_path / 'a.png', np.dstack([ids] * 3))
    np.testing.assert_array_equal(
        convert(open_ids(path, GLEASON_IDS)),
        np.vectorize(GLEASON_IDS.get)(ids))
    save(path, np.dstack([ids, ids, ids * 0]))
    with pytest.raises(ValueError, match='holds colours'):
        convert(open_ids(path, GLEASON_IDS))


def test_ids_with_a_palette_are_refused(tmp_path):
    path = save_palette(tmp_path / 'a.png', np.eye(3), [(0, 0, 0)] * 3)
    with pytest.raises(ValueError, match='no palette'):
        convert(open_ids(path, GLEASON_IDS))


@pytest.mark.parametrize('votes, expected', [
    ([1, 1, 2], 1),
    ([2, 1, 1], 1),
    ([1, 2, 3], 1),  # ties: the lowest id
    ([3, 2, 3, 2], 2),
    ([255, 3], 3),  # ignored loses ties
    ([255, 255, 3], 255),
    ([0], 0)])
def test_majority(votes, expected):
    stack = np.array(votes, dtype=np.uint8)[:, None, None]
    assert majority(np.tile(stack, (1, 4, 5))).tolist() == [[expected] * 5] * 4
