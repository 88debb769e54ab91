"""What the command line asks for reaches every place of a config."""
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from test_tools import call, options

from relay_seg.config import (
    load_config,
    pixel_size,
    read_options,
    set_window,
)
from relay_seg.data_preprocessor import ViewsDataPreprocessor

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
RELAY = 'configs/relay/rt_swin2_n_dubai.py'


def config(name):
    return load_config(ROOT / f'configs/{name}.py')


def sampling(cfg):
    return [next(step for step in pipeline if step['type'] == 'SampleWindow')
            for pipeline in (cfg.train_dataloader.dataset.pipeline,
                             cfg.get('train_pipeline') or
                             cfg.train_dataloader.dataset.pipeline)]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_place_is_set(path):
    cfg = load_config(path, window=['512'], input_size=['256'])
    before = Config.fromfile(path)
    old = before.model.test_cfg
    assert cfg.model.test_cfg.crop_size == cfg.window == (512, 512)
    assert cfg.model.test_cfg.input_size == cfg.input_size == (256, 256)
    share = [step / side for step, side in zip(old.stride, old.crop_size)]
    assert cfg.model.test_cfg.stride == tuple(int(512 * x) for x in share)
    for step in sampling(cfg):
        assert tuple(step['window']) == (512, 512)
        assert tuple(step['input_size']) == (256, 256)
    if 'img_size' in before.model.backbone:
        assert cfg.model.backbone.img_size == 256
    if 'coverage' in cfg.train_dataloader.sampler:
        assert tuple(cfg.train_dataloader.sampler.window) == (512, 512)
    # What is written to the work dir says it, too.
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.window == (512, 512) and again.input_size == (256, 256)


@pytest.mark.parametrize('window, input_size, expected', [
    (['512'], None, ((512, 512), (512, 512))),
    (['512', '256'], None, ((512, 256), (512, 256))),
    (None, ['128'], ((256, 256), (128, 128))),
    (['128'], ['256'], ((128, 128), (256, 256))),
    (['384'], ['256'], ((384, 384), (256, 256))),
    (['64m'], None, ((128, 128), (128, 128))),
    (['128m'], ['128'], ((256, 256), (128, 128)))])
def test_sizes_follow_each_other(window, input_size, expected):
    cfg = config('relay/rt_vit_s_archaeoscape')
    set_window(cfg, window, input_size)
    assert (cfg.window, cfg.input_size) == expected
    if 1024 % expected[0][0] == 0:  # pixels stay as large
        set_window(cfg, [str(2 * side) for side in expected[0]])
        assert cfg.input_size == tuple(2 * side for side in expected[1])


@pytest.mark.parametrize('name, window, fits', [
    ('rt_swin2_s_gleason', '256', 8), ('rt_swin2_s_gleason', '224', 7),
    ('rt_swin2_s_gleason', '512', 8), ('rt_swin2_s_gleason', '384', 6),
    ('rt_swin2_s_gleason', '320', 10), ('rt_swin2_s_gleason', '64', 2),
    ('rt_swin2_n_dubai', '256', 4)])
def test_attention_windows_part_every_map(name, window, fits):
    cfg = load_config(ROOT / f'configs/relay/{name}.py', window=[window])
    backbone = cfg.model.backbone
    assert backbone.window_size == fits
    assert int(window) % (32 * fits) == 0
    before = Config.fromfile(ROOT / f'configs/relay/{name}.py').model.backbone
    changed = fits != before.window_size
    assert backbone.get('pretrained_window_sizes') == (
        [before.window_size] * 4 if changed else None)
    init_default_scope('mmseg')
    MODELS.build(backbone)


def test_attention_windows_of_each_stage():
    cfg = config('relay/rt_swin2_t_gleason')
    cfg.model.backbone.window_size = [16, 16, 16, 8]
    set_window(cfg, ['192'])
    assert cfg.model.backbone.window_size == [16, 12, 12, 6]


@pytest.mark.parametrize('name, window, input_size, message', [
    ('rt_swin2_s_gleason', ['100'], None, 'multiples of 32.*--input 96 96'),
    ('rt_vit_s_gleason', ['104'], None, 'RelayViT.*multiples of 16'),
    ('rt3_swin2_t_urur', ['112'], None, r'factors \(4, 16\).*multiples of 32'),
    ('rt_swin2_s_gleason', ['512', '256'], ['256'], 'squeezed'),
    ('rt_swin2_s_gleason', ['big'], None, "'big' is no size"),
    ('rt_swin2_s_gleason', ['1', '2', '3'], None, "'1 2 3' is no size"),
    ('rt_swin2_s_gleason', ['100.5'], None, 'no whole number of pixels'),
    ('rt_swin2_s_gleason', None, ['128m'], 'in metres; give pixels'),
    ('rt_swin2_s_gleason', ['128m'], None, 'do not say how large'),
    ('rt_swin2_s_archaeoscape', ['112.2m'], None,
     '224.4 pixels of 0.5 m; use 112m')])
