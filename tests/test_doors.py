"""A file means the same pixels at every door.

Each kind of file is written with known values and a known hole, and read by
all who read: a training sample, a whole scene for testing, prediction.
docs/rasters.md has the same table.
"""
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import binary_dilation

from relay_seg.inference import raster_source
from relay_seg.inference.raster_source import RasterSource
from relay_seg.inference.source import ModelBands
from relay_seg.rasters import raster_reader
from relay_seg.rasters.mosaics import missing_parts
from relay_seg.transforms import ReadScene
from relay_seg.views import Window

pytestmark = pytest.mark.filterwarnings(
    f'ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning')
SHAPE = 40, 60
HOLE = np.zeros(SHAPE, bool)
HOLE[8:20, 12:40] = True
PLACE = Affine(2, 0, 500_000, 0, -2, 4_000_000)


def values(bands, dtype, low=1, high=200):
    rng = np.random.default_rng(bands)
    return rng.integers(low, high, (bands, *SHAPE)).astype(dtype)


def write(path, image, crs='EPSG:32633', transform=PLACE, mask=None,
          kinds=None, **profile):
    with rasterio.open(
            path, 'w', driver='GTiff', count=len(image), height=SHAPE[0],
            width=SHAPE[1], dtype=image.dtype, crs=crs, transform=transform,
            **profile) as raster:
        if kinds:
            raster.colorinterp = kinds
        raster.write(image)
        if mask is not None:
            raster.write_mask(mask)
    return path


# Kinds ---------------------------------------------------------------------
# Each writes a file and returns its path, the values and where there are some:
# (C, H, W) and (C, H, W) bool.


def nodata_value(folder):
    image = values(3, np.uint8)
    image[:, HOLE] = 0
    return write(folder / 'a.tif', image, nodata=0), image, ~HOLE


def nan(folder):
    image = values(3, np.float32)
    image[:, HOLE] = np.nan
    return write(folder / 'a.tif', image), image, ~HOLE


def nan_and_nodata(folder):
    image = values(3, np.float32)
    image[:, HOLE] = np.nan
    image[:, 30:] = -9999
    known = ~HOLE
    known[30:] = False
    return write(folder / 'a.tif', image, nodata=-9999.), image, known


def nodata_of_each_band(folder):
    """What is no data in one band is a value in another (VRT)."""
    image = values(2, np.uint8)
    image[0, HOLE], image[1, 30:] = 7, 9
    image[1, HOLE], image[0, 30:] = 7, 9
    write(folder / 'plain.tif', image)
    path = folder / 'a.vrt'
    path.write_text(vrt('plain.tif', ('7', '9')))
    known = np.ones((2, *SHAPE), bool)
    known[0] = image[0] != 7
    known[1] = image[1] != 9
    return path, image, known


def vrt(source, nodata):
    bands = ''.join(
        f'<VRTRasterBand dataType="Byte" band="{i + 1}">'
        f'<NoDataValue>{value}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{source}</SourceFilename>'
        f'<SourceBand>{i + 1}</SourceBand></SimpleSource></VRTRasterBand>'
        for i, value in enumerate(nodata))
    return (f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}">'
            f'<SRS>EPSG:32633</SRS><GeoTransform>500000,2,0,4000000,0,-2'
            f'</GeoTransform>{bands}</VRTDataset>')


def infinite(folder):
    image = values(3, np.float32)
    image[:, HOLE] = np.inf
    image[:, 0, 0] = -np.inf
    known = ~HOLE
    known[0, 0] = False
    return write(folder / 'a.tif', image), image, known


def undeclared_and_huge(folder):
    image = values(3, np.float32)
    image[:, HOLE] = np.finfo(np.float32).min
    return write(folder / 'a.tif', image), image, ~HOLE


