"""Folders as people have them, each with its exact result or exact error.

A keeper makes a folder and says with what options it is converted. It gives
the labels that must come out, by scene, or the words of the message.
"""
import json
import re
import shutil

import custom
import numpy as np
import pytest
import rasterio
from affine import Affine
from mmengine.config import Config
from PIL import Image
from raw_folders import box_at, save_palette, save_raster, save_vectors

SIZE = 40, 56
IDS = '--classes', 'soil:0', 'crop:1', 'weed:2'
COLOURS = ((0, 0, 0), (0, 255, 0), (255, 0, 0))
BY_COLOUR = '--classes', 'soil:#000000', 'crop:#00ff00', 'weed:#ff0000'
TEST = '--val', '*3*', '--test', '*4*'
SPLITS = {'1': 'train', '2': 'train', '3': 'val', '4': 'test'}
ZOO = {}


def keeper(function):
    ZOO[function.__name__] = function
    return function


def picture(number):
    """Large shapes and some noise, (H, W, 3): survives JPEG, is unlike."""
    rng = np.random.default_rng(int(number))
    coarse = rng.integers(0, 230, (5, 7, 3)).repeat(8, 0).repeat(8, 1)
    return (coarse + rng.integers(0, 20, (*SIZE, 3))).astype(np.uint8)


def truth(number):
    """Class ids in blocks of 8 x 8 pixels, (H, W)."""
    rng = np.random.default_rng(100 + int(number))
    return rng.permutation(np.arange(35) % 3).reshape(5, 7).repeat(
        8, 0).repeat(8, 1).astype(np.uint8)


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


def painted(ids, colours=COLOURS):
    return np.array(colours, np.uint8)[ids]


def fill(raw, image='{}.png', label='labels/{}.png', mask=None, numbers='1234',
         draw=save):
    """Pictures, and labels as ``mask`` makes them of ids."""
    for number in numbers:
        split = SPLITS[number]
        draw(raw / image.format(number, split=split), picture(number))
        ids = truth(number)
        save(raw / label.format(number, split=split),
             ids if mask is None else mask(ids))


def result(name='{}', numbers='1234', change=None):
    return {(SPLITS[n], name.format(n, split=SPLITS[n])):
            truth(n) if change is None else change(truth(n))
            for n in numbers}


# Names and folders.


@keeper
def two_folders(raw):
    fill(raw, 'images/{}.png', 'masks/{}.png')
    return (raw / 'images', '--labels', raw / 'masks', *IDS, *TEST), result()


@keeper
def images_with_a_folder_of_labels(raw):
    fill(raw)
    return (raw, '--labels', raw / 'labels', *IDS, *TEST), result()


@keeper
def folders_in_one(raw):
    fill(raw, 'images/{}.png', 'masks/{}.png')
    return (raw, *IDS, *TEST), result()


@keeper
def photographs_and_masks_side_by_side(raw):
    fill(raw, '{}.JPG', '{}.png')
    return (raw, *IDS, *TEST), result()


@keeper
def bitmaps_and_webp(raw):
    fill(raw, 'a/{}.bmp', 'gt/{}.webp', draw=save)
    for number in '1234':
        save(raw / f'gt/{number}.webp', painted(truth(number)),
             lossless=True)
    return (raw / 'a', '--labels', raw / 'gt', *BY_COLOUR, *TEST), result()


@keeper
def other_endings_confirmed(raw):
    fill(raw, '00{}_image.png', '00{}_annotation.png')
    return (raw, *IDS, *TEST, '--yes'), result('00{}_image')


@keeper
def other_endings_shown(raw):
    fill(raw, '00{}_image.png', '00{}_annotation.png')
    return (raw, *IDS, *TEST), (
        'images 4 (4 .png)',
        'such as 001_image.png with 001_annotation.png', '--yes',
        '--label-names')


@keeper
def other_endings_by_pattern(raw):
    fill(raw, '00{}_image.png', '00{}_annotation.png')
    save(raw / '001_depth.png', picture(9))
    return (raw, *IDS, *TEST, '--image-names', '*_image.png',
            '--label-names', '*_annotation.png'), result('00{}_image')


@keeper
def a_label_pattern_alone(raw):
    fill(raw, '{}.png', '{}_m.png')
    return (raw, *IDS, *TEST, '--label-names', '*_m'), result()


