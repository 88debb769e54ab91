"""Files behind URLs: where they lie, and how they come there."""
import os
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.dist import barrier, is_main_process
from torch.hub import tqdm

from relay_seg.rasters.files import replacing

from .errors import CheckpointError

URLS = 'http://', 'https://', 'file://'
#: Names a folder where files are looked for before they are downloaded.
VARIABLE = 'RELAY_SEG_WEIGHTS'
PATIENCE = 60  # seconds without an answer


def local_file(source: str | Path, otherwise: str = '') -> Path:
    """Path of a file; one behind a URL is downloaded, once.

    A file of the URL's name is taken from the folder that the environment
    variable ``RELAY_SEG_WEIGHTS`` names, if it is there; else from torch's
    hub folder, where a download goes.

    Args:
        source: Local path or URL.
        otherwise: What else to do where there is no download, for the error.

    Raises:
        CheckpointError: The file is not here and cannot be had.
    """
    text = str(source)
    if not text.startswith(URLS):
        return Path(source).expanduser()
    url = urlparse(text)
    if url.scheme == 'file':
        return Path(url.path)
    name, given = Path(url.path).name, os.environ.get(VARIABLE)
    hub = Path(torch.hub.get_dir(), 'checkpoints')
    if given and not Path(given).expanduser().is_dir():
        raise CheckpointError(f'{VARIABLE}={given} is no folder; set it to '
                              'one that holds weight files, or to nothing.')
    for folder in ([Path(given).expanduser()] if given else []) + [hub]:
        if (folder / name).exists():
            return folder / name
    try:
        _download(text, hub / name)
    except (OSError, HTTPException) as error:
        place = (f'into {given} ({VARIABLE}) or into {hub}' if given else
                 f'into {hub}, or into a folder that the environment '
                 f'variable {VARIABLE} names')
        raise CheckpointError(
            f'{name} is not on this machine, and {text} was not downloaded '
            f'({error}). Check the address, or put {name} {place}'
            f'{otherwise}.') from None
    return hub / name


def fetch(source: str | Path, otherwise: str = '') -> Path:
    """As :func:`local_file`; of several processes, one downloads.

    All processes of a run must call it. The others find the file, or fail
    like the first.
    """
    if str(source).startswith(URLS):
        try:
            if is_main_process():
                local_file(source, otherwise)
        finally:
            barrier()
    return local_file(source, otherwise)


def _download(url: str, path: Path) -> None:
    """Download a file, which takes its name when it is whole.

    ``torch.hub`` takes a download that was cut for whole.
    """
    request = Request(url, headers={'User-Agent': 'relay_seg'})
    with (urlopen(request, timeout=PATIENCE) as answer,
          replacing(path) as unfinished):
        size = int(answer.headers.get('Content-Length') or 0)
        with (unfinished.open('wb') as file,
              tqdm(total=size or None, unit='B', unit_scale=True,
                   desc=path.name) as bar):
            while block := answer.read(2**20):
                file.write(block)
                bar.update(len(block))
        found = unfinished.stat().st_size
        if size and found != size:
            raise OSError(f'only {found:,} of its {size:,} bytes came')
