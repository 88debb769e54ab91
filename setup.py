import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = next(
    line.split("'")[1]
    for line in (HERE / 'relay_seg' / '__init__.py').read_text().splitlines()
    if line.startswith('__version__'))
#: What mim looks for in relay_seg/.mim of an installation.
MIM = 'configs', 'tools', 'data_prep'
#: What only a checkout has a use for.
NOT_INSTALLED = shutil.ignore_patterns(
    '__pycache__', '*.pyc', 'sample', 'demo.*', 'docker', 'setup_env.sh',
    'run_tests.sh', 'wheelhouse.sh')


def description() -> str:
    """README.md; built on GitHub, with links that hold on an index, too."""
    text = (HERE / 'README.md').read_text()
    if home := os.environ.get('GITHUB_REPOSITORY'):
        # Images raw, the rest as pages; what has a scheme or an anchor stays.
        for before, kind in (r'(!\[[^]]*\]\()', 'raw'), (r'(\]\()', 'blob'):
            text = re.sub(
                before + r'(?!\w+:|#)',
                rf'\1https://github.com/{home}/{kind}/v{VERSION}/', text)
    return text


class BuildWithConfigsAndTools(build_py):
    """Puts configs and tools where mim and an installation have them.

    Into a wheel as copies; into a checkout that is installed as editable, as
    links.
    """

    def run(self) -> None:
        super().run()
        if getattr(self, 'editable_mode', False):
            self._link(HERE / 'relay_seg' / '.mim')
        else:
            self._copy(Path(self.build_lib) / 'relay_seg' / '.mim')

    @staticmethod
    def _link(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name in MIM:
            link = folder / name
            if link.is_symlink():
                link.unlink()
            try:
                link.symlink_to(Path('../..') / name)
            except OSError:  # a file system without links: only mim misses it
                return

    @staticmethod
    def _copy(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in MIM:
            shutil.copytree(HERE / name, folder / name, ignore=NOT_INSTALLED)


setup(
    name='relay-seg',
    version=VERSION,
    description='Relay tokens for MMSegmentation: segment images too large '
    'for one forward pass',
    long_description=description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE'],
    cmdclass={'build_py': BuildWithConfigsAndTools},
    packages=find_packages(include=['relay_seg', 'relay_seg.*']),
    package_data={
        'relay_seg': ['py.typed'],
        'relay_seg.sample_model': ['*.json', '*.md', '*.safetensors'],
        'relay_seg.viewing': ['page/*', 'page/leaflet/*']
    },
    entry_points=dict(console_scripts=['relay-seg = relay_seg.cli:main']),
    python_requires='>=3.10',
    install_requires=[
        # Pairs of torch and torchvision must fit: the upper bounds keep pip
        # from a torch that no torchvision was built for yet.
        'torch>=2.6,<2.15',
        'torchvision>=0.21,<0.30',
        'onedl-mmengine>=0.10.12,<0.11',
        'onedl-mmcv>=2.3.6,<2.4',
        'onedl-mmsegmentation>=1.4.2,<1.5',
        'onedl-mmpretrain>=1.3.6,<1.4',
        'rasterio>=1.3',
        'ftfy>=6',
        'safetensors>=0.4',
        'scipy>=1.6',
        'tensorboard>=2',
        # The converters in data_prep/ and prediction.
        'affine>=3',
        'pillow>=9.1',
        'pyogrio>=0.7',
        'rich>=13',
        'shapely>=2.1',
    ],
    extras_require={
        # RelayTimmViT: the first with DINOv3.
        'timm': ['timm>=1.0.20'],
        # tools/predict.py --polygons with .parquet
        'parquet': ['pyarrow>=14'],
        # tools/view.py
        'view': ['rio-tiler>=7'],
        # tools/predict.py --ray
        'ray': ['ray>=2.40'],
        # relay-seg completion
        'completion': ['shtab>=1.10'],
        # tools/export.py, and tools/predict.py --onnx. Older versions of
        # torch export otherwise.
        'export': ['onnx>=1.18', 'onnxruntime>=1.22', 'onnxscript>=0.5',
                   'torch>=2.9'],
        # Playwright drives an installed Chromium; it brings none.
        'test': ['pytest>=7', 'pytest-xdist>=3.5', 'hypothesis>=6',
                 'ruff==0.17.6', 'mypy==2.4.1', 'timm>=1.0.20',
                 'playwright>=1.40', 'build>=1', 'setuptools>=70.1,<81',
                 'codespell>=2.4', 'pyarrow>=14', 'pyyaml>=6',
                 'pystac[validation]>=1.13', 'ray>=2.40', 'shtab>=1.10',
                 'twine>=6'],
        # mkdocs build
        'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5,<10',
                 'mkdocstrings[python]>=0.27,<2'],
    },
)