@keeper
def several_kinds_of_labels(raw):
    fill(raw, 'a/{}_leftImg8bit.png', 'gtFine/{}_gtFine_labelIds.png')
    fill(raw, 'a/{}_leftImg8bit.png', 'gtFine/{}_gtFine_color.png')
    return (raw / 'a', '--labels', raw / 'gtFine', *IDS, '--label-names',
            '*_gtFine_labelIds.png', '--image-names', '*_leftImg8bit.png',
            *TEST), result('{}_leftImg8bit')


@keeper
def several_labels_of_one_image(raw):
    fill(raw, 'a/{}.png', 'm/{}.png')
    save(raw / 'm/1.bmp', truth(1))
    return (raw / 'a', '--labels', raw / 'm', *IDS, *TEST), (
        'not one to one: 1.png and 1.bmp, 1.png', '--label-names')


def fill_two_kinds(raw):
    fill(raw, 'JPEGImages/7_{}.jpg', 'SegmentationClass/7_{}.png')
    fill(raw, 'JPEGImages/7_{}.jpg', 'SegmentationObject/7_{}.png')
    lists = raw / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('7_1\n7_2\n')
    (lists / 'val.txt').write_text('7_3\n')
    return IDS + ('--split-lists', lists / 'train.txt', lists / 'val.txt')


@keeper
def two_labels_of_every_image(raw):
    return (raw, *fill_two_kinds(raw)), (
        '4 image(s) and label(s) are not one to one: JPEGImages/7_1.jpg and '
        'SegmentationClass/7_1.png, SegmentationObject/7_1.png',
        '--label-names')


@keeper
def one_of_two_labels_of_every_image(raw):
    return (raw, *fill_two_kinds(raw), '--label-names',
            'SegmentationClass/*.png', '--image-names', 'JPEGImages/*'
            ), result('7_{}', '123')


@keeper
def mirrored_splits(raw):
    fill(raw, 'a/{split}/p{}.png', 'm/{split}/p{}.png')
    return (raw / 'a', '--labels', raw / 'm', *IDS), result('p{}')


@keeper
def splits_outside(raw):
    for number in '134':
        split = SPLITS[number]
        save(raw / split / 'images/x.png', picture(number))
        save(raw / split / 'masks/x.png', truth(number))
    return (raw, *IDS, '--yes'), {
        (SPLITS[n], 'x'): truth(n) for n in '134'}


@keeper
def splits_by_other_words(raw):
    words = dict(train='Training', val='valid', test='testing')
    for number in '1234':
        for folder, pixels in (('a', picture(number)), ('m', truth(number))):
            save(raw / folder / words[SPLITS[number]] / f'{number}.png',
                 pixels)
    return (raw / 'a', '--labels', raw / 'm', *IDS), result()


@keeper
def an_image_beside_the_splits(raw):
    fill(raw, 'a/{split}/{}.png', 'm/{split}/{}.png')
    save(raw / 'a/5.png', picture(5))
    save(raw / 'm/5.png', truth(5))
    return (raw / 'a', '--labels', raw / 'm', *IDS), (
        'lie in no folder train, val or test: 5.png', '--leave-out')


@keeper
def cities_with_the_same_names(raw):
    for number in '1234':
        for folder, pixels in (('a', picture(number)), ('m', truth(number))):
            save(raw / folder / SPLITS[number] / f'city{number}/x.png',
                 pixels)
    expected = result('x')
    expected['train', 'train_city1_x'] = truth(1)
    expected['train', 'train_city2_x'] = truth(2)
    del expected['train', 'x']
    return (raw / 'a', '--labels', raw / 'm', *IDS), expected


@keeper
def links_to_folders(raw):
    fill(raw.parent / 'disk', 'a/{}.png', 'm/{}.png')
    raw.mkdir()
    (raw / 'images').symlink_to(raw.parent / 'disk/a')
    (raw / 'masks').symlink_to(raw.parent / 'disk/m')
    return (raw, *IDS, *TEST), result()


@keeper
def image_without_label(raw):
    fill(raw, 'a/p{}.png', 'm/p{}.png')
    (raw / 'm/p2.png').rename(raw / 'm/p2x.png')
    return (raw / 'a', '--labels', raw / 'm', *IDS, *TEST), (
        '1 image(s) of', 'have no label: p2.png (nearest: p2x.png',
        '1 label(s) of', 'have no image: p2x.png (nearest: p2.png')


@keeper
def image_without_label_left_out(raw):
    fill(raw, 'a/{}.png', 'm/{}.png')
    (raw / 'm/2.png').unlink()
    return (raw / 'a', '--labels', raw / 'm', *IDS, *TEST, '--leave-out'
            ), result(numbers='134')


