"""What real files do: a message that names the file, the others finish."""
import json
import os
import re
import resource
import struct
import tempfile
import zlib
from pathlib import Path

import archaeoscape
import cityscapes
import gleason
import numpy as np
import pytest
import rasterio
import raw_folders
import shapely
import urur
from affine import Affine
from PIL import Image
from raw_folders import box_at, noise, place_of, save, save_raster

from relay_seg.converting.sources import open_image, open_source
from relay_seg.rasters.writing import strips

NAMES = raw_folders.ARCHAEOSCAPE_NAMES[:3]


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def late_exif_png(path, image):
    """A PNG whose orientation comes after its pixels."""
    save(path, image)
    data = path.read_bytes()
    exif = turned(6).tobytes().removeprefix(b'Exif\0\0')
    body = b'eXIf' + exif
    chunk = struct.pack('>I', len(exif)) + body + struct.pack(
        '>I', zlib.crc32(body))
    path.write_bytes(data[:-12] + chunk + data[-12:])


def convert(converter, raw, out, *arguments):
    return converter.main([str(raw), str(out), '--jobs', '1', *arguments])


def told(out):
    """Failures in the manifest, as one text."""
    manifest = json.loads((out / 'manifest.json').read_text())
    return '\n'.join(manifest['failures'].values())


def spoil(converter, make, places, change, *arguments):
    """Convert a raw folder after something happened to it.

    Returns:
        Exit code, what failed in words, scenes that are finished, all.
    """
    raw, out = places
    truth = make(raw)
    change(raw)
    code = convert(converter, raw, out, *arguments)
    finished = {(path.parent.name, path.stem)
                for path in (out / 'img_dir').glob('*/*')}
    return code, told(out), finished, set(truth)


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])


URUR_IMAGE = 'train/image/b.tif'
URUR_LABEL = 'train/label/b.png'
URUR_CHANGES = {
    'truncated TIFF': (lambda p: truncate(p), URUR_IMAGE, 'cannot be read'),
    'truncated PNG': (lambda p: truncate(p), URUR_LABEL, 'cannot be read'),
    'empty file': (lambda p: p.write_bytes(b''), URUR_IMAGE, 'is empty'),
    'no image': (lambda p: p.write_text('<html>'), URUR_IMAGE,
                 'cannot be read'),
    'turned TIFF': (lambda p: save(p, noise(75, 90), exif=turned(6)),
                    URUR_IMAGE, 'EXIF orientation 6'),
    'turned label': (lambda p: late_exif_png(p, noise(75, 90)), URUR_LABEL,
                     'EXIF orientation 6'),
    'one pixel off': (lambda p: save(p, noise(75, 91)), URUR_IMAGE,
                      r'75 x 91 pixels and .*b\.png 75 x 90'),
    '16 bits': (lambda p: save_raster(
        p, noise(75, 90).transpose(2, 0, 1).astype(np.uint16) * 257,
        place_of(0)), URUR_IMAGE, 'uint16; 8 bits are expected'),
    'grey': (lambda p: save(p, noise(75, 90)[..., 0]), URUR_IMAGE,
             '1 band'),
    'missing label': (lambda p: p.unlink(), URUR_LABEL, 'has no label'),
    'missing image': (lambda p: p.unlink(), URUR_IMAGE, 'has no image'),
}


@pytest.mark.parametrize('name', URUR_CHANGES)
def test_one_bad_file_stops_only_itself(name, places):
    change, file, message = URUR_CHANGES[name]
    # What is missing shows by what it leaves alone.
    other = {'missing label': URUR_IMAGE,
             'missing image': URUR_LABEL}.get(name)
    code, text, finished, wanted = spoil(
        urur, raw_folders.make_urur, places, lambda raw: change(raw / file))
    assert code == 1
    assert finished == wanted - {('train', 'b')}
    raw, out = places
    assert str(raw / (other or file)) in text
    assert re.search(message, text), text
    assert convert(urur, raw, out, '--check') == 1


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif'])
def test_orientation_is_refused_in_each_format(tmp_path, suffix):
    path = save(tmp_path / f'a.{suffix}', noise(20, 30), exif=turned(3))
    with pytest.raises(ValueError, match=f'a.{suffix} .*EXIF orientation 3'):
        open_image(path).__enter__()
    save(path, noise(20, 30), exif=turned(1))
    with open_image(path) as image:
        assert image.rows(0, 20, 30).shape == (3, 20, 30)


