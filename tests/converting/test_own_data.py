"""Own data from end to end: the page as it stands, and unusual bands."""
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import custom
import numpy as np
import pytest
import rasterio
from affine import Affine
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from raw_folders import box_at, save_raster, save_vectors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'own_data.md'
SMALL = {'train_dataloader.batch_size': 2}
for loader in ('train', 'val', 'test'):
    SMALL[f'{loader}_dataloader.num_workers'] = 0
    SMALL[f'{loader}_dataloader.persistent_workers'] = False
SMALL = ['--cfg-options', *(f'{k}={v}' for k, v in SMALL.items())]
#: What makes a command of the page quick.
QUICK = {
    'data_prep/example.py': ['--longest', '200'],
    'data_prep/custom.py': ['--jobs', '1'],
    'tools/browse_views.py': [],
    'tools/predict.py': [],
    'tools/train.py': SMALL,
    'tools/test.py': SMALL,
}


def run(tool, *arguments):
    """Exit code of a tool, run in this process: starting takes seconds."""
    SegLocalVisualizer._instance_dict.clear()  # it logs to its first folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        try:
            runpy.run_path(tool, run_name='__main__')
        except SystemExit as end:
            return end.code or 0
    return 0


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the tools, where results go, as the working folder."""
    for name in ('tools', 'data_prep', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(title):
    """Commands of a worked example, in the order of the page."""
    (text, ) = (text for text in PAGE.read_text().split('\n## ')
                if text.startswith(title))
    for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            yield shlex.split(line, comments=True)


def work_through(title, quick):
    """Run a worked example; names of the tools and their exit codes.

    Two steps of training in place of hundreds; ``quick`` has small images,
    too.
    """
    ran = []
    for python, tool, *arguments in commands(title):
        assert python == 'python'
        arguments = [re.sub(r'^[13]00$|(?<=iter_)[13]00', '2', x)
                     for x in arguments] + (QUICK[tool] if quick else [])
        ran.append((Path(tool).stem, run(tool, *arguments)))
    return ran


SLOW = [True, pytest.param(False, marks=pytest.mark.slow)]
SLOW = pytest.mark.parametrize('quick', SLOW, ids=lambda quick: (
    'quick' if quick else 'whole images'))


@SLOW
def test_photographs_and_masks(checkout, capsys, quick):
    ran = work_through('Photographs and masks', quick)
    assert ran == [('example', 0), ('custom', 2), ('custom', 0),
                   ('custom', 0), ('train', 0), ('test', 0), ('predict', 0)]
    told = capsys.readouterr().out
    if not quick:  # what the page shows
        for text in PAGE.read_text().split('```text\n')[1:3]:
            for line in text.partition('```')[0].splitlines():
                if re.match(r' .*%|split', line):
                    assert line in told
    (results, ) = Path('work_dirs/rt_swin2_n_aerial').glob('results.json')
    assert {'mIoU', 'mF1', 'aAcc'} <= set(
        json.loads(results.read_text())['metrics'])
    with rasterio.open('maps/001_image.tif') as ids:
        assert ids.shape == Image.open('my_photos/001_image.jpg').size[::-1]


@SLOW
def test_geotiffs_and_polygons(checkout, quick):
    ran = work_through('GeoTIFFs and polygons', quick)
    assert ran == [(tool, 0) for tool in (
        'example', 'custom', 'browse_views', 'train', 'test', 'predict')]
    results = json.loads(
        (checkout / 'work_dirs/rt_swin2_n_town/results.json').read_text())
    assert {'mIoU', 'mF1', 'aAcc'} <= set(results['metrics'])
    assert np.asarray(Image.open('work_dirs/town_samples.png')).std() > 0
    assert [*Path('work_dirs/town_pictures').glob('*.png')]
    with (rasterio.open('maps/scene1.tif') as ids,
          rasterio.open('my_data/rasters/scene1.tif') as scene):
        assert ids.shape == scene.shape and ids.crs == scene.crs
        assert ids.transform == scene.transform
        assert ids.read(1).max() < 5  # classes everywhere


@pytest.mark.parametrize('kind, dtype, bands', [
    ('rt_', 'uint16', 16), ('', 'float32', 2)])
def test_bands_of_any_number_and_type_train_and_test(
        checkout, kind, dtype, bands):
    rng = np.random.default_rng(0)
    boxes, kinds = [], []
    for number in range(3):
        place = Affine(10, 0, 400000 + 10000 * number, 0, -10, 5000000)
        image = rng.random((bands, 140, 150))
        image[:, 20:90, 30:100] += 1
        nodata = 0 if dtype == 'uint16' else np.nan
        if dtype == 'uint16':
            image = 1 + 6000 * image
        image = image.astype(dtype)
        image[:, :15] = image[bands // 2, 60:80, 60:80] = nodata
        save_raster(checkout / f'raw/{number}.tif', image, place,
                    nodata=nodata)
        boxes.append(box_at(place, 30, 20, 100, 90))
        kinds.append('field')
    save_vectors(checkout / 'fields.gpkg', boxes, 'kind', kinds)
    assert custom.main([
        'raw', 'out', '--polygons', 'fields.gpkg', '--class-column', 'kind',
        '--background', 'other', '--test', '2', '--jobs', '1', '--model',
        'swin2_n', '--iterations', '2']) == 0
    config = f'out/configs/{kind}swin2_n_out.py'
    assert run('tools/browse_views.py', config, '-n', 2) == 0
    assert np.asarray(Image.open('samples.png')).std() > 10
    work = Path('work_dirs') / Path(config).stem
    assert run('tools/train.py', config, *SMALL) == 0
    log = next(work.glob('*/vis_data/scalars.json')).read_text()
    assert run('tools/test.py', config, work / 'iter_2.pth', '--out', 'ids',
               '--show-dir', 'pictures', *SMALL) == 0
    assert np.asarray(Image.open('pictures/2.png'))[40:, :140].std() > 10
    with rasterio.open('ids/2.tif') as raster:
        assert raster.shape == (140, 150)
        assert raster.read(1).max() < 2
    results = json.loads((work / 'results.json').read_text())
    assert np.isfinite(results['metrics']['mIoU'])
    losses = [json.loads(line).get('loss', 0) for line in log.splitlines()]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize('model', ['vit_s', 'swin2_t', 'dinov3_s'])
def test_configs_of_other_models_build(checkout, model):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    image = np.random.default_rng(0).random((7, 40, 50), np.float32)
    for number in range(2):
        place = Affine(1, 0, 1000 * number, 0, -1, 0)
        save_raster(checkout / f'raw/{number}.tif', image, place)
    save_vectors(checkout / 'p.gpkg', [box_at(
        Affine(1, 0, 1000 * n, 0, -1, 0), 2, 2, 20, 20) for n in range(2)],
        'kind', ['a', 'b'])
    assert custom.main([
        'raw', 'out', '--polygons', 'p.gpkg', '--class-column', 'kind',
        '--test', '1', '--jobs', '1', '--model', model]) == 0
    init_default_scope('mmseg')
    for kind in ('', 'rt_'):
        cfg = Config.fromfile(f'out/configs/{kind}{model}_out.py')
        cfg.model.decode_head.channels = 8
        segmentor = MODELS.build(cfg.model)
        stem = next(segmentor.backbone.patch_embed.parameters())
        assert stem.shape[1] == 7
        assert segmentor.decode_head.num_classes == 2
        assert cfg.train_cfg.max_iters == 20000
        assert cfg.param_scheduler[1].end == 20000


@pytest.mark.parametrize('photos', [[], ['--photos']])
def test_an_example_takes_the_place_of_nothing(checkout, photos):
    (checkout / 'mine').mkdir()
    (checkout / 'mine/town.gpkg').write_text('the only copy')
    assert run('data_prep/example.py', 'mine', *photos) == 2
    assert [p.name for p in (checkout / 'mine').iterdir()] == ['town.gpkg']