@keeper
def names_with_nothing_alike(raw):
    fill(raw, 'a/{}.png', 'm/{}.png')
    for number in '1234':
        (raw / f'm/{number}.png').rename(raw / f'm/x{number}z{number}.png')
    return (raw / 'a', '--labels', raw / 'm', *IDS, '--test', '4'), (
        'no image of', 'named such as 1.png', 'x1z1.png', '--image-names')


@keeper
def nothing_tells_labels(raw):
    fill(raw, 'p{}.png', 'q{}.png')
    return (raw, *IDS, *TEST), (
        'nothing tells labels from images', '--label-names', '--polygons')


@keeper
def an_empty_folder(raw):
    raw.mkdir()
    (raw / 'readme.txt').write_text('Nothing')
    return (raw, *IDS, *TEST), ('holds no raster to convert', '.jpg')


@keeper
def no_folder_of_labels(raw):
    fill(raw)
    return (raw, '--labels', raw / 'label', *IDS, *TEST), (
        'raw/label is no folder', )


@keeper
def pattern_without_star(raw):
    fill(raw)
    return (raw, '--label-names', 'mask', *IDS, *TEST), ('has no *', )


@keeper
def pattern_that_fits_nothing(raw):
    fill(raw)
    return (raw, '--label-names', '*_gt.png', *IDS, *TEST), (
        '--label-names *_gt.png fits none of the 8 files', '1.png')


@keeper
def a_result_inside(raw):
    fill(raw, 'images/{}.png', 'masks/{}.png')
    save(raw / 'out/img_dir/old.png', picture(1))
    save(raw / 'out/mask/old.png', truth(1))
    return (raw, '--out', raw / 'out', *IDS, *TEST), result()


# Masks.


@keeper
def colours(raw):
    fill(raw, mask=painted)
    return (raw, *BY_COLOUR, *TEST), result()


@keeper
def colours_in_tiff_without_place(raw):
    fill(raw, '{}.tif', 'labels/{}.tif', mask=painted)
    return (raw, *BY_COLOUR, *TEST), result()


def with_alpha(ids, alpha):
    return np.dstack([painted(ids), alpha]).astype(np.uint8)


@keeper
def colours_with_opaque_alpha(raw):
    fill(raw, mask=lambda ids: with_alpha(ids, np.full(SIZE, 255)))
    return (raw, *BY_COLOUR, *TEST), result()


@keeper
def transparent_pixels_are_ignored(raw):
    fill(raw, mask=lambda ids: with_alpha(ids, np.where(ids == 2, 0, 255)))
    return (raw, '--classes', 'soil:#000000', 'crop:#00ff00', *TEST), result(
        change=lambda ids: np.where(ids == 2, 255, ids))


@keeper
def transparent_pixels_are_a_class(raw):
    fill(raw, mask=lambda ids: with_alpha(ids, np.where(ids == 0, 0, 255)))
    return (raw, '--classes', 'soil:transparent', 'crop:#00ff00',
            'weed:#ff0000', *TEST), result()


@keeper
def grey_with_alpha(raw):
    fill(raw, mask=lambda ids: np.dstack(
        [ids, np.where(ids == 1, 100, 255)]).astype(np.uint8))
    return (raw, *IDS, *TEST), result(
        change=lambda ids: np.where(ids == 1, 255, ids))


def fill_palettes(raw, palette):
    fill(raw)
    for number in '1234':
        order = palette(number)
        place = np.argsort(order)  # of each class in the palette
        save_palette(raw / f'labels/{number}.png', place[truth(number)],
                     [COLOURS[ident] for ident in order])


@keeper
def palettes_of_their_own_by_colour(raw):
    fill_palettes(raw, lambda number: np.roll((0, 1, 2), int(number)))
    return (raw, *BY_COLOUR, *TEST), result()


@keeper
def palettes_of_their_own_by_id(raw):
    fill_palettes(raw, lambda number: np.roll((0, 1, 2), int(number)))
    return (raw, *IDS, *TEST), (
        'shows the id 0 as', 'Name colours instead', '--classes NAME:#')


@keeper
def one_palette_by_id(raw):
    fill_palettes(raw, lambda number: (0, 1, 2))
    return (raw, *IDS, *TEST), result()


@keeper
def black_and_white(raw):
    fill(raw, mask=lambda ids: np.where(ids == 1, 255, 0).astype(np.uint8))
    return (raw, '--classes', 'rest:0', 'crop:255', *TEST), result(
        change=lambda ids: (ids == 1).astype(int))