def internal_mask(folder):
    image = values(3, np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(folder / 'a.tif', image, mask=~HOLE)
    assert not path.with_name('a.tif.msk').exists()
    return path, image, ~HOLE


def mask_beside(folder):
    image = values(3, np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        path = write(folder / 'a.tif', image, mask=~HOLE)
    assert path.with_name('a.tif.msk').exists()
    return path, image, ~HOLE


def mask_and_nodata(folder):
    image = values(3, np.uint8)
    image[0, ::2, 20:] = 0
    image[:, :10] = 0
    known = ~HOLE & (image > 0)
    return write(folder / 'a.tif', image, nodata=0, mask=~HOLE), image, known


def alpha(folder):
    image = values(4, np.uint8)
    image[3] = np.where(HOLE, 0, 255)
    return write(folder / 'a.tif', image, photometric='rgb', alpha='yes'
                 ), image[:3], ~HOLE


def five_bands_and_alpha(folder):
    image = values(6, np.uint16)
    image[5] = np.where(HOLE, 0, 65535)
    kinds = [ColorInterp.gray] + [ColorInterp.undefined] * 4
    return write(folder / 'a.tif', image, kinds=[*kinds, ColorInterp.alpha]
                 ), image[:5], ~HOLE


def alpha_and_overviews(folder):
    path, image, known = alpha(folder)
    with rasterio.open(path, 'r+') as raster:
        raster.build_overviews([2, 4], rasterio.enums.Resampling.average)
    return path, image, known


def alpha_and_nodata(folder):
    """Both count."""
    image = values(4, np.uint8)
    image[3] = np.where(HOLE, 0, 255)
    image[:3, 30:] = 0
    known = ~HOLE
    known[30:] = False
    return write(folder / 'a.tif', image, photometric='rgb', alpha='yes',
                 nodata=0), image[:3], known


def png_with_alpha(folder):
    image = values(4, np.uint8)
    image[3] = np.where(HOLE, 0, 255)
    path = folder / 'a.png'
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return path, image[:3], ~HOLE


def plain(dtype, low=1, high=200, **profile):
    def make(folder):
        image = values(2, dtype, low, high)
        return (write(folder / 'a.tif', image, **profile), image,
                np.ones(SHAPE, bool))
    return make


def scale_and_offset(folder):
    """They are not applied: what a model sees are the stored numbers."""
    path, image, known = plain(np.int16)(folder)
    with rasterio.open(path, 'r+') as raster:
        raster.scales, raster.offsets = (0.5, 0.5), (10, 10)
    return path, image, known


def few_bits(bits):
    def make(folder):
        return plain(np.uint8, 0, 2**bits, nbits=bits)(folder)
    return make


def jpeg_with_mask(folder):
    """Lossy, so values are what GDAL reads; the hole is exact."""
    image = values(3, np.uint8, 90, 110)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(folder / 'a.tif', image, mask=~HOLE, compress='jpeg',
                     photometric='ycbcr', tiled=True, blockxsize=16,
                     blockysize=16)
    with rasterio.open(path) as raster:
        return path, raster.read(), ~HOLE


def world_file(folder):
    image = values(3, np.uint8)
    path = folder / 'a.png'
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
    path.with_suffix('.pgw').write_text('2\n0\n0\n-2\n500001\n3999999\n')
    return path, image, np.ones(SHAPE, bool)


def picture(suffix, mode='RGB', **save):
    def make(folder):
        image = values(3, np.uint8)
        path = folder / f'a{suffix}'
        Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(
            path, **save)
        with rasterio.open(path) as raster:
            return path, raster.read(), np.ones(SHAPE, bool)
    return make


def nested_vrt(folder):
    path, image, known = nodata_of_each_band(folder)
    outer = folder / 'outer.vrt'
    outer.write_text(vrt('a.vrt', ('7', '9')))
    return outer, image, known


KINDS = dict(
    nodata_value=nodata_value, nan=nan, nan_and_nodata=nan_and_nodata,
    nodata_of_each_band=nodata_of_each_band, infinite=infinite,
    undeclared_and_huge=undeclared_and_huge, internal_mask=internal_mask,
    mask_beside=mask_beside, mask_and_nodata=mask_and_nodata, alpha=alpha,
    five_bands_and_alpha=five_bands_and_alpha,
    alpha_and_overviews=alpha_and_overviews,
    alpha_and_nodata=alpha_and_nodata, png_with_alpha=png_with_alpha,
    scale_and_offset=scale_and_offset, jpeg_with_mask=jpeg_with_mask,
    world_file=world_file, nested_vrt=nested_vrt,
    ppm=picture('.ppm'), cmyk=picture('.jpg', 'CMYK'),
    grey=picture('.png', 'L'), one_bit=few_bits(1), two_bits=few_bits(2),
    four_bits=few_bits(4), uint16=plain(np.uint16, 0, 65535),
    int16=plain(np.int16, -3000, 3000), int32=plain(np.int32, -9999, 9999),
    uint32=plain(np.uint32), int64=plain(np.int64, -9999, 9999),
    float64=plain(np.float64), striped=plain(np.uint8, blockysize=1),
    one_block=plain(np.uint8, blockysize=SHAPE[0]),
    no_place=plain(np.uint8, crs=None, transform=Affine.identity()),
    rotated=plain(np.uint8, transform=PLACE @ Affine.rotation(30)),
    south_up=plain(np.uint8, transform=Affine(2, 0, 5e5, 0, 2, 4e6)),
    geographic=plain(np.uint8, crs='EPSG:4326',
                     transform=Affine(1e-5, 0, 13, 0, -1e-5, 50)),
    feet=plain(np.uint8, crs='EPSG:2264'))


# Doors ---------------------------------------------------------------------


def training(path, bands):
    read = raster_reader(path, bands=None, fill=[0.] * bands)
    return read(Window(0, 0, *SHAPE), 1)


def whole_scene(path, bands):
    results = dict(img_path=str(path), scene_shape=SHAPE)
    return ReadScene(bands)(results)['img'].transpose(2, 0, 1)


def prediction(path, bands):
    source = RasterSource([path], ModelBands(
        np.zeros((bands, 1, 1)), np.ones((bands, 1, 1)), (0., ) * bands))
    pixels, valid = source.reader().native(Window(0, 0, *SHAPE))
    pixels = pixels.numpy().astype(np.float64)
    np.testing.assert_array_equal(valid, ~np.isnan(pixels).all(axis=0))
    return pixels


DOORS = dict(training=training, whole_scene=whole_scene,
             prediction=prediction)


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('kind', KINDS)
def test_what_is_data(tmp_path, kind, door):
    path, image, known = KINDS[kind](tmp_path)
    found = DOORS[door](path, len(image))
    expected = np.where(known, image.astype(np.float64), np.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# What is refused -----------------------------------------------------------


def palette(folder):
    path = write(folder / 'a.tif', values(1, np.uint8))
    with rasterio.open(path, 'r+') as raster:
        raster.write_colormap(1, {1: (255, 0, 0, 255)})
    return path, 'gdal_translate -expand rgb'


def complex_numbers(folder):
    return write(folder / 'a.tif', values(1, np.complex64)), 'amplitudes'


def orientation(suffix, turn):
    def make(folder):
        exif = Image.Exif()
        exif[0x0112] = turn
        path = folder / f'a{suffix}'
        Image.fromarray(values(3, np.uint8).transpose(1, 2, 0)).save(
            path, exif=exif)
        return path, f'orientation {turn}.*turn the pixels'
    return make


def big_and_turned(folder):
    path = write(folder / 'a.tif', values(1, np.uint8), bigtiff='yes',
                 endianness='big')
    content = bytearray(path.read_bytes())
    # Its tag of the photometric kind becomes one of orientation.
    at = content.index(b'\x01\x06\x00\x03')
    content[at:at + 2] = b'\x01\x12'
    content[at + 12:at + 14] = b'\x00\x06'
    path.write_bytes(content)
    return path, 'orientation 6.*turn the pixels'


def pages(folder):
    """Several pictures in one file."""
    path = folder / 'a.tif'
    first, *others = [Image.fromarray(values(1, np.uint8)[0]).resize(size)
                      for size in ((60, 40), (60, 40), (50, 40))]
    first.save(path, save_all=True, append_images=others)
    return path, '3 pages.*gdal_translate GTIFF_DIR:1:'


def container(folder):
    path = folder / 'a.gpkg'
    for name in 'ab':
        with rasterio.open(
                path, 'w', driver='GPKG', count=1, height=SHAPE[0],
                width=SHAPE[1], dtype='uint8', crs='EPSG:32633',
                transform=PLACE, raster_table=name,
                append_subdataset='YES' if name == 'b' else 'NO') as raster:
            raster.write(values(1, np.uint8))
    return path, 'GPKG:.*:a.*gdal_translate'


REFUSED = dict(
    palette=palette, complex_numbers=complex_numbers, container=container,
    big_and_turned=big_and_turned, pages=pages,
    **{f'{suffix[1:]}_{turn}': orientation(suffix, turn)
       for suffix in ('.jpg', '.png', '.tif') for turn in range(2, 9)})


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('kind', REFUSED)
def test_what_is_refused(tmp_path, kind, door):
    path, remedy = REFUSED[kind](tmp_path)
    with pytest.raises(ValueError, match=f'(?s){Path(path).name}.*{remedy}'):
        DOORS[door](path, 3 if kind[:3] in ('jpg', 'png', 'tif') else 1)


# More ways to read ---------------------------------------------------------


@pytest.mark.parametrize('kind', (
    'five_bands_and_alpha', 'alpha', 'internal_mask', 'mask_beside'))
def test_chosen_bands_have_the_same_hole(tmp_path, kind):
    path, image, known = KINDS[kind](tmp_path)
    chosen, fill = (3, 1), (0., 0.)
    expected = np.where(known, image[[2, 0]].astype(np.float64), np.nan)
    whole = Window(0, 0, *SHAPE)
    read = raster_reader(path, bands=chosen, fill=fill)(whole, 1)
    source = RasterSource([path], ModelBands(
        np.zeros((2, 1, 1)), np.ones((2, 1, 1)), fill, chosen))
    found, _ = source.reader().native(whole)
    for pixels in read, found.numpy():
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('kind', (
    'nodata_value', 'nan', 'nan_and_nodata', 'nodata_of_each_band',
    'infinite', 'undeclared_and_huge', 'internal_mask', 'mask_beside',
    'mask_and_nodata', 'alpha', 'alpha_and_nodata', 'five_bands_and_alpha',
    'nested_vrt', 'uint16', 'south_up'))
def test_at_another_pixel_size_the_same_pixels_count(
        tmp_path, kind, monkeypatch):
    """In parts or at once: means of what is data, and no other holes."""
    path, image, _ = KINDS[kind](tmp_path)
    bands = ModelBands(*np.ones((2, len(image), 1, 1)), (0., ) * len(image))

    def read(size=None):
        source = RasterSource([path], bands, pixel_size=size)
        return source.reader().native(
            Window(0, 0, *source.shape))[0].numpy()

    native = read()
    if kind == 'south_up':
        native = native[:, ::-1]
    cells = native[:, :39].reshape(-1, 13, 3, 20, 3).swapaxes(2, 3)
    with warnings.catch_warnings(action='ignore'):  # cells without data
        expected = np.nanmean(cells, axis=(3, 4))
    for _ in range(2):
        np.testing.assert_allclose(read(6.), expected, rtol=1e-4)
        np.testing.assert_array_equal(
            np.isnan(read(1.)), np.isnan(native).repeat(2, 1).repeat(2, 2))
        monkeypatch.setattr(raster_source, 'AT_ONCE', 300)


@pytest.mark.parametrize('size', (1., 2., 4.))
@pytest.mark.parametrize('kind', (
    'rotated', 'nodata_value', 'alpha', 'internal_mask', 'mask_beside',
    'nan'))
def test_what_is_no_data_stays_so_at_another_pixel_size(tmp_path, kind, size):
    """A place is data where the pixel of the file under it is."""
    path, image, known = KINDS[kind](tmp_path)
    bands = len(image)
    source = RasterSource([path], ModelBands(
        np.zeros((bands, 1, 1)), np.ones((bands, 1, 1)), (0., ) * bands),
        pixel_size=size)
    pixels, valid = source.reader().native(Window(0, 0, *source.shape))
    with rasterio.open(path) as raster:
        native = ~raster.transform
    rows, columns = np.mgrid[:source.shape[0], :source.shape[1]] + 0.5
    x, y = native @ (source.transform @ (columns, rows))
    inside = (x >= 0) & (x < SHAPE[1]) & (y >= 0) & (y < SHAPE[0])
    expected = np.zeros(source.shape, bool)
    expected[inside] = known[y[inside].astype(int), x[inside].astype(int)]
    square = np.ones((5, 5), bool)  # at edges, part of a pixel may be data
    edge = binary_dilation(expected, square) & binary_dilation(
        ~expected, square)
    assert (valid.numpy() == expected)[~edge].all()
    assert (valid.numpy() == expected).mean() > 0.8
    assert pixels[:, ~valid].isnan().all()
    assert not pixels[:, valid].isnan().any()


def mosaic(folder, missing=True):
    """Tiles of 256 pixels, two by two, one of them missing, as a VRT."""
    tiles = ''
    for i in range(4):
        with rasterio.open(
                folder / f't{i}.tif', 'w', driver='GTiff', count=1,
                height=256, width=256, dtype='uint8') as raster:
            raster.write(np.full((1, 256, 256), 50 + i, np.uint8))
        tiles += (
            f'<SimpleSource><SourceFilename relativeToVRT="1">t{i}.tif'
            '</SourceFilename><SourceBand>1</SourceBand><SourceProperties '
            'RasterXSize="256" RasterYSize="256" DataType="Byte" '
            'BlockXSize="256" BlockYSize="32"/><SrcRect xOff="0" yOff="0" '
            f'xSize="256" ySize="256"/><DstRect xOff="{i % 2 * 256}" '
            f'yOff="{i // 2 * 256}" xSize="256" ySize="256"/></SimpleSource>')
    if missing:
        (folder / 't3.tif').unlink()
    path = folder / 'mosaic.vrt'
    path.write_text(
        '<VRTDataset rasterXSize="512" rasterYSize="512"><VRTRasterBand '
        f'dataType="Byte" band="1">{tiles}</VRTRasterBand></VRTDataset>')
    return path


ONE = ModelBands(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), (0., ))


def test_a_mosaic_that_is_not_whole_stops_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError,
                       match='mosaic.vrt.*t3.tif.*--on-error skip'):
        RasterSource([mosaic(tmp_path)], ONE)


def test_pixels_of_a_missing_tile_are_no_data(tmp_path):
    """All of them, whoever asks, in whichever order, and how often."""
    path = mosaic(tmp_path)
    for step in 512, 100:
        source = RasterSource([path], ONE, skip_damaged=True)
        reader = source.reader()
        valid = np.zeros((512, 512), bool)
        for _ in range(2):
            for top in range(0, 512, step):
                for left in range(0, 512, step):
                    part = Window(top, left, min(step, 512 - top),
                                  min(step, 512 - left))
                    valid[top:top + step, left:left + step] = (
                        reader.native(part)[1].numpy())
            expected = np.ones((512, 512), bool)
            expected[256:, 256:] = False
            np.testing.assert_array_equal(valid, expected)
        assert sum(w.height * w.width for w in source.damage.regions) == 256**2


def test_a_mosaic_that_is_not_whole_is_no_scene_to_train_on(tmp_path):
    with pytest.raises(FileNotFoundError, match='mosaic.vrt.*t3.tif'):
        raster_reader(mosaic(tmp_path), bands=None, fill=[0.])


def test_missing_files_of_a_mosaic_in_a_mosaic(tmp_path):
    """The outer one shows its lower half, twice as large."""
    mosaic(tmp_path)
    outer = tmp_path / 'outer.vrt'
    outer.write_text(
        '<VRTDataset rasterXSize="1024" rasterYSize="512"><VRTRasterBand '
        'dataType="Byte" band="1"><SimpleSource><SourceFilename '
        'relativeToVRT="1">mosaic.vrt</SourceFilename><SourceBand>1'
        '</SourceBand><SrcRect xOff="0" yOff="256" xSize="512" ySize="256"/>'
        '<DstRect xOff="0" yOff="0" xSize="1024" ySize="512"/>'
        '</SimpleSource></VRTRasterBand></VRTDataset>')
    (part, ) = missing_parts(outer, (512, 1024))
    assert Path(part.file).name == 't3.tif'
    assert part.window == Window(0, 512, 512, 512)