def test_orientation_of_a_bigtiff(tmp_path):
    path = save(tmp_path / 'a.tif', noise(20, 30), exif=turned(8),
                big_tiff=True)
    with pytest.raises(ValueError, match='EXIF orientation 8'):
        open_image(path).__enter__()


@pytest.mark.parametrize('height', [40, 256, 300])
@pytest.mark.parametrize('driver', [
    'PNG', 'JPEG', 'GTiff', 'JP2OpenJPEG', 'BMP', 'HFA'])
def test_files_that_are_cut_are_refused(tmp_path, driver, height):
    """Read as converters do, in rows of tiles."""
    path = tmp_path / 'a.img'
    with rasterio.open(path, 'w', driver=driver, count=3, height=height,
                       width=90, dtype='uint8') as raster:
        raster.write(noise(height, 90).transpose(2, 0, 1))
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(ValueError, match=r'a\.img cannot be read'), (
                open_image(path)) as image:
            for top, rows in strips(height):
                image.rows(top, rows, 90)


def test_small_png_that_is_cut_is_told_and_not_converted(places):
    code, text, finished, wanted = spoil(
        urur, raw_folders.make_urur, places,
        lambda raw: truncate(raw / 'train/image/a.png'))
    assert code == 1 and finished == wanted - {('train', 'a')}
    assert 'image/a.png cannot be read' in text
    raw, out = places
    assert convert(urur, raw, out, '--check') == 1


def test_16_bit_png_is_refused(tmp_path):
    with rasterio.open(
            tmp_path / 'a.png', 'w', driver='PNG', count=3, height=9, width=9,
            dtype='uint16') as raster:
        raster.write(np.full((3, 9, 9), 300, np.uint16))
    with pytest.raises(ValueError, match=r'a\.png .*uint16'):
        open_image(tmp_path / 'a.png').__enter__()


def test_opaque_alpha_is_left_out_and_other_alpha_refused(tmp_path):
    pixels = np.dstack((noise(9, 9), np.full((9, 9), 255, np.uint8)))
    path = save(tmp_path / 'a.png', pixels)
    with open_image(path) as image:
        np.testing.assert_array_equal(
            image.rows(0, 9, 9), pixels[..., :3].transpose(2, 0, 1))
    pixels[4, 4, 3] = 0
    save(path, pixels)
    with open_image(path) as image, pytest.raises(
            ValueError, match='transparent'):
        image.rows(0, 9, 9)


def test_masked_image_is_refused(tmp_path):
    path = save_raster(tmp_path / 'a.tif', noise(9, 9).transpose(2, 0, 1),
                       place_of(0))
    for masked in (False, True):
        with rasterio.open(path, 'r+') as raster:
            raster.write_mask(np.arange(81).reshape(9, 9) >= masked)
        with open_image(path) as image:
            if not masked:
                image.rows(0, 9, 9)
                continue
            with pytest.raises(ValueError, match='a.tif is transparent'):
                image.rows(0, 9, 9)


def test_pixels_without_data_have_no_class(places):
    def change(raw):
        pixels = noise(75, 90).transpose(2, 0, 1) // 2 + 1
        pixels[:, 10:20, :30] = 0
        pixels[0, 40:] = 0  # the other bands hold something
        save_raster(raw / URUR_IMAGE, pixels, place_of(0), nodata=0)

    code, *_ = spoil(urur, raw_folders.make_urur, places, change)
    assert code == 0
    _, out = places
    with rasterio.open(out / 'ann_dir/train/b.tif') as raster:
        label = raster.read(1)
    expected = raw_folders.blocks(list(raw_folders.URUR_COLOURS.values()),
                                  75, 90)
    expected[10:20, :30] = 255
    np.testing.assert_array_equal(label, expected)