def test_sizes_that_do_not_fit_are_named(name, window, input_size, message):
    with pytest.raises(ValueError, match=message):
        load_config(ROOT / f'configs/relay/{name}.py', window=window,
                    input_size=input_size)


@pytest.mark.parametrize('patch', [None, 14])
def test_patches_of_timm_stand_in_the_name(patch):
    """Where the config does not say them itself."""
    cfg = load_config(ROOT / 'configs/relay/rt_dinov2_s_gleason.py')
    cfg.model.backbone.patch_size = patch
    set_window(cfg, ['224'])
    assert cfg.model.backbone.img_size == 224
    with pytest.raises(ValueError, match='RelayTimmViT.*multiples of 56'):
        set_window(cfg, ['256'])


def test_whole_scenes_have_no_window():
    with pytest.raises(ValueError, match="mode 'whole'"):
        load_config(ROOT / RELAY, {'model.test_cfg.mode': 'whole'},
                    window=['256'])


def test_pixel_size_of_the_first_scene(scenes):
    cfg = config('relay/rt_swin2_n_dubai')
    cfg.train_dataloader.dataset.data_root = str(scenes)
    with pytest.raises(ValueError, match='a.tif.*how large'):
        pixel_size(cfg)
    for path in sorted((scenes / 'img_dir').glob('*/*.tif')):
        with rasterio.open(path, 'r+') as raster:
            raster.transform = Affine(0.25, 0, 0, 0, -0.25, 0)
            raster.crs = 'EPSG:32648'
    assert pixel_size(cfg) == 0.25
    set_window(cfg, ['32m'])
    assert cfg.window == (128, 128) and cfg.window_metres == (32., 32.)
    # Scenes with other pixels would have another window.
    init_default_scope('mmseg')
    DATASETS.build(cfg.train_dataloader.dataset)
    path = scenes / 'img_dir/train/b.tif'
    with rasterio.open(path, 'r+') as raster:
        raster.transform = Affine(0.3, 0, 0, 0, -0.3, 0)
    with pytest.raises(ValueError, match='b.tif.*0.3 m.*0.25'):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_window_in_micrometres(scenes):
    cfg = config('relay/rt_swin2_n_dubai')
    cfg.train_dataloader.dataset.data_root = str(scenes)
    for path in sorted((scenes / 'img_dir').glob('*/*.tif')):
        with rasterio.open(path, 'r+') as raster:
            raster.update_tags(
                TIFFTAG_XRESOLUTION='40000', TIFFTAG_YRESOLUTION='40000',
                TIFFTAG_RESOLUTIONUNIT='3')
    set_window(cfg, ['32um'])
    assert cfg.window == (128, 128)
    assert cfg.window_metres == pytest.approx((32e-6, 32e-6))
    with pytest.raises(ValueError, match='0.25 um; use 32.5um'):
        set_window(cfg, ['32.4um'])


def test_pipelines_can_be_built():
    cfg = load_config(ROOT / RELAY, window=['256'], input_size=['128'])
    init_default_scope('mmseg')
    step = TRANSFORMS.build(dict(sampling(cfg)[0]))
    assert (step.window, step.input_size) == ((256, 256), (128, 128))


# Statistics of the data


@pytest.fixture
def converted(tmp_path):
    scenes = [dict(split=split, bands=[
        dict(mean=100. + band, std=10. + band, valid=5) for band in range(4)])
        for split in ('train', 'val', 'test')]
    (tmp_path / 'manifest.json').write_text(json.dumps(dict(scenes=scenes)))
    return tmp_path


def test_mean_and_deviation_are_those_of_the_data(converted):
    cfg = load_config(
        ROOT / 'configs/released/rt_vit_s_archaeoscape.py',
        {'train_dataloader.dataset.data_root': str(converted)})
    scale = cfg.model.data_preprocessor
    assert list(scale.mean) == [100., 101., 102., 103.]
    assert list(scale.std) == [10., 11., 12., 13.]
    for pipeline in (cfg.train_dataloader.dataset.pipeline,
                     cfg.train_pipeline):
        read = next(s for s in pipeline if s['type'] == 'ReadViews')
        assert list(read['fill']) == [100., 101., 102., None]
    assert cfg.band_statistics is None  # numbers from here on
    assert 'None, None' not in cfg.pretty_text


def test_without_the_data_it_says_so():
    cfg = load_config(ROOT / 'configs/released/rt_vit_s_archaeoscape.py')
    init_default_scope('mmseg')
    scale = MODELS.build(cfg.model.data_preprocessor)
    with pytest.raises(ValueError, match='work dir.*convert the data'):
        scale.normalise([np.zeros(0)])
    with pytest.raises(ValueError, match='above zero'):
        ViewsDataPreprocessor([1.], [0.])


# Tools


