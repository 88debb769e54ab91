"""What the results were measured on, and what it can do at most."""
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

import torch
from measure import machine as in_a_line
from measure import seconds

from .correctness import compilers
from .records import Records
from .setting import Setting

PACKAGES = ('torch', 'torchvision', 'triton', 'numpy', 'rasterio',
            'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation',
            'onedl-mmpretrain')
#: FLOP/s of dense bf16 matrix products, by the name that the driver gives.
PEAKS = {
    r'H100 80GB HBM3$': 989e12,
    r'H200$': 989e12,
    r'A100': 312e12,
}
REPEATS = 10


def peak_of(name: str) -> float | None:
    """Peak rate of a device; None if it is not known."""
    return next((rate for pattern, rate in PEAKS.items()
                 if re.search(pattern, name)), None)


def gpu_facts() -> dict:
    """What the driver says of the first GPU."""
    name = torch.cuda.get_device_name(0)
    return dict(
        gpu=name, gpus=torch.cuda.device_count(), peak=peak_of(name),
        gpu_bytes=torch.cuda.get_device_properties(0).total_memory,
        capability=torch.cuda.get_device_capability(0),
        cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())


def machine(setting: Setting, records: Records) -> None:
    """Names, versions, sizes and rates of large matrix products."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    facts = dict(line=in_a_line(), smoke=setting.smoke, gpu=None,
                 python=platform.python_version(), cores=os.cpu_count(),
                 compilers=[*compilers()], packages=packages)
    if setting.device == 'cuda':
        facts |= gpu_facts()
    records.note(**facts)
    side = 256 if setting.smoke else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=setting.device).to(dtype)
                for _ in range(2))
        torch.mm(a, b)

        def products(a=a, b=b) -> None:
            for _ in range(REPEATS):
                torch.mm(a, b)

        rate = 2 * side**3 * REPEATS / seconds(products, setting.device)
        records.row('products', dtype=str(dtype).split('.')[1],
                    tflops=rate / 1e12)