def test_trim_cuts_to_what_is_shared(places):
    def change(raw):
        save(raw / URUR_IMAGE, noise(76, 89))
        save(raw / 'test/image/e.tif', noise(75, 120))

    code, text, finished, wanted = spoil(
        urur, raw_folders.make_urur, places, change, '--trim')
    assert code == 1
    assert finished == wanted - {('test', 'e')}  # too far apart to trim
    assert '75 x 120' in text and '--trim' not in text
    _, out = places
    manifest = json.loads((out / 'manifest.json').read_text())
    (record, ) = [s for s in manifest['scenes'] if s['name'] == 'b']
    assert (record['height'], record['width']) == (75, 89)
    assert 'trimmed to 75 x 89' in record['notes'][0]
    with rasterio.open(out / 'img_dir/train/b.tif') as raster:
        np.testing.assert_array_equal(
            raster.read().transpose(1, 2, 0), noise(76, 89)[:75])


@pytest.mark.parametrize('apart, code', [(0, 0), (0.005, 0), (30, 1)])
def test_label_that_lies_elsewhere_is_refused(places, apart, code):
    def change(raw):
        classes = np.zeros((3, 75, 90), np.uint8)
        save_raster(raw / URUR_IMAGE, noise(75, 90).transpose(2, 0, 1),
                    place_of(0))
        (raw / URUR_LABEL).unlink()
        save_raster((raw / URUR_LABEL).with_suffix('.tif'), classes,
                    place_of(0) @ Affine.translation(apart, 0))

    found, text, _, _ = spoil(urur, raw_folders.make_urur, places, change)
    assert found == code
    assert ('label/b.tif does not lie on' in text) == bool(code)


def test_one_name_twice_is_refused(places, capsys):
    raw, out = places
    raw_folders.make_urur(raw)
    save(raw / 'train/image/a.tif', noise(75, 90))
    assert convert(urur, raw, out) == 2
    assert 'a.png' in (text := capsys.readouterr().out) and 'a.tif' in text


def test_georeferenced_scene_keeps_its_place(places):
    raw, out = places
    raw_folders.make_urur(raw)
    place = place_of(3)
    save_raster(raw / URUR_IMAGE, noise(75, 90).transpose(2, 0, 1), place)
    assert convert(urur, raw, out) == 0
    with rasterio.open(out / 'img_dir/train/b.tif') as raster:
        assert raster.crs == raw_folders.UTM
        np.testing.assert_allclose(raster.transform, place, atol=1e-9)


def test_unknown_id_of_cityscapes(places):
    name = 'zurich_000121_000019'
    path = f'gtFine/train/zurich/{name}_gtFine_labelIds.png'
    code, text, finished, wanted = spoil(
        cityscapes, raw_folders.make_cityscapes, places,
        lambda raw: save(raw / path, np.full((64, 128), 34, np.uint8)))
    assert code == 1
    assert finished == wanted - {('train', name)}
    assert path in text and '34 (8192 pixels)' in text


def test_maps_that_surprise_do_not_vote_and_are_reported(places):
    name = 'slide007_core003'
    file = f'{name}_classimg_nonconvex.png'

    def change(raw):
        save(raw / f'Maps3_T/Maps3_T/{file}', np.zeros((70, 80), np.uint8))
        save(raw / f'Maps4_T/Maps4_T/{file}', np.full((80, 70), 9, np.uint8))

    code, text, finished, wanted = spoil(
        gleason, lambda raw: raw_folders.make_gleason(raw, majority=False),
        places, change)
    assert (code, text) == (0, '')
    assert finished == wanted
    raw, out = places
    manifest = json.loads((out / 'manifest.json').read_text())
    (notes, ) = [s['notes'] for s in manifest['scenes'] if s['name'] == name]
    assert notes[0] == 'majority of 1 map(s)'
    assert 'Maps3_T' in notes[1] and '70 x 80' in notes[1]
    assert 'Maps4_T' in notes[2] and '9 (5600 pixels)' in notes[2]