@keeper
def white_is_not_named(raw):
    fill(raw, mask=lambda ids: np.where(ids == 1, 255, 0).astype(np.uint8))
    return (raw, '--classes', 'rest:0', 'crop:1', *TEST, '--dry-run'), (
        'Labels hold 0 and 255 alone', 'thing:255',
        'train has no pixel of crop', 'ignored 3072')


@keeper
def one_bit(raw):
    fill(raw)
    for number in '1234':
        Image.fromarray(truth(number) == 1).save(
            raw / f'labels/{number}.png')
    return (raw, '--classes', 'rest:0', 'crop:1', *TEST), result(
        change=lambda ids: (ids == 1).astype(int))


@keeper
def sixteen_bits(raw):
    fill(raw, mask=lambda ids: np.array([7, 1000, 40000], np.uint16)[ids])
    return (raw, '--classes', 'soil:7', 'crop:1000', 'weed:40000', *TEST
            ), result()


@keeper
def whole_numbers_as_floats(raw):
    fill(raw, '{}.tif', 'labels/{}.tif',
         mask=lambda ids: ids.astype(np.float32))
    return (raw, *IDS, *TEST), result()


@keeper
def broken_numbers(raw):
    fill(raw, '{}.tif', 'labels/{}.tif', mask=lambda ids: ids / np.float32(3))
    return (raw, *IDS, *TEST), ('labels/1.tif holds numbers that are not',
                                'Replace')


@keeper
def ids_in_three_bands(raw):
    fill(raw, mask=lambda ids: np.dstack([ids] * 3))
    return (raw, *IDS, *TEST), result()


@keeper
def colours_read_as_ids(raw):
    fill(raw, mask=painted)
    return (raw, *IDS, *TEST), ('labels/1.png holds colours', 'soil:#000000')


@keeper
def colours_without_names(raw):
    fill(raw, mask=painted)
    pixels = [sum((truth(n) == i).sum() for n in '1234') for i in range(3)]
    return (raw, *TEST), (
        f'#000000 ({pixels[0]} pixels)', f'#00ff00 ({pixels[1]} pixels)',
        f'#ff0000 ({pixels[2]} pixels)', '--classes NAME1:#000000',
        'such as 1.png with labels/1.png')


@keeper
def ids_without_names(raw):
    fill(raw, mask=lambda ids: ids + np.uint8(5))
    return (raw, *TEST), ('5 (3072 pixels)', '--classes NAME1:5 NAME2:6')


@keeper
def a_colour_of_no_class(raw):
    fill(raw, mask=painted)
    other = painted(truth(2))
    other[:2, :3] = 9, 8, 7
    save(raw / 'labels/2.png', other)
    return (raw, *BY_COLOUR, *TEST), (
        '1 label(s), e.g.', 'labels/2.png', '#090807 (6 pixels)', '--ignore')


@keeper
def an_ignored_colour(raw):
    fill(raw, mask=painted)
    return (raw, '--classes', 'soil:#000000', 'crop:#00ff00', '--ignore',
            '#FF0000', *TEST), result(
                change=lambda ids: np.where(ids == 2, 255, ids))


@keeper
def ids_and_colours(raw):
    fill(raw)
    return (raw, '--classes', 'soil:0', 'crop:#00ff00', *TEST), (
        'ids and colours', )


@keeper
def words_for_masks(raw):
    fill(raw)
    return (raw, '--classes', 'soil', 'crop', *TEST), (
        "'soil' is no id and no colour", 'field:1')


@keeper
def labels_as_jpeg(raw):
    fill(raw, label='labels/{}.jpg', mask=painted)
    return (raw, *BY_COLOUR, *TEST), ('come from JPEG', '--nearest')


@keeper
def labels_as_jpeg_by_the_nearest(raw):
    fill(raw)
    shutil.rmtree(raw / 'labels')
    for number in '1234':
        save(raw / f'labels/{number}.jpg', painted(truth(number)),
             quality=95, subsampling=0)
    return (raw, *BY_COLOUR, *TEST, '--nearest'), result()


@keeper
def ids_by_the_nearest(raw):
    fill(raw, mask=lambda ids: np.array([3, 190, 255], np.uint8)[ids])
    return (raw, '--classes', 'rest:0', 'crop:200', *TEST, '--nearest'
            ), result(change=lambda ids: ids.clip(0, 1))


@keeper
def another_size(raw):
    fill(raw)
    save(raw / 'labels/2.png', truth(2)[::2, ::2])
    return (raw, *IDS, *TEST), ('2.png has 40 x 56', '20 x 28', 'mend one')


