"""What docs/security.md says of files from strangers is so."""
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import rasterio
from mmengine.config import Config
from onnx import TensorProto, helper
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from relay_seg.export.onnx_model import open_session

PAGE = (Path(__file__).parents[1] / 'docs/security.md').read_text()
SKIP = PAGE.split('GDAL_SKIP="')[1].split('"')[0]
VRT = ('<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand '
       'dataType="Byte" band="1"{}><SimpleSource><SourceFilename>{}'
       '</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
       '</VRTRasterBand></VRTDataset>')
PYTHON = (' subClass="VRTDerivedRasterBand"><PixelFunctionType>f'
          '</PixelFunctionType><PixelFunctionLanguage>Python'
          '</PixelFunctionLanguage><PixelFunctionCode><![CDATA[\n'
          'import os\ndef f(*args, **kwargs):\n    os.mkdir({!r})\n'
          ']]></PixelFunctionCode')
WMS = ('<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/${z}'
       '</ServerUrl></Service><DataWindow><UpperLeftX>0</UpperLeftX>'
       '<UpperLeftY>0</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>1'
       '</LowerRightY><TileLevel>1</TileLevel><SizeX>8</SizeX><SizeY>8'
       '</SizeY></DataWindow><Projection>EPSG:4326</Projection></GDAL_WMS>')


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        yield


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / 'secret.tif'
    with rasterio.open(path, 'w', driver='GTiff', width=8, height=8, count=1,
                       dtype='uint8') as raster:
        raster.write(np.full((1, 8, 8), 7, np.uint8))
    return path


def test_a_config_is_a_program(tmp_path):
    marker, path = tmp_path / 'attacked', tmp_path / 'config.py'
    path.write_text(f'import os\nos.mkdir({str(marker)!r})\n')
    Config.fromfile(path)
    assert marker.is_dir()


def test_a_raster_is_what_it_holds_and_names_others(tmp_path, secret):
    path = tmp_path / 'scene.tif'
    path.write_text(VRT.format('', secret))
    with rasterio.open(path) as raster:
        assert raster.driver == 'VRT' and (raster.read() == 7).all()


def test_python_in_a_vrt_is_not_run(tmp_path, secret, monkeypatch):
    monkeypatch.delenv('GDAL_VRT_ENABLE_PYTHON', raising=False)
    marker, path = tmp_path / 'attacked', tmp_path / 'scene.vrt'
    path.write_text(VRT.format(PYTHON.format(str(marker)), secret))
    with rasterio.open(path) as raster, pytest.raises(RasterioIOError):
        raster.read()
    assert not marker.exists()


@pytest.mark.parametrize('content', [VRT.format('', 'secret.tif'), WMS],
                         ids=['vrt', 'wms'])
def test_formats_that_reach_further_can_be_left_out(
        tmp_path, secret, content):
    path = tmp_path / 'scene.tif'
    path.write_text(content)
    code = 'import sys, rasterio; rasterio.open(sys.argv[1])'
    for skip, word in (('', None), (SKIP, 'not recognized')):
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', code, str(path)],
            env=os.environ | dict(GDAL_SKIP=skip), text=True,
            capture_output=True)
        assert word in done.stderr if word else done.returncode == 0


@pytest.mark.parametrize('where', ['{}', '../{}'])
def test_an_onnx_file_reads_no_other(tmp_path, monkeypatch, where):
    pytest.importorskip('onnxruntime')
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    secret = tmp_path / 'secret.bin'
    secret.write_bytes(bytes(16))
    weight = TensorProto(name='w', data_type=1, dims=[4],
                         data_location=TensorProto.EXTERNAL)
    location = where.format(secret.name if '..' in where else secret)
    weight.external_data.add(key='location', value=location)
    ends = [helper.make_tensor_value_info(x, 1, [4]) for x in 'xy']
    graph = helper.make_graph(
        [helper.make_node('Add', ['x', 'w'], ['y'])], 'a', ends[:1], ends[1:],
        [weight])
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid('', 18)])
    onnx.save(model, 'model.onnx')
    with pytest.raises(ValueError, match='model.onnx cannot be read'):
        open_session(Path('model.onnx').read_bytes(), Path('model.onnx'),
                     'cpu')
