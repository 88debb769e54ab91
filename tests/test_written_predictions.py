"""What tools/test.py writes of each scene, and over what it does not."""
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from relay_seg.hooks import WritePredictions
from relay_seg.hooks.predictions import distinct

PALETTE = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


class Scenes(list):
    metainfo = dict(palette=PALETTE)
    pipeline = SimpleNamespace(transforms=[None])

    def get_data_info(self, i):
        return dict(img_path=self[i], seg_map_path=self[i].replace(
            'img', 'label').replace('.png', '.tif'))


@pytest.fixture
def scenes(tmp_path):
    """Scenes of one file name, of one stem, and one of its own."""
    found = Scenes()
    for name in ('a/scene.png', 'b/scene.png', 'b/scene.tif', 'b/other.png'):
        path = tmp_path / 'img' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8)).save(path)
        found.append(str(path))
        label = tmp_path / 'label' / name
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), 1).save(label.with_suffix('.tif'))
    return found


def write(scenes, value=None, **settings):
    hook = WritePredictions(**settings)
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=scenes))
    hook.before_test(runner)
    for i, path in enumerate(scenes):
        ids = torch.full((1, 8, 8), i % 3 if value is None else value)
        sample = SegDataSample(
            metainfo=dict(img_path=path), pred_sem_seg=PixelData(data=ids))
        hook.after_test_iter(runner, i, outputs=[sample])


def test_scenes_of_one_name_stay_apart(scenes, tmp_path):
    write(scenes, ids=tmp_path / 'ids', pictures=tmp_path / 'pictures')
    found = {}
    for path in (tmp_path / 'ids').rglob('*.tif'):
        with rasterio.open(path) as raster:
            found[str(path.relative_to(tmp_path / 'ids'))] = np.unique(
                raster.read()).tolist()
    assert found == {'a/scene.png.tif': [0], 'b/scene.png.tif': [1],
                     'b/scene.tif.tif': [2], 'b/other.png.tif': [0]}
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4


def test_names_are_as_short_as_can_be():
    assert distinct(['x/a.png', 'x/b.png']) == {
        'x/a.png': 'a', 'x/b.png': 'b'}
    assert distinct(['x/y/a.png', 'x/z/a.png']) == {
        'x/y/a.png': 'y/a', 'x/z/a.png': 'z/a'}


def test_scenes_and_labels_are_never_written_over(scenes, tmp_path):
    one = Scenes(scenes[:1])
    label = tmp_path / 'label/a/scene.tif'
    for settings in (dict(ids=tmp_path / 'label/a'),
                     dict(pictures=tmp_path / 'img/a')):
        before = label.read_bytes(), (tmp_path / 'img/a/scene.png'
                                      ).read_bytes()
        with pytest.raises(ValueError, match='scene.*input'):
            write(one, overwrite=True, **settings)
        assert before == (label.read_bytes(), (
            tmp_path / 'img/a/scene.png').read_bytes())


@pytest.mark.parametrize('what, name', [
    ('ids', 'scene.tif'), ('pictures', 'scene.png')])
def test_files_of_others_stay_unless_asked_for(scenes, tmp_path, what, name):
    one = Scenes(scenes[:1])
    mine = tmp_path / 'out' / name
    mine.parent.mkdir()
    Image.new('L', (8, 8), 9).save(mine)
    before = mine.read_bytes()
    with pytest.raises(ValueError, match=f'{name}.*--overwrite'):
        write(one, **{what: mine.parent})
    assert mine.read_bytes() == before
    write(one, overwrite=True, **{what: mine.parent})
    first = mine.read_bytes()
    assert first != before
    write(one, 2, **{what: mine.parent})  # it is a prediction now
    assert mine.read_bytes() != first