def test_a_core_without_a_sound_map_fails(places):
    file = 'slide007_core003_classimg_nonconvex.png'

    def change(raw):
        for i in (1, 3, 4):
            truncate(raw / f'Maps{i}_T/Maps{i}_T/{file}')

    code, text, finished, wanted = spoil(
        gleason, lambda raw: raw_folders.make_gleason(raw, majority=False),
        places, change)
    assert code == 1
    assert finished == wanted - {('test', 'slide007_core003')}
    assert 'no map that can vote' in text


def test_unknown_id_in_a_majority(places):
    name = 'slide001_core003'
    path = f'Maps_majority/{name}_classimg_nonconvex.png'
    code, text, finished, wanted = spoil(
        gleason, raw_folders.make_gleason, places,
        lambda raw: save(raw / path, np.full((80, 70), 7, np.uint8)))
    assert code == 1 and finished == wanted - {('val', name)}
    assert path in text and '7 (5600 pixels)' in text


def make_parcels(raw):
    return raw_folders.make_archaeoscape(raw, NAMES)


def add_feature(raw, number, shape, kind='mound'):
    """One more polygon, in the place of a parcel."""
    shapes, kinds = [shape], [kind]
    for i in range(len(NAMES)):
        shapes.append(box_at(place_of(i), 10, 10, 40, 30))
        kinds.append('hydrology')
    raw_folders.save_vectors(raw / 'features.gpkg', shapes, 'type', kinds)


def bow_tie(number):
    x, y = place_of(number) @ (20, 20)
    return shapely.Polygon([(x, y), (x + 5, y + 5), (x + 5, y), (x, y + 5)])


def move_dtm(raw):
    path = raw / f'rasters/dtm/{NAMES[1]}.tif'
    save_raster(path, np.ones((1, 60, 80), np.float32), place_of(9))


def relabel_rgb(raw):
    """The right numbers under the wrong CRS."""
    path = raw / f'rasters/rgb/{NAMES[1]}.tif'
    save_raster(path, noise(60, 80).transpose(2, 0, 1), place_of(1),
                rasterio.crs.CRS.from_epsg(32633))


PARCEL_CHANGES = {
    'missing DTM': (lambda raw: (raw / f'rasters/dtm/{NAMES[1]}.tif').unlink(),
                    r'dtm/02_irene.tif does not exist'),
    'DTM elsewhere': (move_dtm, r'02_irene.tif covers .* do not overlap'),
    'wrong CRS': (relabel_rgb, r'02_irene'),
    'self-intersection': (
        lambda raw: add_feature(raw, 1, bow_tie(1)),
        r'features.gpkg: feature 1: Self-intersection.*--repair'),
    'truncated RGB': (
        lambda raw: truncate(raw / f'rasters/rgb/{NAMES[1]}.tif'),
        r'rgb/02_irene.tif cannot be read'),
    'two bands of elevation': (
        lambda raw: save_raster(
            raw / f'rasters/dtm/{NAMES[1]}.tif',
            np.ones((2, 60, 80), np.float32), place_of(1)),
        r'dtm/02_irene.tif has 2 bands'),
    '64 bits': (
        lambda raw: save_raster(
            raw / f'rasters/rgb/{NAMES[1]}.tif',
            np.ones((3, 60, 80), np.float64), place_of(1)),
        r'rgb/02_irene.tif has bands of .*float64'),
}


@pytest.mark.parametrize('name', PARCEL_CHANGES)
def test_one_bad_parcel_stops_only_itself(name, places):
    change, message = PARCEL_CHANGES[name]
    code, text, finished, wanted = spoil(
        archaeoscape, make_parcels, places, change)
    assert code == 1
    assert re.search(message, text), text
    assert finished == wanted - {('train', NAMES[1])}