@keeper
def another_size_left_out(raw):
    fill(raw)
    save(raw / 'labels/2.png', truth(2)[::2, ::2])
    return (raw, *IDS, *TEST, '--leave-out'), result(numbers='134')


@keeper
def colour_masks_that_lie_elsewhere(raw):
    """White is a class; beyond the label nothing is."""
    for number in '1234':
        place = Affine(2, 0, 5000 + 900 * int(number), 0, -2, 7000)
        save_raster(raw / f'{number}.tif', picture(number).transpose(2, 0, 1),
                    place)
        mask = painted(truth(number), ((255, ) * 3, *COLOURS[1:]))
        save_raster(raw / f'labels/{number}.tif', mask.transpose(2, 0, 1),
                    place @ Affine.translation(8, 16), photometric='rgb')

    def moved(ids):
        found = np.full(SIZE, 255)
        found[16:, 8:] = ids[:-16, :-8]
        return found

    return (raw, '--classes', 'soil:#ffffff', *BY_COLOUR[2:], *TEST), result(
        change=moved)


# Splits.


@keeper
def lists_of_names(raw):
    fill(raw)
    for split in ('train', 'val', 'test'):
        names = [n for n in '1234' if SPLITS[n] == split]
        (raw / f'{split}.txt').write_text(
            '# of the owner\n' + ''.join(f'{n}\n' for n in names))
    return (raw, *IDS, '--split-lists', *(
        raw / f'{split}.txt' for split in ('train', 'val', 'test'))), result()


@keeper
def lists_of_images_and_labels(raw):
    fill(raw, 'img/{}.png', 'gt/{}.png')
    for split in ('train', 'val', 'test'):
        (raw / f'{split}_list.txt').write_text(''.join(
            f'/data/set/img/{n}.png /data/set/gt/{n}.png\n' for n in '1234'
            if SPLITS[n] == split))
    return (raw, *IDS, '--split-lists', *raw.glob('*.txt')), result()


@keeper
def lists_of_what_is_alike(raw):
    fill(raw, '00{}_image.png', '00{}_mask.png')
    (raw / 'train.txt').write_text('001\n002\n')
    (raw / 'test.txt').write_text('004')
    return (raw, *IDS, '--yes', '--split-lists', raw / 'train.txt',
            raw / 'test.txt'), result('00{}_image', '124')


@keeper
def a_table(raw):
    fill(raw)
    (raw / 'meta.csv').write_text('\ufefffile;camera;Set\n' + ''.join(
        f'{n}.png;k;{SPLITS[n].upper()}\n' for n in '1234'))
    return (raw, *IDS, '--split-lists', raw / 'meta.csv'), result()


@keeper
def a_table_with_other_words(raw):
    fill(raw)
    (raw / 'meta.csv').write_text(
        'file,set\n1.png,train\n2.png,extra\n3.png,val\n4.png,test\n')
    return (raw, *IDS, '--split-lists', raw / 'meta.csv'), (
        "meta.csv has 'extra' for 2.png", )


@keeper
def yaml_with_lists(raw):
    fill(raw)
    (raw / 's.yaml').write_text('train: [1, 2]\nval: ["3"]\ntest:\n  - 4\n')
    return (raw, *IDS, '--split-lists', raw / 's.yaml'), result()


@keeper
def yaml_with_folders(raw):
    fill(raw, 'img/{split}/{}.png', 'gt/{}.png')
    (raw / 's.yml').write_text(
        'path: ..\ntrain: img/train\nval: ./img/val\ntest: img/test/\n')
    return (raw, *IDS, '--split-lists', raw / 's.yml'), result()


@keeper
def json_with_lists(raw):
    fill(raw)
    (raw / 's.json').write_text(json.dumps(
        dict(training=['1.png', '2.png'], validation=['3'], testing=['4'])))
    return (raw, *IDS, '--split-lists', raw / 's.json'), result()


@keeper
def a_list_with_an_unknown_name(raw):
    fill(raw, 'img1{}.png', 'labels/img1{}.png')
    (raw / 'train.txt').write_text('img11\nimg12\nimg31.png\n')
    (raw / 'test.txt').write_text('img14\n')
    return (raw, *IDS, '--split-lists', raw / 'train.txt', raw / 'test.txt'
            ), ('1 name(s) of', 'img31.png (nearest: img1',
                '1 image(s) are in no list and not used: img13.png')