def test_tools_take_window_and_input(module_scenes, tmp_path, capsys):
    sizes = '--window', 128, '--input', 64
    call('tools/train.py', RELAY, '--work-dir', tmp_path, *sizes,
         *options(module_scenes, 2))
    written = Config.fromfile(tmp_path / 'rt_swin2_n_dubai.py')
    assert written.window == (128, 128) and written.input_size == (64, 64)
    assert written.model.backbone.window_size == 2
    call('tools/test.py', RELAY, tmp_path / 'iter_2.pth', '--work-dir',
         tmp_path / 'test', '--out', tmp_path / 'ids', *sizes,
         *options(module_scenes))
    results = json.loads((tmp_path / 'test/results.json').read_text())
    assert results['protocol']['window'] == [128, 128]
    assert results['protocol']['input_size'] == [64, 64]
    assert results['protocol']['stride'] == [96, 96]
    scene = module_scenes / 'img_dir/test/a.tif'
    # As the command says; as the config in the work dir says.
    for name, chosen, extra in (
            ('command', RELAY, sizes),
            ('written', tmp_path / 'rt_swin2_n_dubai.py', ())):
        with pytest.raises(SystemExit) as ended:
            call('tools/predict.py', chosen, tmp_path / 'iter_2.pth', scene,
                 '-o', tmp_path / f'{name}.tif', *extra, '--cfg-options',
                 'model.decode_head.channels=8')
        assert ended.value.code == 0
        with (rasterio.open(tmp_path / f'{name}.tif') as found,
              rasterio.open(tmp_path / 'ids/a.tif') as tested):
            np.testing.assert_array_equal(found.read(), tested.read())
    capsys.readouterr()
    call('tools/describe.py', RELAY, *sizes)
    assert 'window 128 x 128 brought to 64 x 64' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='multiples of 32'):
        call('tools/train.py', RELAY, '--window', 100)
    call('tools/browse_views.py', RELAY, '--out', tmp_path / 'samples.png',
         '-n', 1, *sizes, *options(module_scenes))
    assert (tmp_path / 'samples.png').is_file()


# What a command line says


@pytest.mark.parametrize('option, value', [
    ('a=1', 1), ('a=1e-3', 1e-3), ('a=true', True), ('a=None', None),
    ('a=x=y', 'x=y'), ('a=1,2', [1, 2]), ('a=(1, 2)', (1, 2)),
    ('a=[(1, 2), [b, c d]]', [(1, 2), ['b', 'c d']]),
    ('a=/my data/a  b (2)', '/my data/a  b (2)')])
def test_options_are_those_of_the_host_with_their_spaces(option, value):
    assert read_options([option]) == {'a': value}


def test_spaces_reach_the_config_through_a_tool(scenes, tmp_path, capsys):
    folder = tmp_path / 'my own scenes'
    folder.mkdir()
    with pytest.raises((SystemExit, FileNotFoundError), match='my own scenes'):
        call('tools/train.py', RELAY, '--work-dir', tmp_path / 'run',
             *options(folder))


def test_an_option_without_a_value_is_named():
    with pytest.raises(ValueError, match="'lr' is no key=value"):
        read_options(['lr'])


@pytest.mark.parametrize('option, place', [
    ('data_root', 'train_dataloader.dataset.data_root'),
    ('max_iters', 'train_cfg.max_iters'),
    ('mean', 'model.data_preprocessor.mean'),
    ('dataset.type', 'train_dataloader.dataset.type'),
    ('nonsense', 'whole dotted name')])
def test_an_option_that_nothing_reads_is_refused(option, place):
    with pytest.raises(ValueError, match=f'{option}=.*nothing.*{place}'):
        load_config(ROOT / RELAY, {option: 1})


@pytest.mark.parametrize('option, value, message', [
    ('param_scheduler.7.end', 3, 'Index 7 exceeds the length'),
    ('param_scheduler.1.end', 'abc', 'a number there, 300'),
    ('train_cfg.max_iters', 'abc', 'max_iters=abc: .*a number there, 300'),
    ('optim_wrapper.optimizer.lr', 'abc', 'lr=abc: .*a number there, 0.001')])
def test_an_option_of_another_kind_is_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        load_config(ROOT / RELAY, {option: value})


def test_all_that_is_read_may_be_set():
    assert load_config(ROOT / RELAY, {'compile': True, 'sync_bn': 'torch'})


def test_hooks_that_a_command_line_drops_are_named(monkeypatch):
    said = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning',
                        lambda self, text, *args: said.append(text))
    load_config(ROOT / RELAY, {'custom_hooks.1.limit': 3})
    assert not said
    load_config(ROOT / RELAY, {'custom_hooks.1.type': 'EMAHook'})
    assert 'StopAfterBadSteps' in said[0] and 'default_hooks.NAME' in said[0]
    with pytest.raises(ValueError, match='default_hooks.NAME'):
        load_config(ROOT / RELAY, ['custom_hooks=[dict(type=EMAHook)]'])


def test_no_workers_do_not_persist():
    loader = load_config(ROOT / RELAY, {
        'train_dataloader.num_workers': 0}).train_dataloader
    assert not loader.persistent_workers
    assert load_config(ROOT / RELAY).train_dataloader.persistent_workers