def test_empty_geometry_is_reported_and_the_parcels_finish(places):
    code, text, finished, wanted = spoil(
        archaeoscape, make_parcels, places,
        lambda raw: add_feature(raw, 1, shapely.Polygon()))
    assert code == 1 and finished == wanted
    assert 'features.gpkg: feature 1 has no geometry' in text


@pytest.mark.parametrize('shape', [bow_tie(1), shapely.Polygon(), None])
def test_repair_goes_on(places, shape):
    code, text, finished, wanted = spoil(
        archaeoscape, make_parcels, places,
        lambda raw: add_feature(raw, 1, shape), '--repair')
    assert (code, text, finished) == (0, '', wanted)


def test_unknown_kind_is_refused(places, capsys):
    raw, out = places
    make_parcels(raw)
    add_feature(raw, 1, box_at(place_of(1), 5, 5, 9, 9), 'pagoda')
    assert convert(archaeoscape, raw, out) == 2
    text = capsys.readouterr().out
    assert "features.gpkg has the unknown kinds ['pagoda']" in text


def test_features_that_overlap_no_raster_are_an_error(places, capsys):
    raw, out = places
    make_parcels(raw)
    raw_folders.save_vectors(
        raw / 'features.gpkg', [shapely.box(0, 0, 9, 9)], 'type', ['mound'])
    assert convert(archaeoscape, raw, out) == 2
    text = capsys.readouterr().out
    assert 'features.gpkg covers' in text and 'overlaps no raster' in text


def test_names_of_other_columns_are_told(places, capsys):
    raw, out = places
    make_parcels(raw)
    raw_folders.save_vectors(
        raw / 'features.gpkg', [box_at(place_of(0), 0, 0, 9, 9)], 'colour',
        ['mound'])
    assert convert(archaeoscape, raw, out) == 2
    assert "has the attributes ['colour']" in capsys.readouterr().out


def in_child(work):
    """Exit code of a function in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_permission_denied():
    # Not in tmp_path, where others may not even look.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        raw, out = Path(folder) / 'raw', Path(folder) / 'out'
        truth = raw_folders.make_urur(raw)
        out.mkdir()
        out.chmod(0o777)
        (raw / URUR_IMAGE).chmod(0)

        def work():
            if os.geteuid() == 0:  # who may read everything
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            return convert(urur, raw, out)

        assert in_child(work) == 1
        text = told(out)
        assert f'{raw / URUR_IMAGE} cannot be read (Permission' in text
        assert len(list(out.glob('img_dir/*/*'))) == len(truth) - 1


@pytest.mark.parametrize('limit', [3_000, 20_000])
def test_disk_full_is_noticed(places, limit):
    """Nothing half-written appears; with room again, the rest follows."""
    raw, out = places
    truth = raw_folders.make_urur(raw)
    save(raw / 'train/image/a.png', np.zeros((75, 90, 3), np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        return convert(urur, raw, out)

    assert in_child(work) == 1
    text = told(out)
    whole = sorted(out.glob('img_dir/*/*'))
    assert len(whole) < len(truth)
    for split, name in truth:
        failed = f'{split}/{name}.tif cannot be written' in text
        for folder in ('img_dir', 'ann_dir'):
            path = out / folder / split / f'{name}.tif'
            assert path.exists() != failed, text
    for path in whole:
        with rasterio.open(path) as raster:
            raster.read()
    assert convert(urur, raw, out) == 0
    assert convert(urur, raw, out, '--check') == 0
    for (split, name), expected in truth.items():
        with rasterio.open(out / f'ann_dir/{split}/{name}.tif') as raster:
            np.testing.assert_array_equal(raster.read(1), expected)


def test_message_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.tif does not exist'):
        open_source(tmp_path / 'gone.tif').__enter__()