@keeper
def a_list_without_a_split(raw):
    fill(raw)
    (raw / 'names.txt').write_text('1\n')
    return (raw, *IDS, '--split-lists', raw / 'names.txt'), (
        'names.txt is a list of names', 'train.txt')


@keeper
def an_image_in_two_splits(raw):
    fill(raw)
    (raw / 'train.txt').write_text('1\n2\n')
    (raw / 'test.txt').write_text('2\n')
    return (raw, *IDS, '--split-lists', raw / 'train.txt', raw / 'test.txt'
            ), ('2.png is in train', 'in test', 'leave it in one')


@keeper
def a_name_that_is_not_there(raw):
    fill(raw)
    return (raw, *IDS, '--test', '9'), (
        '--test 9 fits none of the 4 rasters, e.g. 1.png', )


@keeper
def too_few_to_draw_from(raw):
    fill(raw, numbers='12')
    return (raw, *IDS), ('2 part(s), e.g. 1, are too few', '--split blocks')


@keeper
def blocks_too_large(raw):
    fill(raw, numbers='12')
    return (raw, *IDS, '--split', 'blocks'), (
        '2 part(s), e.g. 1_r00c00, are too few', 'smaller blocks than '
        '--block 2048')


@keeper
def blocks_too_thin(raw):
    fill(raw)
    return (raw, *IDS, '--split', 'blocks', '--block', '20', '--margin',
            '10'), ('nothing is left for', 'are narrower than a window (256')


@keeper
def one_picture_in_two_splits(raw):
    """By content: one in another format; those unlike raise no alarm."""
    fill(raw)
    save(raw / '4.bmp', picture(1))
    (raw / '4.png').unlink()
    return (raw, *IDS, *TEST, '--dry-run'), (
        '1 pair(s) of scenes of two splits', '1.png (train)',
        '4.bmp (test) are the same picture')


@keeper
def nearly_one_picture(raw):
    fill(raw, '{}.jpg')
    save(raw / '3.jpg', picture(1), quality=60)
    return (raw, *IDS, *TEST, '--dry-run'), (
        '1 pair(s)', '1.jpg (train) and', '3.jpg (val) are nearly the same')


# What trains badly.


@keeper
def no_val(raw):
    fill(raw)
    return (raw, *IDS, '--test', '4', '--dry-run'), (
        'There is no val split', '--val')


@keeper
def a_class_that_val_lacks(raw):
    fill(raw)
    save(raw / 'labels/3.png', truth(3).clip(0, 1))
    return (raw, *IDS, *TEST, '--dry-run'), ('val has no pixel of weed', )


@keeper
def a_rare_class(raw):
    fill(raw, mask=lambda ids: np.where(
        np.arange(SIZE[1]) == 3, 2, ids.clip(0, 1)).astype(np.uint8))
    return (raw, *IDS, *TEST, '--dry-run'), (
        'Rare in train: weed (1.79%)', 'class_balanced=True')


# Damage.


@keeper
def a_cut_file(raw):
    fill(raw)
    whole = (raw / '2.png').read_bytes()
    (raw / '2.png').write_bytes(whole[:len(whole) // 2])
    return (raw, *IDS, *TEST), ('2.png cannot be read', )


@keeper
def a_cut_label(raw):
    fill(raw, mask=lambda ids: np.kron(ids, np.ones((1, 1), np.uint8)))
    whole = (raw / 'labels/2.png').read_bytes()
    (raw / 'labels/2.png').write_bytes(whole[:60])
    (raw / 'labels/3.png').write_bytes(b'')
    return (raw, *IDS, *TEST), ('2.png cannot be read', '3.png is empty')


@keeper
def pages(raw):
    fill(raw, '{}.tif')
    images = [Image.fromarray(picture(n)) for n in (1, 7)]
    images[0].save(raw / '1.tif', save_all=True, append_images=images[1:])
    return (raw, *IDS, *TEST), ('1.tif holds 2 pages', 'gdal_translate')


@keeper
def photographs_with_a_palette(raw):
    fill(raw)
    Image.fromarray(picture(2)).convert('P').save(raw / '2.png')
    return (raw, *IDS, *TEST), ('2.png holds entries of a colour table', )


@keeper
def grey_among_colours(raw):
    fill(raw)
    save(raw / '2.png', picture(2)[..., 0])
    return (raw, *IDS, *TEST), ('the rasters differ', '1 band(s)', '--bands')


@keeper
def turned_photographs(raw):
    fill(raw, '{}.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    save(raw / '2.jpg', picture(2), exif=exif)
    return (raw, *IDS, *TEST), ('2.jpg', 'EXIF orientation 6', 'mogrify')


# Names of classes, and polygons.


def make_polygons(raw, kinds):
    shapes = []
    for number in '1234':
        place = Affine(2, 0, 5000 + 900 * int(number), 0, -2, 7000)
        save_raster(raw / f'{number}.tif', picture(number).transpose(2, 0, 1),
                    place)
        shapes.append(box_at(place, 4, 4, 20, 30))
    save_vectors(raw.parent / 'p.gpkg', shapes, 'kind', kinds)
    return {(SPLITS[n], n): np.pad(np.zeros((26, 16), int), (
        (4, 10), (4, 36)), constant_values=1) for n in '1234'}


@keeper
def marks_in_names_found(raw):
    made = make_polygons(raw, ['a: b, c=d'] * 4)
    return (raw, '--polygons', raw.parent / 'p.gpkg', '--class-column',
            'kind', '--classes', 'a: b, c=d', '--background', 'rest', *TEST
            ), {key: 1 - label for key, label in made.items()}


@keeper
def marks_in_names_after_a_backslash(raw):
    fill(raw)
    return (raw, '--classes', r'soil\: wet\, dry:0=#102030', r'a\=b:1',
            'c:2', *TEST), result()


@keeper
def marks_in_names_alone(raw):
    fill(raw)
    return (raw, '--classes', 'soil: wet:0', 'b:1', *TEST), (
        'is no class', 'backslash')


@keeper
def polygons_of_one_class(raw):
    made = make_polygons(raw, ['x', 'y', 'x', 'z'])
    return (raw, '--polygons', raw.parent / 'p.gpkg', '--classes',
            'building', *TEST), {key: 1 - label
                                 for key, label in made.items()}


@keeper
def polygons_without_a_column(raw):
    make_polygons(raw, ['x', 'y', 'x', 'z'])
    return (raw, '--polygons', raw.parent / 'p.gpkg', '--classes', 'x', 'y',
            *TEST), ("['kind']", '--class-column', 'all polygons')


def run(arguments, out):
    return custom.main([str(x) for x in (
        arguments[0], out, '--jobs', '1', *arguments[1:])])


@pytest.mark.parametrize('name', ZOO)
def test_folder(places, capsys, name):
    raw, out = places
    arguments, expected = ZOO[name](raw)
    if '--out' in arguments:
        place = arguments.index('--out')
        out = arguments[place + 1]
        arguments = arguments[:place] + arguments[place + 2:]
    code = run(arguments, out)
    told = ' '.join(capsys.readouterr().out.split())
    if not isinstance(expected, dict):
        assert [text for text in expected if text not in told] == [], told
        assert code == (0 if '--dry-run' in arguments else 2)
        assert not out.exists()
        return
    assert code == 0, told
    found = {(path.parent.name, path.stem): path
             for path in out.glob('ann_dir/*/*.tif')}
    assert set(found) == set(expected)
    for key, path in found.items():
        with rasterio.open(path) as label:
            np.testing.assert_array_equal(label.read(1), expected[key])
    # The plan counted what was written.
    content = json.loads((out / 'manifest.json').read_text())
    for scene in content['scenes']:
        counts = scene['seen']['counts']
        counts += [0] * (len(content['classes']) - len(counts))
        assert counts == scene['class_pixels']
        assert scene['seen']['ignored'] == scene['ignored_pixels']
    assert 'same ground' not in told and 'same picture' not in told


def test_the_zoo_is_large():
    assert len(ZOO) >= 25


def test_images_are_exact_and_names_are_kept(places):
    raw, out = places
    arguments, _ = marks_in_names_after_a_backslash(raw)
    assert run(arguments, out) == 0
    with rasterio.open(out / 'img_dir/val/3.tif') as image:
        np.testing.assert_array_equal(
            image.read().transpose(1, 2, 0), picture(3))
    (path, ) = out.glob('configs/datasets/*.py')
    meta = Config.fromfile(path).metainfo
    assert meta.classes == ('soil: wet, dry', 'a=b', 'c')
    assert meta.palette[0] == [16, 32, 48]


def test_colours_of_labels_are_those_of_classes(places):
    raw, out = places
    arguments, _ = colours(raw)
    assert run(arguments, out) == 0
    (path, ) = out.glob('configs/datasets/*.py')
    assert Config.fromfile(path).metainfo.palette == [
        list(colour) for colour in COLOURS]


def test_many_unlike_pictures_raise_no_alarm_and_one_twin_does(
        places, capsys):
    raw, out = places
    for number in range(40):
        save(raw / f'a/{number}.png', picture(number + 10 * (number == 39)))
        save(raw / f'm/{number}.png', truth(number))
    save(raw / 'a/x.png', picture(3))
    save(raw / 'm/x.png', truth(3))
    assert run((raw / 'a', '--labels', raw / 'm', *IDS, '--val', '[0-9]',
                '--test', 'x', '--dry-run'), out) == 0
    told = ' '.join(capsys.readouterr().out.split())
    assert '1 pair(s) of scenes' in told and 'same ground' not in told
    assert 'a/3.png (val)' in told and 'a/x.png (test)' in told


def test_rare_classes_are_balanced_in_the_config_alone(places):
    raw, out = places
    arguments, _ = a_rare_class(raw)
    assert run(arguments[:-1], out) == 0
    config = Config.fromfile(out / 'configs/rt_swin2_t_out.py')
    assert config.train_dataloader.dataset.class_balanced is True
    assert 'class_balanced' not in config.val_dataloader.dataset
    fill(raw)
    assert run(arguments[:-1], out) == 0
    config = Config.fromfile(out / 'configs/rt_swin2_t_out.py')
    assert 'class_balanced' not in config.train_dataloader.dataset


def test_next_commands_stand_in_the_config_and_can_be_typed(places, capsys):
    raw, out = places
    arguments, _ = folders_in_one(raw)
    assert run(arguments, out) == 0
    told = capsys.readouterr().out
    config = out / 'configs/rt_swin2_t_out.py'
    kinds = []
    for text in (told, config.read_text()):
        text = text.partition('Next:')[2]
        commands = re.findall(r'python tools/(\w+)\.py', text)
        kinds.append(commands)
        assert 'img_path=img_dir/val' in text and 'images/4.png' in text
    assert kinds == [['train', 'test', 'test', 'predict']] * 2


def test_a_changed_run_removes_what_is_left_only_when_asked(places, capsys):
    raw, out = places
    arguments, _ = folders_in_one(raw)
    assert run(arguments, out) == 0
    left = out / 'img_dir/val/3.tif'
    moved = [*arguments[:-4], '--val', '2', '--test', '4']
    assert run(moved, out) == 2
    assert '--clean' in capsys.readouterr().out and left.exists()
    assert run([*moved, '--clean', '--dry-run'], out) == 0
    assert left.exists()
    assert run([*moved, '--clean'], out) == 0
    assert not left.exists() and not (out / 'ann_dir/val/3.tif').exists()
    assert (out / 'img_dir/train/3.tif').exists()
    # What no converter wrote is nobody's to remove.
    Image.fromarray(picture(1)).save(out / 'img_dir/val/mine.tif')
    capsys.readouterr()
    assert run([*moved, '--clean'], out) == 2
    assert 'mine.tif' in capsys.readouterr().out
    assert (out / 'img_dir/val/mine.tif').exists()


def test_one_class_of_a_label_needs_another(places, capsys):
    raw, out = places
    fill(raw)
    assert run((raw, '--classes', 'crop:1', *TEST), out) == 2
    assert 'background:0' in capsys.readouterr().out


def test_images_in_the_folder_of_labels_are_no_labels(places):
    raw, out = places
    fill(raw, 'photos/{}.png', '{}.png')
    assert run((raw / 'photos', '--labels', raw, *IDS, *TEST), out) == 0


def test_several_jobs_and_a_check(places, capsys):
    raw, out = places
    arguments, _ = folders_in_one(raw)
    assert run([*arguments, '--jobs', '2'], out) == 0
    assert run([*arguments, '--check'], out) == 0
    assert '4 scenes checked, 0 problem(s)' in capsys.readouterr().out


def test_a_second_run_reads_nothing_again(places, monkeypatch):
    raw, out = places
    arguments, expected = folders_in_one(raw)
    assert run(arguments, out) == 0
    from relay_seg.converting import own_plan
    monkeypatch.setattr(own_plan, 'look', lambda task: 1 / 0)
    assert run(arguments, out) == 0


def test_all_problems_are_told_at_once(places, capsys):
    raw, out = places
    fill(raw)
    save(raw / '5.png', picture(5))
    save(raw / 'labels/2.png', truth(2)[::2])
    save(raw / 'labels/3.png', truth(3) + np.uint8(7))
    assert run((raw, *IDS, *TEST), out) == 2
    told = ' '.join(capsys.readouterr().out.split())
    for text in ('2.png has 40 x 56', '7 (', 'have no label: 5.png'):
        assert text in told
